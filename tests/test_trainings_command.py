"""`appliance train --on`, `appliance trainings` and the client's `trainings`, against a server that answers as told."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial

import pytest
from aiohttp import web
from scripted_server import cut, error, scripted

from appliance.client import AsyncClient, Client, TrainingInfo, trainings
from appliance.errors import ForeignAnswerError, ServiceUnreachableError

ID = "train-20261128-181500-3f9a2c"
BEGUN = {
    "id": ID,
    "status": "pending",
    "by": "ops",
    "request": {"data": "/data", "register": "fridge"},
    "started_at": "2026-11-28T18:15:00+00:00",
    "ended_at": None,
    "says": None,
    "error": None,
    "registered": None,
    "promotion": None,
    "of a later service": 1,
}
RUNNING = {**BEGUN, "status": "running", "says": "step 3 of 9"}
DONE = {
    **BEGUN,
    "status": "succeeded",
    "registered": "fridge:8",
    "promotion": {"promoted": True, "sentence": "fridge@production is version 8 now."},
}
FAILED = {**BEGUN, "status": "failed", "error": "No such folder: /data"}


def log(text, following, *, is_last):
    async def answer(_):
        headers = {"X-Next-Offset": str(following), "X-Log-Complete": str(is_last).lower()}
        return web.Response(text=text, headers=headers)

    return answer


@pytest.fixture
def command(run_appliance, capsys, monkeypatch):
    """Runs a command on a server with these answers: exit code, output, errors, and the server."""
    monkeypatch.setattr(trainings, "POLL_S", 0.0)
    for kind in (trainings.Trainings, trainings.AsyncTrainings):
        monkeypatch.setattr(kind, "follow", partial_method(kind.follow, poll_s=0.0))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words, answers):
        with scripted(*answers) as server:
            code = run_appliance(*words, "--on", server.url)
        printed = capsys.readouterr()
        return code, printed.out, printed.err.replace(server.url, "URL"), server

    return run


def partial_method(method, **options):
    return lambda *arguments: method(*arguments, **options)


def test_train_on_a_service_sends_what_was_typed_and_follows_it(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.yaml").write_text("steps: 300\nlearning_rate: 0.1\nbackbone: resnet18\n")
    (tmp_path / "weights").write_text("")
    words = [
        *("train", "shelves#train", "--config", "train.yaml", "--epochs", 2, "--init", "weights"),
        *("--set", "optimizer=adamw", "--workers", "1:2", "--register", "fridge", "--no-check"),
        *("--promote", "production", "--test", "s3://bucket/test", "--min-gain", 0.01),
        *("--batch-size", 2),
    ]
    pieces = (
        log("step 1 of 2\nst", 14, is_last=False),
        log('ep 2 of 2\n{"a": 1}', 32, is_last=True),
    )
    code, out, err, server = command(*words, answers=[(202, BEGUN), *pieces, (200, DONE)])
    assert (code, out) == (
        0,
        "It is fridge:8 in the registry.\nfridge@production is version 8 now.\n",
    )
    assert err == f"{ID} has begun on URL\nstep 1 of 2\nstep 2 of 2\n"
    assert server.paths == [
        "/v1/train",
        f"/v1/train/{ID}/logs?offset=0",
        f"/v1/train/{ID}/logs?offset=14",
        f"/v1/train/{ID}",
    ]
    assert json.loads(server.requests[0][3]) == {
        "data": str(tmp_path / "shelves#train"),
        "register": "fridge",
        "init": str(tmp_path / "weights"),
        "settings": {
            "steps": None,
            "epochs": 2,
            "batch_size": 2,
            "learning_rate": 0.1,
            "optimizer": "adamw",
            "backbone": "resnet18",
        },
        "format": "auto",
        "workers": "1:2",
        "gpu": False,
        "check": False,
        "promote": "production",
        "test": "s3://bucket/test",
        "min_gain": 0.01,
    }


def test_quiet_and_json_leave_one_document(command):
    words = ("train", "/data", "--register", "fridge", "--quiet", "--json")
    answers = [(202, BEGUN), log("step 1 of 2\n", 12, is_last=True), (200, DONE)]
    code, out, err, _ = command(*words, answers=answers)
    assert (code, err) == (0, f"{ID} has begun on URL\n")
    assert json.loads(out)["registered"] == "fridge:8"


def test_a_training_that_fails_or_is_cancelled_ends_in_exit_code_1(command):
    words = ("train", "/data", "--register", "fridge")
    end = log("", 0, is_last=True)
    code, out, err, _ = command(*words, answers=[(202, BEGUN), end, (200, FAILED)])
    assert (code, out) == (1, "")
    assert err.endswith("error: No such folder: /data\n")
    cancelled = {**BEGUN, "status": "cancelled"}
    code, _, err, _ = command(*words, answers=[(202, BEGUN), end, (200, cancelled)])
    assert (code, err.splitlines()[-1]) == (1, f"error: {ID} was cancelled")


def test_ctrl_c_stops_following_and_says_how_to_go_on(command, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    answers = [(202, BEGUN), log("step 1 of 2\n", 12, is_last=False)]
    code, _, err, server = command("train", "/data", "--register", "fridge", answers=answers)
    assert code == 130
    assert f"{ID} goes on; see it with: appliance trainings logs {ID} --follow --on URL\n" in err
    assert f"End it with: appliance trainings cancel {ID} --on URL\n" in err
    assert "DELETE" not in {method for method, *_ in server.requests}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--register", "a", "--out", "m.safetensors"), "--on goes without --out"),
        (("--register", "a", "--dry-run"), "--on goes without --dry-run"),
        (("--register", "a", "--run-dir", "r"), "--on goes without --run-dir"),
        ((), "A training on a service needs a model of its registry"),
        (("--register", "a", "--set", "stepps=3"), "Did you mean 'steps'"),
        (("--register", "a", "--promote", "production"), "--promote needs a name"),
    ],
)
def test_mistakes_are_told_before_the_service_is_asked(command, words, sentence):
    code, _, err, server = command("train", "/data", *words, answers=[(500, {})])
    assert code == 1
    assert err.startswith("error: ")
    assert sentence in err
    assert server.requests == []


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (error(401, "unauthorized"), "got unauthorized: It is unauthorized"),
        (error(403, "forbidden"), "got forbidden: It is forbidden) [request r1]. Do this."),
        (error(404, "trainer_off"), "got trainer_off: It is trainer_off) [request r1]. Do this."),
        ((404, "<title>Not here</title>"), "It is not the appliance that answers"),
        ((202, {"id": ID}), "It is not the appliance that answers"),
    ],
)
def test_what_a_service_refuses_is_one_sentence_and_asked_once(command, answer, sentence):
    code, out, err, server = command("train", "/data", "--register", "a", answers=[answer])
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert sentence in err
    assert len(server.requests) == 1


def test_nobody_answers(run_appliance, capsys):
    with scripted((200, {})) as server:
        pass
    assert run_appliance("train", "/data", "--register", "a", "--on", server.url) == 1
    assert capsys.readouterr().err.startswith(
        "error: The service does not answer: http://127.0.0.1"
    )


def test_the_list(command):
    listed = {"trainings": [RUNNING, FAILED]}
    code, out, _, _ = command("trainings", "list", answers=[(200, listed)])
    assert code == 0
    assert ID in out
    assert "running" in out
    assert out.endswith(f"{ID} failed: No such folder: /data\n")
    assert command("trainings", "list", answers=[(200, {"trainings": []})])[1].startswith(
        "No train"
    )
    code, out, _, _ = command("trainings", "list", "--json", answers=[(200, listed)])
    assert [one["status"] for one in json.loads(out)["trainings"]] == ["running", "failed"]


def test_one_of_them(command):
    shown = command("trainings", "show", ID, answers=[(200, RUNNING)])[1]
    assert shown == f"{ID}: running\nstep 3 of 9\n"
    shown = command("trainings", "show", ID, answers=[(200, DONE)])[1]
    assert shown.splitlines()[1:] == [
        "It is fridge:8 in the registry.",
        "fridge@production is version 8 now.",
    ]
    assert command("trainings", "show", ID, answers=[(200, BEGUN)])[1] == f"{ID}: pending\n"
    shown = command("trainings", "show", ID, answers=[(200, FAILED)])[1]
    assert shown.splitlines()[1:] == ["No such folder: /data"]
    shown = command("trainings", "show", ID, "--json", answers=[(200, DONE)])[1]
    assert json.loads(shown)["registered"] == "fridge:8"


def test_its_log(command):
    part = log("step 1\n", 7, is_last=False)
    assert command("trainings", "logs", ID, answers=[part])[1] == "step 1\n"
    answers = [log("step 1\n", 7, is_last=True), (200, DONE)]
    code, out, err, _ = command("trainings", "logs", ID, "--follow", answers=answers)
    assert (code, err) == (0, "step 1\n")
    assert out.startswith("It is fridge:8")


def test_it_is_cancelled(command):
    code, out, _, server = command("trainings", "cancel", ID, answers=[(200, RUNNING)])
    assert (code, out) == (0, f"{ID} ends after this step.\n")
    assert server.requests[0][:2] == ("DELETE", f"/v1/train/{ID}")
    assert command("trainings", "cancel", ID, answers=[(200, DONE)])[1] == f"{ID} is succeeded.\n"


def test_the_client_of_asyncio_follows_too():
    async def follow(url):
        async with AsyncClient(url) as client:
            return [text async for text in client.trainings.follow("a b/c", poll_s=0.0)]

    parts = (log("", 0, is_last=False), log("one", 3, is_last=False), log("two", 6, is_last=True))
    with scripted(*parts) as server:
        assert asyncio.run(follow(server.url)) == ["one", "two"]
    assert server.paths[0] == "/v1/train/a%20b%2Fc/logs?offset=0"


def test_answers_of_something_else_are_told():
    with scripted((200, {})) as server, Client(server.url) as client:
        for ask in (client.trainings.list, partial(client.trainings.log, ID)):
            with pytest.raises(ForeignAnswerError):
                ask()
    with scripted((200, DONE)) as server, Client(server.url) as client:
        assert client.trainings.get(ID) == TrainingInfo(
            **{name: value for name, value in DONE.items() if name != "of a later service"}
        )
    with scripted(cut) as server, Client(server.url) as client:
        with pytest.raises(ServiceUnreachableError):
            client.trainings.submit("/data", "fridge")
        assert len(server.requests) == 1  # it may have begun: never sent again
