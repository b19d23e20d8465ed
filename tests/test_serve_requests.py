"""Parsing of request bodies, the gate, the keys and the shaping of answers, without a server."""

from __future__ import annotations

import asyncio
import base64
import json

import numpy as np
import pytest
from factories import detections, jpeg_bytes

from appliance.errors import (
    ConfigError,
    ImageError,
    LabelError,
    ServiceError,
)
from appliance.labels import LabelMap
from appliance.records import Record
from serve_app.errors import RequestError, request_error
from serve_app.http.answers import contract_text, select
from serve_app.http.error_answers import error_response
from serve_app.http.options import merged
from serve_app.http.picture_texts import decode_image_text
from serve_app.http.pictures import read_pictures
from serve_app.http.schemas import DetectOptions
from serve_app.http.score import parse_contract_body
from serve_app.security.admission import Gate
from serve_app.security.keys import KeyRing

PICTURE = jpeg_bytes(seed=3)
# All byte values, so that + and /, and with an odd length padding, occur in the text.
BINARY = bytes(range(256)) + b"\xfb\xff"
PLAIN = base64.b64encode(BINARY).decode()


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        str(base64.b64encode(BINARY)),
        f'b"{PLAIN}"',
        str(base64.encodebytes(BINARY)),
        base64.encodebytes(BINARY).decode(),
        PLAIN.rstrip("="),
        base64.urlsafe_b64encode(BINARY).decode(),
        f"  {PLAIN}\n",
        f"data:image/jpeg;base64,{PLAIN}",
        f"data:application/octet-stream;charset=utf-8;base64,{PLAIN}",
        f"DATA:image/png;BASE64,{PLAIN}",
        f"b'data:image/jpeg;base64,{PLAIN}'",
    ],
    ids=[
        "plain",
        "repr",
        "double-quotes",
        "repr-of-lines",
        "lines",
        "unpadded",
        "url-safe",
        "spaces-around",
        "data-uri",
        "data-uri-parameters",
        "data-uri-upper-case",
        "repr-of-data-uri",
    ],
)
def test_every_text_form_gives_the_bytes(text):
    assert decode_image_text(text, "image") == BINARY


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("not base64!", "11 characters"),
        (PLAIN[:-3], "characters"),
        ("b'" + PLAIN, "characters"),
        ("data:image/png,%89PNG", "a data URI without ;base64"),
        ("gr\u00fc\u00dfe", "5 characters"),
        ("\ud800", "1 characters"),
        ("AAAA====BBBB", "12 characters"),
    ],
)
def test_other_texts_are_refused(text, got):
    with pytest.raises(RequestError) as caught:
        decode_image_text(text, "[2].image_in_base64", index=2)
    assert (caught.value.status, caught.value.code) == (400, "invalid_base64")
    assert caught.value.index == 2
    assert "[2].image_in_base64" in caught.value.message
    assert got in caught.value.message


def test_empty_text_is_an_empty_picture():
    assert decode_image_text("", "image") == b""
    assert decode_image_text("b''", "image") == b""


def read_json(body):
    return read_pictures(
        body, media_type="application/json", content_type="", name="upload", max_images=3
    )


def test_the_detect_body_gives_the_picture():
    body = json.dumps({"image": base64.b64encode(PICTURE).decode()}).encode()
    (sent,) = read_json(body).pictures
    assert sent.content == PICTURE


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b"1" * 5000, 400, "not JSON"),
        (b"[]", 422, "must be an object, got a list"),
        (b"null", 422, "got null"),
        (b"1.5", 422, "got a number"),
        (b"true", 422, "got a truth value"),
        (b'"x"', 422, "got a text"),
        (b"{}", 422, "either image, or images"),
        (b'{"image": "", "images": []}', 422, "either image, or images"),
        (b'{"image": 5}', 422, "image must be base64 or .*, got a number"),
        (b'{"image": {"url": 5}}', 422, "image must be base64 or .*, got an object"),
        (b'{"image": {"image": "", "nmae": ""}}', 422, "image: expected the fields image and name"),
        (b'{"images": []}', 422, "images must be a list with pictures"),
        (b'{"images": ["", "", "", ""]}', 413, "4 pictures"),
        (b'{"images": [0, 0, 0, 0]}', 413, "4 pictures"),
        (b'{"images": [' + b"0," * 100_001 + b"0]}", 413, "too many values"),
    ],
)
def test_a_wrong_detect_body_is_refused(body, status, message):
    with pytest.raises(RequestError, match=message) as caught:
        read_json(body)
    assert caught.value.status == status


