"""Pictures as they come, over real HTTP and WebSockets: `/v1/detect/stream` and `/v1/stream`."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import pytest
from factories import jpeg_bytes
from serving import api_of, ask, plain_service, serving, settings_for

from appliance.records import Record, records_agree
from appliance.scoring import ImageScorer
from serve_app.scoring.engine import ScoringEngine

PICTURES = [jpeg_bytes((128, 96), seed=seed) for seed in range(6)]
LINES_TYPE = {"Content-Type": "application/x-ndjson"}
WAIT_S = 60.0


@pytest.fixture(scope="module")
def url(tiny_model_path):
    with plain_service(tiny_model_path, stream_idle_timeout_s=2) as address:
        yield address


@pytest.fixture(scope="module")
def scorer(tiny_model_path):
    return ImageScorer.load(str(tiny_model_path), device="cpu")


def line(data, **more):
    return json.dumps({"image": base64.b64encode(data).decode(), **more}).encode() + b"\n"


def post(url, data, headers=LINES_TYPE, query=""):
    """Status and lines of the whole answer."""

    async def send():
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/detect/stream{query}", data=data, headers=headers) as response,
        ):
            return response.status, [json.loads(text) async for text in response.content]

    return asyncio.run(send())


def test_every_line_gets_its_record(url, scorer):
    body = b"".join(line(data, name=f"{index}.jpg") for index, data in enumerate(PICTURES))
    status, rows = post(url, body.rstrip())
    assert status == 200
    rows.sort(key=lambda row: row["index"])
    assert [row.pop("index") for row in rows] == list(range(6))
    expected = scorer.score([(f"{index}.jpg", data) for index, data in enumerate(PICTURES)])
    for row, record in zip(rows, expected, strict=True):
        assert row["image_uri"] == record.image_uri
        assert records_agree(Record.from_row(row), record)


def test_bad_lines_are_told_and_cost_no_other(url):
    body = b"{\n\n" + line(PICTURES[0]) + line(b"no picture") + b'{"picture": 1}\n[]\n'
    _, rows = post(url, body)
    kinds = {row["index"]: row["error_kind"] for row in rows}
    assert kinds == {
        0: "invalid_json",
        1: None,
        2: "unreadable",
        3: "invalid_body",
        4: "invalid_body",
    }
    assert next(row for row in rows if row["index"] == 0)["image_uri"] == "[0]"


def test_results_come_while_the_client_still_sends(url):
    """The client sends its second picture only when it has the result of the first."""

    async def conversation():
        answered = asyncio.Event()

        async def body():
            yield line(PICTURES[0])
            await answered.wait()
            yield line(PICTURES[1])

        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/detect/stream", data=body(), headers=LINES_TYPE) as response,
        ):
            first = json.loads(await response.content.readline())
            answered.set()
            return first, json.loads(await response.content.readline())

    first, second = asyncio.run(conversation())
    assert (first["index"], second["index"]) == (0, 1)
    assert first["error"] is second["error"] is None


def test_a_form_of_any_length_is_a_stream(url):
    async def send():
        form = aiohttp.FormData()
        for index, data in enumerate(PICTURES):
            form.add_field("image", data, filename=f"{index}.jpg", content_type="image/jpeg")
        form.add_field("note", "left out")
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/detect/stream?max_detections=1", data=form) as response,
        ):
            return [json.loads(text) async for text in response.content]

    rows = asyncio.run(send())
    assert {row["image_uri"] for row in rows} == {f"{index}.jpg" for index in range(6)}
    assert all(len(row["detections"]) <= 1 for row in rows)


def test_what_ends_a_stream_early_is_its_last_line(url):
    _, rows = post(url, line(PICTURES[0]) + b"x" * 200_001)
    assert rows[0]["error"] is None
    assert rows[-1]["error"]["code"] == "body_too_large"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    large = b'--b\r\nContent-Disposition: form-data; filename="a"\r\n\r\n' + b"x" * 200_001
    assert post(url, large, headers)[1][-1]["error"]["code"] == "body_too_large"


def test_a_stream_that_falls_silent_is_ended(url):
    async def silent():
        yield line(PICTURES[0])
        await asyncio.sleep(WAIT_S)

    _, rows = post(url, silent())
    assert [row["error"] and row["error"]["code"] for row in rows] == [None, "stream_idle"]


@pytest.mark.parametrize(
    ("headers", "query", "status", "code"),
    [
        ({"Content-Type": "image/jpeg"}, "", 415, "unsupported_media_type"),
        (LINES_TYPE, "?format=annotated", 422, "invalid_parameter"),
        (LINES_TYPE, "?labels=cat", 422, "unknown_label"),
        (LINES_TYPE, "?model=cat", 404, "unknown_model"),
    ],
)
def test_a_stream_that_cannot_begin_is_refused(url, headers, query, status, code):
    got, _, answer = ask(f"{url}/v1/detect/stream{query}", data=line(PICTURES[0]), headers=headers)
    assert (got, answer["error"]["code"]) == (status, code)


class OddScorer(ImageScorer):
    """Fails in a way nobody has foreseen, or hangs until told."""

    def __init__(self, scorer):
        super().__init__(scorer.predictor)
        self.fails = True
        self.gate = threading.Event()
        self.started = threading.Event()

    def predict(self, uploads):
        if self.fails:
            raise RuntimeError("secret of /opt/model")
        self.started.set()
        assert self.gate.wait(WAIT_S)
        return super().predict(uploads)


@pytest.fixture
def odd(scorer):
    odd = OddScorer(scorer)
    settings = settings_for("unused", request_timeout_s=1, max_streams=1, stream_idle_timeout_s=30)
    with serving(api_of(ScoringEngine(odd, ThreadPoolExecutor(1), settings), settings)) as url:
        yield url, odd
        odd.gate.set()


def test_a_failure_of_ours_is_a_row_that_tells_nothing(odd):
    url, _ = odd
    _, rows = post(url, line(PICTURES[0]))
    assert rows[0]["error_kind"] == "internal"
    assert "secret" not in json.dumps(rows)


def test_a_picture_of_a_stream_that_takes_too_long_is_given_up(odd):
    url, scorer = odd
    scorer.fails = False
    _, rows = post(url, line(PICTURES[0]))
    assert rows[0]["error_kind"] == "deadline_exceeded"


# --- frames --------------------------------------------------------------------------------------


async def connect(session, url, **options):
    return await session.ws_connect(f"{url}/v1/stream", **options)


def test_frames_are_answered_and_the_newest_wins(odd, scorer):
    url, held = odd
    held.fails = False

    async def conversation():
        async with aiohttp.ClientSession() as session:
            socket = await connect(session, url)
            await socket.send_bytes(PICTURES[0])
            await asyncio.to_thread(held.started.wait, WAIT_S)
            for frame in PICTURES[1:5]:
                await socket.send_bytes(frame)
            await (
                socket.ping()
            )  # answered in order, so that the server has the frames before it goes on
            held.gate.set()
            answers = [await socket.receive_json(timeout=WAIT_S)]
            while answers[-1]["frame"] < 5:
                answers.append(await socket.receive_json(timeout=WAIT_S))
            await socket.close()
            return answers

    answers = asyncio.run(conversation())
    assert [answers[0]["frame"], answers[0]["dropped"]] == [1, 0]
    assert answers[-1]["frame"] == 5
    assert answers[-1]["dropped"] == 5 - len(answers)
    assert answers[-1]["timings_ms"]["model"] > 0
    fields = {name: answers[-1][name] for name in Record.__dataclass_fields__}
    (expected,) = scorer.score([("frame-5", PICTURES[4])])
    assert records_agree(Record.from_row(fields), expected)


def test_a_frame_that_cannot_be_read_does_not_end_the_stream(url):
    async def conversation():
        async with aiohttp.ClientSession() as session:
            socket = await connect(
                session, f"{url}", params={"max_detections": "1", "labels": "circle"}
            )
            await socket.send_bytes(b"no picture")
            broken = await socket.receive_json(timeout=WAIT_S)
            await socket.send_bytes(PICTURES[0])
            good = await socket.receive_json(timeout=WAIT_S)
            await socket.close()
            return broken, good

    broken, good = asyncio.run(conversation())
    assert (broken["error_kind"], good["error"], good["frame"]) == ("unreadable", None, 2)
    assert {found["label"] for found in good["detections"]} <= {"circle"}


def refusal(url, message=None, **options):
    """What a socket says before it is closed, and the code it is closed with."""

    async def conversation():
        async with aiohttp.ClientSession() as session:
            socket = await connect(session, url, **options)
            if message is not None:
                await socket.send_str(message)
            error = (await socket.receive_json(timeout=WAIT_S))["error"]
            await socket.receive(timeout=WAIT_S)
            return error["code"], socket.close_code

    return asyncio.run(conversation())


def test_a_stream_of_frames_that_cannot_begin_is_refused(url):
    assert refusal(url, params={"labels": "cat"}) == ("unknown_label", 4400)
    assert refusal(url, params={"treshold": "1"}) == ("invalid_body", 4400)
    assert refusal(url, "a text") == ("invalid_body", 4400)
    assert refusal(url) == ("stream_idle", 4400)


def test_frames_that_are_too_large_end_the_stream(url):
    async def conversation():
        async with aiohttp.ClientSession() as session:
            socket = await connect(session, url)
            await socket.send_bytes(b"x" * 200_001)
            return await socket.receive_json(timeout=WAIT_S)

    assert asyncio.run(conversation())["error"]["code"] == "body_too_large"


def test_no_more_streams_than_there_are_places_for(odd):
    url, held = odd
    held.fails = False

    async def conversation():
        async with aiohttp.ClientSession() as session:
            first = await connect(session, url)
            await first.send_bytes(PICTURES[0])
            await asyncio.to_thread(held.started.wait, WAIT_S)
            second = await connect(session, url)
            refused = await second.receive_json(timeout=WAIT_S)
            late = await first.receive_json(timeout=WAIT_S)
            return refused["error"]["code"], late["error"]["code"]

    assert asyncio.run(conversation()) == ("overloaded", "deadline_exceeded")


def test_a_browser_gives_its_key_in_the_first_message(tiny_model_path, url):
    key = {"Authorization": "Bearer secret"}
    open_url = url
    with plain_service(tiny_model_path, keys=("secret",)) as url:
        assert refusal(url, '{"key": "wrong"}') == ("unauthorized", 4401)
        assert refusal(url, headers={"Authorization": "Bearer wrong"}) == ("unauthorized", 4401)
        assert refusal(url, "{}") == ("invalid_body", 4400)

        async def conversation(message, headers, url=url):
            async with aiohttp.ClientSession() as session:
                socket = await connect(session, url, headers=headers)
                if message is not None:
                    await socket.send_str(message)
                await socket.send_bytes(PICTURES[0])
                return await socket.receive_json(timeout=WAIT_S)

        assert asyncio.run(conversation('{"key": "secret"}', {}))["error"] is None
        assert asyncio.run(conversation(None, key))["error"] is None
        # Where it is not asked for, by the header or because there are no keys, it does no harm.
        assert asyncio.run(conversation('{"key": "secret"}', key))["error"] is None
        assert asyncio.run(conversation('{"key": "x"}', {}, open_url))["frame"] == 1
