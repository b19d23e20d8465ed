"""`stream` of the client: against the service itself, and against one whose connections break."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from functools import partial

import pytest
from aiohttp import web
from factories import jpeg_bytes
from scripted_server import RECORD, WAIT_S, cut, error, never, scripted
from serving import plain_service

from appliance.client import AsyncClient, Client, Url, asynchronous, stream
from appliance.client.retries import RetryPolicy
from appliance.errors import (
    ConfigError,
    ForeignAnswerError,
    ServiceBusyError,
    ServiceRefusalError,
    ServiceTimeoutError,
    ServiceUnreachableError,
    StorageError,
)
from appliance.records import records_agree

JPEG = jpeg_bytes()
PICTURES = [jpeg_bytes((160, 120), seed=seed) for seed in range(4)]
BUSY = error(503, "overloaded")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Retries as ever, but at once."""
    monkeypatch.setattr(asynchronous, "RetryPolicy", partial(RetryPolicy, first_wait_s=0.0))


@pytest.fixture(scope="module")
def url(tiny_model_path):
    with plain_service(tiny_model_path, stream_idle_timeout_s=0.3) as address:
        yield address


class Lines:
    """Answers a stream line by line, until `count` are answered; `last` follows then.

    Attributes:
        names: Of the pictures that came.
    """

    def __init__(self, count=1000, last=None):
        self.count, self.last, self.names = count, last, []

    async def __call__(self, request):
        answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await answer.prepare(request)
        for index in range(self.count):
            line = await request.content.readline()
            if not line:
                return answer
            name = json.loads(line)["name"]
            self.names.append(name)
            await answer.write(json.dumps({"index": index, **RECORD, "image_uri": name}).encode())
            await answer.write(b"\n")
        if isinstance(self.last, bytes):
            await answer.write(self.last)
            while await request.content.readline():  # who hangs up with data unread resets all
                pass
        elif self.last is not None:
            await self.last(request)
        return answer


def collected(agen):
    async def collect():
        return [item async for item in agen]

    return collect()


@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_stream_gives_each_picture_its_record(url, tmp_path, face):
    gone = tmp_path / "gone.jpg"
    items = [*PICTURES, gone, b"no picture", ("named", PICTURES[0]), Url("https://a.example/b")]

    async def use():
        async with AsyncClient(url) as client:
            return await collected(client.stream(items, in_flight=3, max_detections=5))

    with Client(url) as client:
        if face == "async":
            pairs = asyncio.run(use())
        else:
            pairs = list(client.stream(items, in_flight=3, max_detections=5))
        assert sorted(index for index, _ in pairs) == list(range(8))
        records = [record for _, record in sorted(pairs, key=lambda pair: pair[0])]
        alone = client.detect(PICTURES[1], name="[1]", max_detections=5)
    assert [record.error_kind for record in records] == [
        *[None] * 4,
        *("StorageError", "unreadable", None, "urls_disabled"),
    ]
    assert records_agree(records[1], alone)
    assert [record.image_uri for record in records[:2]] == ["[0]", "[1]"]
    assert records[6].image_uri == "named"


def test_an_endless_stream_is_asked_as_there_is_room(url):
    asked = itertools.count()

    def endless():
        for _ in asked:
            yield JPEG

    def taken():
        return int(repr(asked)[6:-1])

    async def use():
        async with AsyncClient(url) as client:
            records = client.stream(endless(), in_flight=4)
            async for _ in records:
                if taken() > 60:
                    break
            await records.aclose()
            assert taken() <= 66
            assert (await client.detect(JPEG)).error is None

    with Client(url) as client:
        records = client.stream(endless(), in_flight=4)
        assert taken() == 0
        for given in range(1, 31):
            next(records)
            assert taken() <= given + 4
        records.close()
        assert client.detect(JPEG).error is None
    asyncio.run(use())


def test_a_stream_that_pauses_goes_on(url):
    def pausing():
        yield JPEG
        threading.Event().wait(0.8)  # the service ends what is idle for longer than 0.3 s
        yield JPEG

    with Client(url) as client:
        assert [index for index, _ in client.stream(pausing())] == [0, 1]


def test_pictures_that_cannot_be_read_need_no_service(tmp_path):
    with Client("http://127.0.0.1:1") as client:
        ((index, record),) = client.stream([tmp_path / "gone.jpg"])
        assert (index, record.error_kind) == (0, "StorageError")
        assert list(client.stream([])) == []
        with pytest.raises(StorageError):
            list(client.stream([tmp_path / "gone.jpg"], on_error="raise"))
        with pytest.raises(ServiceUnreachableError, match="does not answer.*5 attempts"):
            list(client.stream([JPEG]))