def test_a_form_of_too_many_parts_is_refused_before_it_is_read_to_its_end():
    part = b"--b\r\nContent-Disposition: form-data; name=labels\r\n\r\ncat\r\n"
    body = part * 1_005 + b"not even a form"
    content_type = "multipart/form-data; boundary=b"
    with pytest.raises(RequestError, match="too many parts") as caught:
        read_pictures(
            body,
            media_type="multipart/form-data",
            content_type=content_type,
            name="upload",
            max_images=3,
        )
    assert caught.value.status == 413


def test_options_stand_in_the_query_or_in_the_body():
    query = DetectOptions(score_threshold=0.5)
    assert merged(query, {}) == query
    assert merged(query, {"labels": "a, b"}) == DetectOptions(
        score_threshold=0.5, labels=["a", "b"]
    )
    for body, message in (
        ({"imgae": ""}, "imgae: Extra inputs"),
        ({"score_threshold": 0.6}, "score_threshold: given in the query and in the body"),
        ({"resize": "10x10"}, "from 16x16 to 4096x4096"),
        ({"labels": 5}, "labels: Input should be a valid list"),
        ({"labels": [0] * 10_001}, "labels: .*at most 10,000"),
        ({"labels": "a," * 10_001}, "labels: .*at most 10,000"),
    ):
        with pytest.raises(RequestError, match=message):
            merged(query, body)


def test_the_contract_body_gives_pictures_and_parameters():
    text = str(base64.b64encode(PICTURE))
    body = [
        {"image_in_base64": text, "parameters": {"score_threshold": 0.5}},
        {"image_in_base64": text, "parameters": {"max_total_detections": 3, "unknown": 1}},
        {"image_in_base64": text, "parameters": None},
        {"image_in_base64": text, "more": "is ignored"},
    ]
    pictures = parse_contract_body(json.dumps(body).encode(), max_images=4)
    assert [picture.data for picture in pictures] == [PICTURE] * 4
    assert [
        (p.parameters.score_threshold, p.parameters.max_total_detections) for p in pictures
    ] == [(0.5, None), (None, 3), (None, None), (None, None)]


@pytest.mark.parametrize(
    ("body", "status", "message", "index"),
    [
        ({"image_in_base64": PLAIN}, 422, "must be a list of pictures, got an object", None),
        ([{"image_in_base64": PLAIN}, PLAIN], 422, r"\[1\] must be an object, got a text", 1),
        ([{"image": PLAIN}], 422, r"\[0\].image_in_base64: Field required", 0),
        ([{"image_in_base64": "%"}], 400, r"Not base64: \[0\].image_in_base64", 0),
        (
            [{"image_in_base64": PLAIN, "parameters": {"score_threshold": 2}}],
            422,
            r"\[0\].parameters.score_threshold: Input should be less than or equal to 1",
            0,
        ),
        (
            [{"image_in_base64": PLAIN, "parameters": {"score_threshold": float("nan")}}],
            422,
            "score_threshold: Input should be a finite number",
            0,
        ),
        (
            [{"image_in_base64": PLAIN, "parameters": {"max_total_detections": 0}}],
            422,
            "max_total_detections",
            0,
        ),
        ([{}] * 5, 413, "5 pictures", None),
    ],
)
def test_a_wrong_contract_body_is_refused(body, status, message, index):
    with pytest.raises(RequestError, match=message) as caught:
        parse_contract_body(json.dumps(body).encode(), max_images=4)
    assert (caught.value.status, caught.value.index) == (status, index)


def record_of(found):
    return Record.of_detections(
        found,
        LabelMap(("circle", "square")),
        image_uri="x",
        content_sha256="0" * 64,
        model_name="m",
        model_version="1",
    )


def test_select_keeps_what_was_asked_for():
    record = record_of(detections(count=9))
    scores = [item.score for item in record.detections]
    assert select(record) == record
    assert [d.score for d in select(record, score_threshold=scores[3]).detections] == scores[:4]
    assert select(record, max_detections=2).detections == record.detections[:2]
    circles = select(record, labels=["circle"]).detections
    assert circles == tuple(d for d in record.detections if d.label == "circle")
    assert 0 < len(circles) < 9


@pytest.mark.parametrize("count", [0, 5])
def test_the_contract_text_equals_the_score_dictionary(count):
    found = detections(count=count)
    assert json.loads(contract_text(record_of(found))) == found.to_score_dict()


