"""Batches posted to a real server that fails on purpose, dies, and sees its sender die."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from factories import jpeg_bytes
from watch_cases import (
    one_thread,  # noqa: F401 - a fixture
    parts_of,
    rows_of,
    score_once,
    streaming,
    watching_process,
)
from webhook_server import receiving

from appliance.bulk.stream.ledger import Ledger
from appliance.bulk.stream.posting import outbox
from appliance.bulk.stream.posting.webhook import Webhook
from appliance.errors import ConfigError

DELAYS_S = (0.01, 0.01, 0.01)


@pytest.fixture
def incoming(tmp_path):
    folder = tmp_path / "incoming"
    folder.mkdir()
    for index in range(5):
        (folder / f"{index}.jpg").write_bytes(jpeg_bytes(seed=index))
    return folder


def posted_rows(bodies):
    return [json.loads(line) for body in bodies for line in body.splitlines()]


def dead_letters(output):
    path = output / "_dead_letters.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def post_once(model, source, output, receiver, **settings):
    settings = {"settle_s": 0, "batch_size": 2, "webhook_delays_s": DELAYS_S, **settings}
    return score_once(model, source, output, webhook_url=receiver.url, **settings)


def test_each_batch_is_posted_with_its_key(tiny_model_path, incoming, tmp_path):
    out = tmp_path / "out"
    with receiving(200) as receiver:
        summary = post_once(tiny_model_path, incoming, out, receiver)
        assert post_once(tiny_model_path, incoming, out, receiver).webhook.delivered == 0
    keys = [key for key, _ in receiver.taken]
    parts = [path.stem.removeprefix("part-").split("-") for path in parts_of(out)]
    assert sorted(keys) == sorted(f"{run}-{number}" for number, run in parts)
    assert posted_rows(body for _, body in receiver.taken) == [row.to_row() for row in rows_of(out)]
    assert receiver.types == {"application/x-ndjson"}
    assert vars(summary.webhook) == {"delivered": 3, "dead": 0, "waiting": 0}
    assert dead_letters(out) == []


def test_what_fails_for_a_while_is_sent_again(tiny_model_path, incoming, tmp_path):
    """An error of the server, too many requests, and a connection that breaks: the third attempts are taken."""
    with receiving(503, 200, 429, 200, None, 500, 202) as receiver:
        summary = post_once(tiny_model_path, incoming, tmp_path / "out", receiver)
    assert summary.webhook.delivered == 3
    keys = [key for key, _ in receiver.received]
    assert [keys.count(key) for key in dict.fromkeys(keys)] == [2, 2, 3]
    assert len(set(receiver.received)) == len(receiver.taken) == 3  # the same bytes each time
    assert dead_letters(tmp_path / "out") == []


@pytest.mark.parametrize(("status", "attempts"), [(400, 1), (301, 1), (500, len(DELAYS_S) + 1)])
def test_what_is_refused_or_fails_for_long_becomes_a_dead_letter(
    status, attempts, tiny_model_path, incoming, tmp_path
):
    out = tmp_path / "out"
    with receiving(status) as receiver:
        summary = post_once(tiny_model_path, incoming, out, receiver)
        assert post_once(tiny_model_path, incoming, out, receiver).webhook.dead == 0
    assert vars(summary.webhook) == {"delivered": 0, "dead": 3, "waiting": 0}
    letters = dead_letters(out)
    keys = [key for key, _ in receiver.received]
    assert keys == [letter["batch_id"] for letter in letters for _ in range(attempts)]
    assert {letter["failure"] for letter in letters} == {f"HTTP status {status}"}
    rows = [row for letter in letters for row in letter["records"]]
    assert rows == [row.to_row() for row in rows_of(out)]


def test_a_server_that_is_not_there_costs_nothing(tiny_model_path, incoming, tmp_path, monkeypatch):
    """What could not be sent waits for the next run, which sends it to where it is told."""
    monkeypatch.setattr("appliance.bulk.stream.watcher._LAST_POSTS_S", 0.2)
    out = tmp_path / "out"
    with receiving(200) as receiver:
        pass
    with streaming(
        *(tiny_model_path, incoming, out),
        webhook_url=receiver.url,
        webhook_delays_s=(60.0,),
        settle_s=0,
    ) as stream:
        stream.wait_for_rows(5)
        assert vars(stream.stop().webhook) == {"delivered": 0, "dead": 0, "waiting": 1}
    assert score_once(tiny_model_path, incoming, out).webhook is None
    with receiving(200) as receiver:
        assert post_once(tiny_model_path, incoming, out, receiver).webhook.delivered == 1
    assert len(posted_rows(body for _, body in receiver.taken)) == 5


def test_a_silent_server_does_not_hold_up_the_end(tiny_model_path, incoming, tmp_path, monkeypatch):
    monkeypatch.setattr("appliance.bulk.stream.watcher._LAST_POSTS_S", 0.2)
    go_on = threading.Event()
    out = tmp_path / "out"
    with (
        receiving(lambda: go_on.wait(60) and 200) as receiver,
        streaming(tiny_model_path, incoming, out, webhook_url=receiver.url, settle_s=0) as stream,
    ):
        stream.wait_for(lambda: receiver.received)
        assert vars(stream.stop().webhook) == {"delivered": 0, "dead": 0, "waiting": 1}
        go_on.set()
    with receiving(200) as receiver:
        assert post_once(tiny_model_path, incoming, out, receiver).webhook.delivered == 1


def test_a_single_run_that_posts_can_be_stopped(tiny_model_path, incoming, tmp_path, monkeypatch):
    monkeypatch.setattr("appliance.bulk.stream.watcher._LAST_POSTS_S", 0.2)
    with (
        receiving(500) as receiver,
        streaming(
            *(tiny_model_path, incoming, tmp_path / "out"),
            webhook_url=receiver.url,
            webhook_delays_s=(60.0,),
            settle_s=0,
            once=True,
        ) as stream,
    ):
        stream.wait_for(lambda: receiver.received)
        summary = stream.stop()
    assert (summary.images, summary.webhook.waiting, summary.ended) == (5, 1, "SIGTERM")


def test_killed_between_the_post_and_its_mark_the_same_is_posted_again(
    tiny_model_path, incoming, tmp_path
):
    """The server has the whole batch, and its sender is dead before it hears so."""
    out = tmp_path / "out"
    options = ("--settle", "0s", "--batch-size", "5")
    processes = []

    def kill_the_sender():
        processes[0].kill()
        processes[0].wait()
        return 200

    with receiving(kill_the_sender, 200) as receiver:
        options += ("--webhook", receiver.url)
        with watching_process(tiny_model_path, incoming, out, *options) as process:
            processes.append(process)
            process.wait(timeout=60)
        summary = post_once(tiny_model_path, incoming, out, receiver)
    assert (summary.images, summary.webhook.delivered, summary.webhook.waiting) == (0, 1, 0)
    first, second = receiver.received
    assert first == second
    assert len(rows_of(out)) == 5


@pytest.mark.parametrize("left", ["nothing", "half", "all"])
def test_a_kill_while_a_dead_letter_is_written_neither_loses_nor_doubles_it(
    left, tiny_model_path, incoming, tmp_path
):
    """The ledger says that the batch is dead; of its line in the file there is nothing, a part, or all of it."""
    out = tmp_path / "out"
    with receiving(400) as receiver:
        post_once(tiny_model_path, incoming, out, receiver)
        before = dead_letters(out)
        path = out / "_dead_letters.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        kept = {"nothing": b"", "half": lines[2][:70], "all": lines[2]}[left]
        path.write_bytes(b"".join(lines[:2]) + kept)
        ledger = Ledger(out / "_ledger.sqlite")
        ledger.set_post(2, "dead", "HTTP status 400")
        ledger.close()
        post_once(tiny_model_path, incoming, out, receiver)
    after = dead_letters(out)
    for letter in (*before, *after):
        del letter["given_up_at"]
    assert after == before
    assert len(receiver.received) == 3


def test_a_batch_whose_part_is_gone_becomes_a_dead_letter(tiny_model_path, incoming, tmp_path):
    out = tmp_path / "out"
    score_once(tiny_model_path, incoming, out, settle_s=0)
    ledger = Ledger(out / "_ledger.sqlite")
    ledger.set_post(0, "waiting")
    ledger.close()
    (part,) = parts_of(out)
    part.write_bytes(b"damaged")
    with receiving(200) as receiver:
        assert post_once(tiny_model_path, incoming, out, receiver).webhook.dead == 1
    (letter,) = dead_letters(out)
    assert letter["records"] == []
    assert "cannot be read" in letter["failure"]
    assert receiver.received == []


def test_dead_letters_that_cannot_be_written_end_the_stream(tiny_model_path, incoming, tmp_path):
    out = tmp_path / "out"
    (out / "_dead_letters.jsonl").mkdir(parents=True)
    with (
        receiving(400) as receiver,
        pytest.raises(Exception, match="Cannot write the dead letters"),
    ):
        post_once(tiny_model_path, incoming, out, receiver)


@pytest.mark.parametrize("url", ["ftp://host/hook", "host/hook", "http://user:hunter2@host/hook"])
def test_addresses_that_cannot_be_posted_to_are_refused(url):
    with pytest.raises(ConfigError, match="webhook") as raised:
        Webhook(url)
    assert "hunter2" not in str(raised.value)


def test_what_answers_with_nonsense_may_answer_better_later():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"nonsense\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        found = Webhook(f"http://127.0.0.1:{server.getsockname()[1]}").post("1", b"x")
        thread.join()
    assert found.may_succeed
    assert outbox.Answer() != found
