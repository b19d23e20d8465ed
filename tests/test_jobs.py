"""A job goes through the Jobs API to a real head, as `ray job submit` sends it."""

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import pytest
import yaml
from factories import jpeg_bytes
from promotion_cases import NETWORK, STANDSTILL, two_models
from service_load import wait_for
from serving import plain_service

from appliance.access_keys import add_key
from appliance.client import Client
from appliance.errors import ServiceRefusalError
from appliance.registry.registry import Registry
from serve_app.training import jobs as trainer_jobs

REPOSITORY = Path(__file__).resolve().parents[1]
# What a job does not need: the upload may have 100 MiB.
EXCLUDES = [".venv", ".git", ".cache", "demo", "runs", "build", "benchmarks/results", "__pycache__"]


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def start_head(environment, folder):
    """A head on ports that were free a moment ago, and the address of its dashboard; None if one is taken."""
    port, dashboard_port, agent_port, client_port = free_ports(4)
    command = [
        Path(sys.executable).with_name("ray"), "start", "--head", "--block",
        f"--port={port}", f"--dashboard-port={dashboard_port}",
        f"--dashboard-agent-listen-port={agent_port}", f"--ray-client-server-port={client_port}",
        "--num-cpus=2", f"--object-store-memory={100 * 2**20}", f"--temp-dir={folder}",
        "--disable-usage-stats",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    started = any("--block" in line for line in process.stdout)
    return (process, f"http://127.0.0.1:{dashboard_port}") if started else None


@pytest.fixture(scope="module")
def head():
    """The dashboard address of a head of its own, and its token."""
    token = secrets.token_hex(32)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        # Ray wants numbers of ports beforehand, and another program may be quicker: then once more.
        process, address = start_head(environment, folder) or start_head(environment, folder)
        with process:
            children = psutil.Process(process.pid).children(recursive=True)
            yield address, token
            process.send_signal(signal.SIGINT)  # Ctrl-C; at SIGTERM it drains for half a minute
            process.communicate(timeout=60)
        _, left = psutil.wait_procs(children, timeout=60)
        assert left == []


@pytest.fixture(scope="module")
def jobs(head):
    from ray.job_submission import JobSubmissionClient

    address, token = head
    return JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"})


def run_job(jobs, *arguments):
    """Submits a job, follows it to its end; its status and all it wrote."""
    job_id = jobs.submit_job(
        entrypoint=" ".join([sys.executable, "-m", *map(str, arguments)]),
        runtime_env={"working_dir": str(REPOSITORY), "excludes": EXCLUDES},
    )

    async def follow():
        return "".join([lines async for lines in jobs.tail_job_logs(job_id)])

    log = asyncio.run(follow())
    return jobs.get_job_status(job_id), log


@pytest.mark.timeout(300)
def test_a_submitted_job_scores_a_folder(jobs, tiny_model_path, tmp_path):
    from appliance.bulk.scores.manifest import read_records

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(5):
        (pictures / f"{seed}.jpg").write_bytes(jpeg_bytes(seed=seed))
    (pictures / "broken.jpg").write_bytes(b"no picture")
    output = tmp_path / "scores"
    status, log = run_job(jobs, "jobs.batch_score", tiny_model_path, pictures, output, "--json")
    assert status == "SUCCEEDED"
    summary = json.loads(log.strip().splitlines()[-1])
    assert (summary["images"], summary["rows"]) == (6, 6)
    assert summary["errors_by_kind"] == {"unreadable": 1}
    assert [Path(record.image_uri).name for record in read_records(output)] == [
        *(f"{seed}.jpg" for seed in range(5)),
        "broken.jpg",
    ]


@pytest.mark.timeout(300)
def test_a_submitted_job_trains(jobs, tiny_scenes_dir, tiny_model_path, tmp_path):
    from appliance.model import model_file
    from appliance.training.runs import summarise

    data, run_dir, model = tiny_scenes_dir / "train", tmp_path / "run", tmp_path / "m.safetensors"
    status, log = run_job(
        *(jobs, "jobs.train", data, "--init", tiny_model_path, "--run-dir", run_dir),
        *("--out", model, "--steps", 2, "--workers", 2, "--batch-size", 2, "--json"),
    )
    assert status == "SUCCEEDED", log
    trained = json.loads(log.strip().splitlines()[-1])
    assert (trained["step"], trained["model"]) == (2, str(model))
    # What was trained with is shown, and stays with the model.
    settings = model_file.load(str(model)).info.training
    assert settings == trained["plan"]["config"]
    assert "Settings: steps 2, " in log
    run = summarise(str(run_dir))
    assert (run.status, run.step, run.model) == ("finished", 2, str(model))


@pytest.mark.timeout(300)
def test_a_job_with_a_mistake_fails_with_one_sentence(jobs, tiny_model_path, tmp_path):
    status, log = run_job(
        jobs, "jobs.batch_score", tiny_model_path, tmp_path / "no", tmp_path / "out"
    )
    assert status == "FAILED"
    assert f"error: No such folder: {tmp_path / 'no'}" in log
    assert "Traceback" not in log


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", ["/api/jobs/", "/api/version", "/nodes?view=summary"])
def test_dashboard_and_jobs_api_answer_nobody_without_the_token(head, path):
    address, token = head
    for headers in ({}, {"Authorization": "Bearer another"}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(address + path, headers=headers))
        assert refused.value.code in ((401,) if not headers else (401, 403))
    known = urllib.request.Request(address + path, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(known) as answer:
        assert answer.status == 200


@pytest.mark.timeout(300)
def test_the_check_of_a_cluster_sees_that_its_dashboard_asks_for_a_token(head):
    from appliance.on_ray.cluster_check import protection_of

    assert protection_of(head[0].removeprefix("http://")) == "token"


# --- the trainer of a service, whose replica is this process ----------------------------------------


@pytest.fixture
def trainer(jobs, tiny_model_path, tmp_path, monkeypatch):
    """The address of a service that trains on the head, with its admin key in APPLIANCE_KEY."""
    monkeypatch.setattr(trainer_jobs, "job_client", lambda: jobs)
    monkeypatch.setenv("APPLIANCE_KEY", add_key(tmp_path / "keys.txt", "ops", admin=True))
    settings = {
        "key_file": str(tmp_path / "keys.txt"),
        "trainer_dir": str(tmp_path / "trainings"),
        "registry": str(tmp_path / "models"),
    }
    with plain_service(tiny_model_path, trainer=True, **settings) as url:
        yield url


@pytest.mark.timeout(300)
def test_the_trainer_trains_promotes_waits_fails_and_cancels(
    trainer, jobs, tiny_model_path, tmp_path, run_appliance, capsys
):
    models = two_models(tiny_model_path, tmp_path)
    registry = Registry(tmp_path / "models")
    for model in (models.wrong, models.right):
        registry.add("shapes", model)
    assert run_appliance("models", "promote", "shapes:1", "--registry", registry.root_uri) == 0
    marker = tmp_path / "marker"
    with Client(trainer) as client:
        # What a shell must not make of it, and a setting that there is not.
        evil = f"/nowhere'; touch {marker}; $(touch {marker})"
        wrong = client.trainings.submit(evil, "shapes", settings={"stepps": f"`touch {marker}`"})
        # The head has two CPUs.
        large = {**NETWORK, **STANDSTILL, "batch_size": 3}
        waiting = client.trainings.submit(
            str(models.data), "shapes", workers="3", check=False, settings=large
        )
        assert (waiting.by, waiting.request["workers"]) == ("ops", "3")

        (tmp_path / "train.yaml").write_text(yaml.safe_dump({**NETWORK, "learning_rate": 0.1}))
        command = [
            *("train", models.data, "--on", trainer, "--config", tmp_path / "train.yaml"),
            *(f"--set={name}={value}" for name, value in STANDSTILL.items()),
            *("--init", "shapes:2", "--no-check", "--register", "shapes"),
            *("--promote", "production", "--test", models.data),
        ]
        capsys.readouterr()
        assert run_appliance(*command) == 0
        out, err = capsys.readouterr()
        assert "It is shapes:3 in the registry.\nshapes@production is version 3 now: mAP" in out
        assert f" has begun on {trainer}\n" in err
        assert "step 1 of 1: loss " in err
        assert '{"model"' not in out + err  # that is for programs
        assert dict(registry.entry("shapes").aliases) == {"production": 3}
        trained = client.trainings.list()[0]
        assert (trained.status, trained.registered) == ("succeeded", None)
        trained = client.trainings.get(trained.id)
        assert (trained.registered, trained.promotion["promoted"]) == ("shapes:3", True)

        failed = wait_for(lambda: ended(client, wrong.id))
        assert failed.status == "failed"
        assert "Did you mean 'steps'" in failed.error
        assert not marker.exists()

        waiting = wait_for(lambda: saying(client, waiting.id, "room"))
        told = client.trainings.log(waiting.id).text
        assert "the cluster has room for 2 of 3 workers with 1 CPUs each; waiting for more" in told
        assert run_appliance("trainings", "cancel", waiting.id, "--on", trainer) == 0
        cancelled = wait_for(lambda: ended(client, waiting.id))
        assert cancelled.status == "cancelled"
        assert client.trainings.cancel(waiting.id).ended_at == cancelled.ended_at  # as it was

        for unknown in ("train-1", "raysubmit_1"):
            with pytest.raises(ServiceRefusalError, match="There is no training of this name"):
                client.trainings.get(unknown)
        jobs.submit_job(entrypoint="true", submission_id="train-of-somebody-else")
        with pytest.raises(ServiceRefusalError, match="There is no training of this name"):
            client.trainings.get("train-of-somebody-else")
        assert {one.id for one in client.trainings.list()} == {trained.id, wrong.id, waiting.id}
    capsys.readouterr()
    assert run_appliance("trainings", "logs", wrong.id, "--on", trainer, "--follow") == 1
    # In the log, and as what came of it.
    assert capsys.readouterr().err.count("Did you mean 'steps'") == 2
    assert len(registry.entry("shapes").versions) == 3


def ended(client, training_id):
    found = client.trainings.get(training_id)
    return found if found.has_ended else None


def saying(client, training_id, word):
    found = client.trainings.get(training_id)
    assert not found.has_ended, found
    return found if word in (found.says or "") else None


def test_more_settings_than_a_command_line_takes_are_refused(trainer):
    with Client(trainer) as client, pytest.raises(ServiceRefusalError, match="too long") as refused:
        client.trainings.submit("/data", "shapes", settings={"a": 30_000 * "'"})
    assert (refused.value.status, refused.value.code) == (413, "too_many_settings")