def test_the_gate_lets_some_work_and_some_wait():
    async def scenario():
        gate, release = Gate(max_ongoing=2, max_queued=1), asyncio.Event()
        inside = []

        async def visit(number):
            await gate.enter()
            try:
                inside.append(number)
                await release.wait()
            finally:
                gate.leave()

        tasks = [asyncio.create_task(visit(number)) for number in range(3)]
        while len(inside) < 2:
            await asyncio.sleep(0)
        with pytest.raises(RequestError) as caught:
            await visit(3)
        assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "1"})
        assert inside == [0, 1]
        tasks[0].cancel()
        release.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        await visit(4)
        return inside

    assert asyncio.run(scenario()) == [0, 1, 2, 4]


def test_streams_that_wait_keep_nobody_else_from_waiting():
    async def scenario():
        gate = Gate(max_ongoing=1, max_queued=1)
        await gate.enter()
        streams = [asyncio.create_task(gate.enter(patient=True)) for _ in range(5)]
        await asyncio.sleep(0)
        request = asyncio.create_task(gate.enter())
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="Too many requests wait"):
            await gate.enter()
        streams.pop().cancel()
        for _ in range(5):
            gate.leave()
        await asyncio.gather(request, *streams)
        gate.leave()
        await gate.enter(0.001)

    asyncio.run(scenario())


def test_the_gate_refuses_who_would_wait_in_vain():
    async def scenario():
        now_s = 0.0
        gate = Gate(max_ongoing=2, max_queued=20, clock_s=lambda: now_s)
        for _ in range(50):  # one at a time, 0.1 s each
            await gate.enter(0.01)
            now_s += 0.1
            gate.leave()
        await gate.enter(0.01)  # alone: it has to try, or nobody would know when that changes
        assert gate.expected_s == pytest.approx(0.2, rel=0.05)
        for _ in range(8):  # in batches of two, which end together every 0.2 s
            gate.check(0.3)
            with pytest.raises(RequestError, match="Those before would take longer") as caught:
                gate.check(0.2)
            await gate.enter()
            now_s += 0.2
            gate.leave()
            gate.leave()
            await gate.enter()
            assert gate.expected_s == pytest.approx(0.2, rel=0.05)
        assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "1"})
        gate.leave(answered=False)  # says nothing of how long answers take
        await gate.enter()
        assert gate.expected_s == pytest.approx(0.2, rel=0.05)
        now_s += 30  # it hangs
        with pytest.raises(RequestError):
            gate.check(30)

    asyncio.run(scenario())


def test_an_empty_key_ring_is_open():
    assert KeyRing([]).identify(None) is None


def test_any_key_of_the_ring_opens():
    ring = KeyRing(["first", "schl\u00fcssel"])
    as_http_has_it = "schl\u00fcssel".encode().decode("latin-1")
    assert ring.identify("Bearer first") == "key-1"
    assert ring.identify(f"bearer  {as_http_has_it} ") == "key-2"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer firs", "Basic first", "first"])
def test_other_keys_do_not_open(header):
    with pytest.raises(RequestError) as caught:
        KeyRing(["first"]).identify(header)
    assert caught.value.status == 401
    assert caught.value.headers == {"WWW-Authenticate": "Bearer"}
    assert "first" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ImageError("x", kind="unreadable"), 400, "image_unreadable"),
        (ImageError("x", kind="empty"), 400, "image_empty"),
        (ImageError("x", kind="too_large"), 413, "image_too_large"),
        (ImageError("x", kind="unsupported"), 415, "image_unsupported"),
        (LabelError("x"), 422, "unknown_label"),
        (ServiceError("x"), 503, "unavailable"),
        (ConfigError("x"), 400, "invalid_request"),
        (RequestError(418, "teapot", "x"), 418, "teapot"),
    ],
)
def test_errors_of_the_library_get_a_status(error, status, code):
    answer = error_response(request_error(error, index=7))
    assert answer.status_code == status
    body = json.loads(answer.body)["error"]
    hint = body.pop("hint")
    assert body == {"code": code, "message": "x", "index": 7}
    assert isinstance(error, RequestError) or len(hint) > 10


def test_an_error_may_quote_what_utf8_cannot_express():
    answer = error_response(RequestError(400, "x", "\ud800 is no character"))
    assert json.loads(answer.body)["error"]["message"] == "\ud800 is no character"


def test_float32_scores_survive_the_contract_text_unchanged():
    found = detections(count=50, seed=5)
    scores = json.loads(contract_text(record_of(found)))["detection_scores"]
    assert np.array_equal(np.array(scores, np.float32), found.scores)
