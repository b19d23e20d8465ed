"""The trainer's routes without a cluster, its command lines, and what it tells of a job."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys

import pytest
from pydantic import ValidationError
from ray.job_submission import JobDetails, JobStatus, JobType
from registry_cases import registered
from scripted_server import cut, scripted
from serving import JSON_TYPE, ask, plain_service

from appliance.access_keys import add_key
from appliance.errors import ConfigError
from serve_app.app import build_app
from serve_app.settings import ServiceSettings
from serve_app.training import jobs
from serve_app.training.answers import BY, MARK, training_of
from serve_app.training.requests import TrainRequest

GOOD = {"data": "/data/shelves#train", "register": "fridge"}


@pytest.fixture(scope="module")
def trainer(tiny_model_path, tmp_path_factory):
    """A service with a trainer and without a cluster: its address, the headers of an admin and of another key."""
    folder = tmp_path_factory.mktemp("trainer")
    keys = folder / "keys.txt"
    headers = [
        {"Authorization": f"Bearer {add_key(keys, name, admin=admin)}", **JSON_TYPE}
        for name, admin in (("ops", True), ("shop", False))
    ]
    registry = registered(folder / "models", tiny_model_path).root_uri
    with plain_service(tiny_model_path, trainer=True, key_file=str(keys), registry=registry) as url:
        yield url, *headers


def refusal(url, body=None, method="POST", headers=None):
    data = None if body is None else json.dumps(body)
    status, _, answer = ask(url, method, data, headers or JSON_TYPE)
    return status, answer["error"]["code"], answer["error"]["message"]


# --- who may ask -----------------------------------------------------------------------------------

ROUTES = (
    ("POST", "/v1/train"),
    ("GET", "/v1/train"),
    ("GET", "/v1/train/train-1"),
    ("GET", "/v1/train/train-1/logs"),
    ("DELETE", "/v1/train/train-1"),
)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_only_an_admin_key_opens_the_trainer(trainer, method, path):
    url, admin, other = trainer
    assert refusal(url + path, GOOD, method)[:2] == (401, "unauthorized")
    wrong = {"Authorization": "Bearer dak_wrong"}
    assert refusal(url + path, GOOD, method, wrong)[:2] == (401, "unauthorized")
    assert refusal(url + path, GOOD, method, other)[:2] == (403, "forbidden")
    assert refusal(url + path, GOOD, method, admin) == (
        *(503, "no_jobs_api"),
        "The cluster of this service takes no jobs, so nothing can be trained on it",
    )


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_service_without_a_trainer_has_none(service_url, method, path):
    assert refusal(service_url + path, GOOD, method) == (
        *(404, "trainer_off", "This service does not train"),
    )


def test_a_trainer_does_not_start_without_an_admin_key(tiny_model_path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    keys = tmp_path / "keys.txt"
    settings = {"model": str(tiny_model_path), "trainer": True}
    for given in ({}, {"keys": "secret"}):
        with pytest.raises(ConfigError, match=r"an admin key \(got no key file\)"):
            build_app(ServiceSettings(**settings, **given))
    add_key(keys, "shop")
    with pytest.raises(ConfigError, match="wants a key file with an admin key") as caught:
        build_app(ServiceSettings(**settings, key_file=str(keys)))
    assert "`appliance keys new NAME --admin --file keys.txt`" in caught.value.hint
    add_key(keys, "ops", admin=True)
    (bound,) = build_app(
        ServiceSettings(**settings, key_file=str(keys))
    )._bound_deployment.init_args
    home = tmp_path / "home" / "detection-appliance"
    assert (bound.trainer_dir, bound.registry) == (str(home / "trainings"), str(home / "models"))


# --- what they may ask -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"data": "shelves"}, "data: Value error, must be an absolute path or an address"),
        ({"data": "/a\nb"}, "data: Value error, holds characters that cannot be printed"),
        ({"data": "/" + 1024 * "a"}, "data: String should have at most 1024 characters"),
        ({"data": None}, "data: Input should be a valid string"),
        ({"register": "My Model"}, "register: Value error, That is no name for a model"),
        ({"promote": "production"}, "Value error, promote and test go together"),
        ({"min_gain": 0.1}, "Value error, min_gain is for promote"),
        ({"settings": {"--out": "/etc/passwd"}}, "'--out' is no name of a setting"),
        ({"settings": ["steps"]}, "settings: Input should be a valid dictionary"),
        ({"workers": "2;ls"}, "workers: String should match pattern"),
        ({"working_dir": "/"}, "working_dir: Extra inputs are not permitted"),
        ({"init": "shapes:7"}, "init: The model shapes has no such version"),
        ({"init": "nobody@production"}, "init: There is no model of that name in the registry"),
    ],
)
def test_what_is_wrong_is_told_before_there_is_a_job(trainer, wrong, sentence):
    url, admin, _ = trainer
    status, code, message = refusal(f"{url}/v1/train", {**GOOD, **wrong}, headers=admin)
    assert (status, code) == (422, "invalid_body")
    assert sentence in message


def test_bodies_that_are_no_request(trainer):
    url, admin, _ = trainer
    assert refusal(f"{url}/v1/train", [GOOD], headers=admin)[:2] == (422, "invalid_body")
    large = {**GOOD, "settings": {"a": "x" * 2**16}}
    assert refusal(f"{url}/v1/train", large, headers=admin)[:2] == (413, "body_too_large")
    text = {**admin, "Content-Type": "text/plain"}
    assert refusal(f"{url}/v1/train", GOOD, headers=text)[0] == 415


def test_a_body_that_does_not_come_is_not_waited_for(trainer):
    url, admin, _ = trainer
    host, port = url.removeprefix("http://").split(":")
    lines = ["POST /v1/train HTTP/1.1", f"Host: {host}", "Content-Length: 10"]
    lines += [f"{name}: {value}" for name, value in admin.items()]
    with socket.create_connection((host, int(port)), 20) as connection:
        connection.sendall("\r\n".join([*lines, "X-Request-Timeout-Ms: 50", "", "{"]).encode())
        assert b" 408 " in connection.recv(200)


@pytest.mark.parametrize("answer", [(500, "<title>Broken</title>"), cut])
def test_a_cluster_that_fails_is_one_sentence(trainer, monkeypatch, answer):
    url, admin, _ = trainer
    with scripted(answer) as dashboard:
        address = dashboard.url.removeprefix("http://")
        monkeypatch.setattr(jobs, "jobs_address", lambda: address)
        status, code, message = refusal(f"{url}/v1/train", GOOD, headers=admin)
    assert (status, code) == (503, "cluster_unavailable")
    assert message.startswith("The cluster does not answer about trainings: ")


def test_a_job_that_ray_cannot_tell_of_is_no_training_that_is_missing():
    class Failing:
        def get_job_info(self, _):
            raise RuntimeError("Request failed with status code 500: broken.")

    with pytest.raises(RuntimeError, match="500"):
        jobs.found_training(Failing(), "train-1")


def test_no_value_of_a_request_is_more_than_one_word_to_a_shell(tmp_path):
    marker = tmp_path / "marker"
    evil = f"'; touch {marker}; $(touch {marker}) `touch {marker}` \" --no-check"
    request = TrainRequest(
        data=f"/data/{evil}",
        register="fridge",
        init=f"--out={evil}",
        settings={"labels": [evil], "steps": 3},
        validation=f"s3://bucket/{evil}",
        gpu=True,
        check=False,
        workers="1:2",
        promote="production",
        test=f"/{evil}",
        min_gain=0.01,
    )
    line = request.command_line(run_dir="/r/run", out="/r/m", registry="/models")
    seen = subprocess.run(
        ["sh", "-c", "show() { printf '%s\\n' \"$@\"; }; show " + line],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert seen == [
        *(sys.executable, "-P", "-m", "jobs.train", "--json", "--run-dir=/r/run", "--out=/r/m"),
        *("--registry=/models", "--register=fridge", f"--init=--out={evil}"),
        *(f"--validation=s3://bucket/{evil}", "--format=auto", "--workers=1:2"),
        *("--promote=production", f"--test=/{evil}", "--min-gain=0.01"),
        *(f"--set=labels={json.dumps([evil])}", "--set=steps=3", "--gpu", "--no-check"),
        *("--", f"/data/{evil}"),
    ]
    assert shlex.split(line) == seen
    assert not marker.exists()


def test_a_lone_half_of_a_character_is_refused():
    with pytest.raises(ValidationError):
        TrainRequest(data="/\ud800", register="fridge")


# --- what is told of a job -------------------------------------------------------------------------


def job(status, message="", **facts):
    metadata = {MARK: json.dumps(GOOD), BY: "ops"}
    values = {"submission_id": "train-1", "start_time": 1000, "metadata": metadata, **facts}
    return JobDetails(
        type=JobType.SUBMISSION, status=status, entrypoint="e", message=message, **values
    )


def test_what_a_job_of_ray_tells_of_a_training():
    waiting = training_of(job(JobStatus.RUNNING), "Settings: ...\nno room yet: waited 60 s\n\n")
    assert (waiting.status, waiting.by, waiting.request) == ("running", "ops", GOOD)
    assert waiting.says == "no room yet: waited 60 s"
    assert (waiting.started_at, waiting.ended_at) == ("1970-01-01T00:00:01+00:00", None)
    result = json.dumps({"registered": "fridge:8", "promotion": {"promoted": True}})
    done = training_of(job(JobStatus.SUCCEEDED, end_time=2000), f"step 3 of 3\n{result}\n")
    assert (done.status, done.says, done.registered) == ("succeeded", "step 3 of 3", "fridge:8")
    assert done.promotion == {"promoted": True}
    assert done.ended_at == "1970-01-01T00:00:02+00:00"
    odd = training_of(job(JobStatus.SUCCEEDED), "{no JSON\n")
    assert (odd.says, odd.registered) == ("{no JSON", None)
    assert training_of(job(JobStatus.STOPPED)).status == "cancelled"
    # In a list there is no log, but its end in the message of a job that has failed.
    message = "Job entrypoint command failed with exit code 1, last available logs:\nerror: No such"
    assert training_of(job(JobStatus.FAILED, message)).error == "No such"
    assert training_of(job(JobStatus.FAILED, message), "error: Mine\n").error == "Mine"
    assert training_of(job(JobStatus.FAILED, "Killed\nmore"), "step 1\n").error == "Killed"
    assert training_of(job(JobStatus.FAILED)).error == "no reason is known"
    assert training_of(job(JobStatus.RUNNING, metadata={})) is None
    assert training_of(job(JobStatus.RUNNING, submission_id=None)) is None