@pytest.mark.parametrize("breaking", [BUSY, cut, error(429, "rate_limited"), Lines(0)])
def test_what_breaks_before_an_answer_is_opened_again(breaking):
    lines = Lines()
    with scripted(breaking, breaking, lines) as server, Client(server.url, key="dak_1") as client:
        pairs = list(client.stream([("a", JPEG), ("b", JPEG)], in_flight=2, labels="x"))
    assert sorted(record.image_uri for _, record in pairs) == ["a", "b"]
    assert sorted(lines.names) == ["a", "b"]
    method, path, headers, _ = server.requests[0]
    assert (method, path) == ("POST", "/v1/detect/stream?labels=x")
    assert headers["Authorization"] == "Bearer dak_1"


def test_only_pictures_without_an_answer_are_sent_again():
    first, second = Lines(2, cut), Lines(1, b"")
    last = Lines()
    with scripted(first, second, last) as server, Client(server.url, max_attempts=2) as client:
        pairs = list(client.stream([(f"{index}", JPEG) for index in range(6)], in_flight=4))
    assert sorted((index, record.image_uri) for index, record in pairs) == [
        (index, f"{index}") for index in range(6)
    ]
    assert first.names == ["0", "1"]
    assert last.names[-1] == "5"


@pytest.mark.parametrize(
    ("answers", "kind", "words"),
    [
        ([error(401, "unauthorized")], ServiceRefusalError, "unauthorized.*request r1"),
        ([BUSY], ServiceBusyError, "overloaded.*3 attempts"),
        ([(200, "<title>Log in</title>")], ForeignAnswerError, "Log in"),
        ([(200, RECORD)], ForeignAnswerError, "not the appliance"),
        ([Lines(0, b"[1]\n")], ForeignAnswerError, "not the appliance"),
        ([Lines(0, b'{"index": 7}\n')], ForeignAnswerError, "not the appliance"),
        ([Lines(0, b"no line end")], ForeignAnswerError, "no line end"),
        (
            [Lines(0, b'{"error": {"code": "body_too_large", "message": "Too large"}}\n')],
            ServiceRefusalError,
            "body_too_large: Too large",
        ),
        ([Lines(0, cut)], ServiceUnreachableError, "3 attempts"),
        ([Lines(0)], ServiceUnreachableError, "ended the stream early.*3 attempts"),
    ],
)
def test_what_does_not_pass_ends_the_stream(answers, kind, words):
    async def use(url):
        async with AsyncClient(url, max_attempts=3) as client:
            await collected(client.stream([JPEG]))

    with scripted(*answers) as server:
        with Client(server.url, max_attempts=3) as client, pytest.raises(kind, match=words):
            list(client.stream([JPEG]))
        with pytest.raises(kind):
            asyncio.run(use(server.url))


def test_a_connection_that_breaks_as_the_body_ends_is_told():
    with (
        scripted(Lines(0, cut)) as server,
        Client(server.url, max_attempts=1, timeout_s=WAIT_S) as client,
    ):
        for _ in range(50):
            with pytest.raises(ServiceUnreachableError):
                list(client.stream([JPEG]))


def test_a_line_without_an_end_is_given_up(monkeypatch):
    monkeypatch.setattr(stream, "_MAX_LINE_BYTES", 1000)
    with (
        scripted(Lines(0, bytes(5000))) as server,
        Client(server.url) as client,
        pytest.raises(ForeignAnswerError),
    ):
        list(client.stream([JPEG]))


def test_a_service_that_stops_answering_is_given_up():
    with scripted(Lines(2, never)) as server, Client(server.url, timeout_s=0.3) as client:
        records = client.stream([JPEG] * 3, in_flight=1)
        assert [next(records)[0], next(records)[0]] == [0, 1]
        with pytest.raises(ServiceTimeoutError, match=r"picture of a stream.*within 0.3 s"):
            next(records)
        assert server.hung_up.wait(WAIT_S)


def test_what_the_iterable_raises_ends_the_stream():
    def broken():
        yield JPEG
        raise RuntimeError("the camera is gone")

    async def use(url):
        async with AsyncClient(url) as client:
            await collected(client.stream(broken()))

    with scripted(Lines(0, never)) as server:
        with Client(server.url) as client, pytest.raises(RuntimeError, match="camera is gone"):
            list(client.stream(broken()))
        with pytest.raises(RuntimeError, match="camera is gone"):
            asyncio.run(use(server.url))


def test_leaving_a_stream_early_closes_its_connection():
    with scripted(Lines(1, never)) as server:
        client = Client(server.url)
        records = client.stream([JPEG] * 3, in_flight=2)
        next(records)
        records.close()
        assert server.hung_up.wait(WAIT_S)
        records = client.stream([JPEG] * 3, in_flight=2)
        next(records)
        client.close()
        records.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"in_flight": 0}, "in_flight is out of range"),
        ({"on_error": "ignore"}, "on_error is none"),
        ({"name": "a"}, "Not an option"),
    ],
)
def test_mistakes_with_a_stream_are_told_at_once(arguments, words):
    with Client("http://127.0.0.1:1") as client, pytest.raises(ConfigError, match=words):
        client.stream([], **arguments)
