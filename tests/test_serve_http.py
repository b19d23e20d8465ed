"""The service over real HTTP, twice: under Ray Serve, and under plain uvicorn.

Every route and error is asked of both, since proxies may change what an application answers. What needs
other settings (keys, overload, deadlines) runs under uvicorn alone, which starts at once.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from urllib.parse import urljoin

import numpy as np
import pytest
from factories import encoded, jpeg_bytes, picture
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from serving import (
    JPEG_TYPE,
    JSON_TYPE,
    api_of,
    ask,
    held_service,
    plain_service,
    request,
    serving,
    settings_for,
)

from appliance.detections import Detections
from appliance.errors import ModelFileError, ServiceError
from appliance.records import Record
from appliance.scoring import ImageScorer
from serve_app.http.schemas import DetectOptions, RecordAnswer
from serve_app.ingress.listening import free_port
from serve_app.scoring.engine import ScoringEngine
from serve_app.start import start_service, stop_service

JPEG = jpeg_bytes((128, 96), seed=1)
WAIT_S = 60.0
PATHS = {
    "/v1/detect",
    "/v1/detect/stream",
    "/score",
    "/v1/models",
    "/v1/models/{name}",
    "/healthz",
    "/readyz",
}


@pytest.fixture
def plain_url(service_url):
    return service_url


@pytest.fixture(scope="module")
def ray_url(ray_cluster, tiny_model_path):
    service = start_service(settings_for(tiny_model_path), port=0, name="http-test")
    yield service.url
    stop_service(service.name)


@pytest.fixture(params=["plain_url", "ray_url"])
def url(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def scorer(tiny_model_path):
    return ImageScorer.load(str(tiny_model_path), device="cpu")


def detect(url, data=JPEG, headers=JPEG_TYPE, query=""):
    status, _, row = ask(f"{url}/v1/detect{query}", data=data, headers=headers)
    assert status == 200, row
    return Record.from_row(row)


def assert_equal_records(record, expected):
    """Boxes within 0.5 px, scores within 1e-3, everything else the same."""
    assert record.content_sha256 == expected.content_sha256
    assert (record.width_px, record.height_px) == (expected.width_px, expected.height_px)
    assert (record.model_name, record.model_version) == ("tiny", expected.model_version)
    assert (record.error, record.error_kind) == (None, None)
    assert [d.class_id for d in record.detections] == [d.class_id for d in expected.detections]
    assert [d.label for d in record.detections] == [d.label for d in expected.detections]
    found, wanted = (
        np.array([(d.x1, d.y1, d.x2, d.y2, d.score) for d in r.detections])
        for r in (record, expected)
    )
    assert len(wanted) > 0
    np.testing.assert_allclose(found[:, :4], wanted[:, :4], atol=0.5)
    np.testing.assert_allclose(found[:, 4], wanted[:, 4], atol=1e-3)


def base64_text(data):
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("kind", ["jpeg", "png", "untyped", "json", "data-uri"])
def test_detect_equals_scoring_in_process(url, scorer, kind):
    png = encoded(picture((128, 96), seed=2), "PNG")
    data, headers, body = {
        "jpeg": (JPEG, JPEG_TYPE, JPEG),
        "png": (png, {"Content-Type": "IMAGE/PNG; x=y"}, png),
        "untyped": (png, {"Content-Type": "application/octet-stream"}, png),
        "json": (JPEG, JSON_TYPE, json.dumps({"image": base64_text(JPEG)})),
        "data-uri": (
            JPEG,
            {"Content-Type": "application/vnd.api+json"},
            json.dumps({"image": f"data:image/jpeg;base64,{base64_text(JPEG)}"}),
        ),
    }[kind]
    (expected,) = scorer.score([("upload", data)])
    assert_equal_records(detect(url, body, headers), expected)


@pytest.mark.parametrize(
    ("query", "headers", "name"),
    [
        ("", {}, "upload"),
        ("?name=a%20b.jpg", {"X-Image-Name": "c.jpg"}, "a b.jpg"),
        ("", {"X-Image-Name": "k\u00fchlschrank.jpg"}, "k\u00fchlschrank.jpg"),
        ("?name=%00%0a%ED%A0%80x", {}, "\ufffd\ufffd\ufffdx"),
    ],
)
def test_the_picture_keeps_the_name_that_it_is_given(url, query, headers, name):
    assert detect(url, headers={**JPEG_TYPE, **headers}, query=query).image_uri == name


def test_options_choose_among_the_detections(url):
    every = detect(url).detections
    scores = [found.score for found in every]
    labels = {found.label for found in every}
    assert len(scores) > 3
    threshold = (scores[1] + scores[2]) / 2 if scores[1] > scores[2] else scores[1]
    kept = detect(url, query=f"?score_threshold={threshold!r}").detections
    assert kept == tuple(found for found in every if found.score >= threshold)
    assert detect(url, query="?max_detections=2").detections == every[:2]
    assert detect(url, query="?labels=circle,square").detections == every
    assert detect(url, query="?labels=circle&labels=square").detections == every
    for label in labels:
        only = detect(url, query=f"?labels={label}").detections
        assert only == tuple(found for found in every if found.label == label)


def bomb():
    buffer = io.BytesIO()
    Image.new("1", (2000, 2000)).save(buffer, "PNG")
    return buffer.getvalue()


async def in_chunks(data):
    for start in range(0, len(data), 65_536):
        yield data[start : start + 65_536]


@pytest.mark.parametrize(
    ("path", "data", "headers", "status", "code", "words"),
    [
        ("/v1/detect", b"no picture", JPEG_TYPE, 400, "image_unreadable", "upload"),
        ("/v1/detect?name=x.jpg", JPEG[:500], JPEG_TYPE, 400, "image_unreadable", "x.jpg"),
        ("/v1/detect", b"", JPEG_TYPE, 400, "empty_body", "no body"),
        ("/v1/detect", bomb(), JPEG_TYPE, 413, "image_too_large", "2000x2000"),
        ("/v1/detect", b"x" * 200_001, JPEG_TYPE, 413, "body_too_large", "200,000 bytes"),
        ("/v1/detect", in_chunks, JPEG_TYPE, 413, "body_too_large", "200,000 bytes"),
        ("/v1/detect", JPEG, {"Content-Type": "text/html"}, 415, "unsupported_media_type", "text"),
        ("/v1/detect", b"{", JSON_TYPE, 400, "invalid_json", "not JSON"),
        ("/v1/detect", b"{}", JSON_TYPE, 422, "invalid_body", "image"),
        ("/v1/detect", b'{"image": "%"}', JSON_TYPE, 400, "invalid_base64", "image"),
        ("/v1/detect", b'{"image": ""}', JSON_TYPE, 400, "image_empty", "upload"),
        ("/v1/detect?score_threshold=2", JPEG, JPEG_TYPE, 422, "invalid_parameter", "score_thre"),
        ("/v1/detect?max_detections=0", JPEG, JPEG_TYPE, 422, "invalid_parameter", "max_detect"),
        ("/v1/detect?treshold=0", JPEG, JPEG_TYPE, 422, "invalid_parameter", "treshold"),
        ("/v1/detect?labels=circle,cat", JPEG, JPEG_TYPE, 422, "unknown_label", "cat"),
        ("/v1/nothing", JPEG, JPEG_TYPE, 404, "not_found", "/v1/nothing"),
        ("/healthz", JPEG, JPEG_TYPE, 405, "method_not_allowed", "POST"),
        ("/score", JPEG, JPEG_TYPE, 415, "unsupported_media_type", "image/jpeg"),
        ("/score", b"{}", JSON_TYPE, 422, "invalid_body", "list"),
        ("/score", b"[{}]", JSON_TYPE, 422, "invalid_body", "image_in_base64"),
        ("/score", b"[{}, {}, {}, {}]", JSON_TYPE, 413, "too_many_images", "4 pictures"),
    ],
)
def test_bad_requests_get_json_errors(url, path, data, headers, status, code, words):
    body = data(b"x" * 1_000_000) if callable(data) else data
    got_status, answer_headers, answer = ask(f"{url}{path}", data=body, headers=headers)
    assert (got_status, answer["error"]["code"]) == (status, code)
    assert words in answer["error"]["message"]
    assert set(answer) == {"error"}
    assert {"code", "message", "hint"} <= set(answer["error"])
    assert answer_headers["Content-Type"] == "application/json"


def contract_body(*texts, **parameters):
    return json.dumps([{"image_in_base64": text, "parameters": parameters} for text in texts])


def contract_answer(url, body):
    status, _, texts = ask(f"{url}/score", data=body, headers=JSON_TYPE)
    assert status == 200, texts
    return [json.loads(text) for text in texts]


def test_the_contract_takes_all_text_forms_and_answers_json_strings(url, scorer):
    text = base64_text(JPEG)
    answers = contract_answer(
        url, contract_body(str(base64.b64encode(JPEG)), text, f"data:image/jpeg;base64,{text}")
    )
    (record,) = scorer.score([("x", JPEG)])
    assert len(answers) == 3
    for answer in answers:
        assert set(answer) == {
            "detection_boxes",
            "detection_scores",
            "detection_classes",
            "num_detections",
        }
        found = Detections.from_score_dict(answer, (96, 128))
        assert answer["num_detections"] == len(record.detections) == len(found)
        expected = [(d.x1, d.y1, d.x2, d.y2) for d in record.detections]
        np.testing.assert_allclose(found.boxes_xyxy, expected, atol=0.5)
        np.testing.assert_allclose(found.scores, [d.score for d in record.detections], atol=1e-3)
        assert found.class_ids.tolist() == [d.class_id for d in record.detections]


def test_the_contract_honours_its_parameters(url):
    (every,) = contract_answer(url, contract_body(base64_text(JPEG)))
    (two,) = contract_answer(url, contract_body(base64_text(JPEG), max_total_detections=2))
    assert two["detection_boxes"] == every["detection_boxes"][:2]
    (none,) = contract_answer(url, contract_body(base64_text(JPEG), score_threshold=1.0))
    assert none == {
        "detection_boxes": [],
        "detection_scores": [],
        "detection_classes": [],
        "num_detections": 0,
    }
    assert contract_answer(url, "[]") == []


def test_the_contract_names_the_picture_that_cannot_be_read(url):
    good, bad = base64_text(JPEG), base64_text(b"no picture")
    status, _, answer = ask(f"{url}/score", data=contract_body(good, good, bad), headers=JSON_TYPE)
    assert status == 400
    assert answer["error"]["code"] == "image_unreadable"
    assert answer["error"]["index"] == 2
    assert "[2]" in answer["error"]["message"]


def test_eight_at_once_get_the_same_answer_and_a_broken_one_hurts_nobody(url):
    alone = detect(url)

    async def all_at_once():
        path = f"{url}/v1/detect"
        good = [request(path, data=JPEG, headers=JPEG_TYPE) for _ in range(8)]
        bad = [request(path, data=JPEG[:300], headers=JPEG_TYPE) for _ in range(3)]
        return await asyncio.gather(*good, *bad)

    answers = asyncio.run(all_at_once())
    assert [status for status, _, _ in answers] == [200] * 8 + [400] * 3
    for _, _, body in answers[:8]:
        assert_equal_records(Record.from_row(json.loads(body)), alone)


def test_status_and_models(url, scorer):
    assert ask(f"{url}/healthz", "GET")[::2] == (200, {"status": "alive"})
    assert ask(f"{url}/readyz", "GET")[::2] == (200, {"status": "ready"})
    status, _, answer = ask(f"{url}/v1/models", "GET")
    assert status == 200
    (model,) = answer["models"]
    assert (model["name"], model["version"]) == ("tiny", scorer.predictor.model_version)
    assert model["labels"] == ["circle", "square"]
    assert (model["score_threshold"], model["max_detections"]) == (0.3, 300)


def test_requests_are_named_timed_and_counted(url):
    headers = {**JPEG_TYPE, "X-Request-Id": "mine-1"}
    status, answer_headers, _ = ask(f"{url}/v1/detect", data=JPEG, headers=headers)
    assert (status, answer_headers["X-Request-Id"]) == (200, "mine-1")
    stages = answer_headers["Server-Timing"]
    assert {"decode", "model"} <= {part.split(";")[0].strip() for part in stages.split(",")}
    _, _, page = asyncio.run(request(f"{url}/metrics", "GET"))
    counted = {
        sample.name: sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
        if sample.labels.get("route") == "/v1/detect" and sample.labels.get("code", "200") == "200"
    }
    assert counted["appliance_requests_total"] >= 1
    assert "appliance_batch_size_pictures_count" in page.decode()


def test_openapi_describes_every_body_with_an_example_that_works(url):
    status, _, api = ask(f"{url}/openapi.json", "GET")
    assert status == 200
    assert PATHS <= set(api["paths"])
    references = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(api)))
    assert references <= set(api["components"]["schemas"])
    detect_route = api["paths"]["/v1/detect"]["post"]
    bodies = detect_route["requestBody"]["content"]
    assert {"image/jpeg", "image/png", "application/octet-stream", "application/json"} < set(bodies)
    names = {parameter["name"] for parameter in detect_route["parameters"]}
    options = set(DetectOptions.model_fields)
    assert names == options | {"X-Image-Name", "X-Request-Timeout-Ms"}
    assert {"400", "401", "408", "413", "415", "422", "503", "504"} < set(detect_route["responses"])
    for path in ("/v1/detect", "/score"):
        body = api["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        example = json.dumps(body["example"])
        assert ask(f"{url}{path}", data=example, headers=JSON_TYPE)[0] == 200


def test_the_reference_tells_all_of_it_and_needs_nothing_from_elsewhere(url):
    api = ask(f"{url}/openapi.json", "GET")[2]
    status, headers, body = asyncio.run(request(f"{url}/docs", "GET"))
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    page = body.decode()
    shown = set(re.findall(r"<b>(\w+)</b> <code>([^<]+)</code>", page))
    told = {(verb.upper(), path) for path, verbs in api["paths"].items() for verb in verbs}
    assert shown == {*told, ("WS", "/v1/stream")}
    for option in DetectOptions.model_fields:
        assert f"<code>{option}</code>" in page
    links = re.findall(r'(?:href|src)="([^"]+)"', page)
    anchors = {link[1:] for link in links if link.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]+)"', page))
    for link in {link for link in links if not link.startswith("#")}:
        assert asyncio.run(request(urljoin(f"{url}/docs", link), "GET"))[0] == 200
    assert "<script" not in page
    again = asyncio.run(request(f"{url}/docs", "GET", headers={"If-None-Match": headers["ETag"]}))
    assert again[0] == 304
    for other in ("/redoc", "/docs/oauth2-redirect"):
        assert ask(f"{url}{other}", "GET")[0] == 404


def test_the_documented_answer_has_the_fields_of_a_record(scorer):
    (record,) = scorer.score([("x", JPEG)])
    assert RecordAnswer.model_validate(record.to_row()).model_dump() == record.to_row()
    assert list(RecordAnswer.model_fields) == list(asdict(record))


# --- other settings, under uvicorn alone ---------------------------------------------------------


def test_keys_close_scoring_and_leave_the_status_open(tiny_model_path):
    with plain_service(tiny_model_path, keys=("key-1", "key-2")) as url:
        body = contract_body(base64_text(JPEG))
        for path, method in (("/score", "POST"), ("/v1/detect", "POST"), ("/v1/models", "GET")):
            for wrong in ({}, {"Authorization": "Bearer key-3"}):
                headers = {**JSON_TYPE, **wrong}
                status, answer_headers, answer = ask(f"{url}{path}", method, body, headers)
                assert (status, answer["error"]["code"]) == (401, "unauthorized")
                assert answer_headers["WWW-Authenticate"] == "Bearer"
        for key in ("key-1", "key-2"):
            headers = {**JSON_TYPE, "Authorization": f"Bearer {key}"}
            assert ask(f"{url}/score", data=body, headers=headers)[0] == 200
        assert ask(f"{url}/readyz", "GET")[0] == 200


def test_overload_is_told_at_once_and_disturbs_nobody(scorer):
    limits = {"max_ongoing_requests": 2, "max_queued_requests": 1}
    with held_service(scorer, **limits) as (url, held):

        async def scenario():
            path = f"{url}/v1/detect"
            inside = [
                asyncio.create_task(request(path, data=JPEG, headers=JPEG_TYPE)) for _ in range(8)
            ]
            refused, waiting = [], set(inside)
            while len(refused) < 5:
                done, waiting = await asyncio.wait(waiting, return_when="FIRST_COMPLETED")
                refused += [task.result() for task in done]
            held.gate.set()
            accepted = [await task for task in waiting]
            again = await request(path, data=JPEG, headers=JPEG_TYPE)
            return refused, accepted, again

        refused, accepted, again = asyncio.run(scenario())
    assert [status for status, _, _ in refused] == [503] * 5
    assert {headers["Retry-After"] for _, headers, _ in refused} == {"1"}
    assert {json.loads(body)["error"]["code"] for _, _, body in refused} == {"overloaded"}
    assert [status for status, _, _ in accepted] == [200] * 3
    assert again[0] == 200


def test_an_answer_that_takes_too_long_is_a_504(scorer):
    # Long enough for a busy machine to read the body in time: that would be a 408.
    with held_service(scorer, request_timeout_s=1.5) as (url, _):
        status, _, answer = ask(f"{url}/v1/detect", data=JPEG, headers=JPEG_TYPE)
    assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")
    assert "1.5 seconds" in answer["error"]["message"]


def test_a_body_that_does_not_come_is_a_408(scorer):
    with held_service(scorer, request_timeout_s=0.3) as (url, _):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=WAIT_S) as connection:
            head = "POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
            connection.sendall(f"{head}Content-Length: 1000\r\n\r\nnot all".encode())
            with http.client.HTTPResponse(connection) as answer:
                answer.begin()
                error = json.load(answer)["error"]
    assert (answer.status, error["code"]) == (408, "body_too_slow")


def test_a_closed_engine_is_not_ready(scorer):
    settings = settings_for("unused")
    engine = ScoringEngine(scorer, ThreadPoolExecutor(1), settings)
    asyncio.run(engine.close())
    with serving(api_of(engine, settings)) as url:
        status, headers, answer = ask(f"{url}/readyz", "GET")
        assert (status, answer["error"]["code"]) == (503, "not_ready")
        assert headers["Retry-After"] == "1"
        status, _, answer = ask(f"{url}/v1/detect", data=JPEG, headers=JPEG_TYPE)
        assert (status, answer["error"]["code"]) == (503, "unavailable")
        assert ask(f"{url}/healthz", "GET")[0] == 200


class FailingScorer(ImageScorer):
    """Fails on pictures of clients, not on the built-in one that health goes by."""

    def predict(self, uploads):
        if [upload.image_uri for upload in uploads] != ["health check"]:
            raise RuntimeError("secret of /opt/model")
        return super().predict(uploads)


@pytest.mark.parametrize(
    ("path", "data", "headers"),
    [("/v1/detect", JPEG, JPEG_TYPE), ("/score", contract_body(base64_text(JPEG)), JSON_TYPE)],
)
def test_a_failure_of_ours_tells_nothing_of_our_insides(scorer, path, data, headers):
    settings = settings_for("unused")
    failing = FailingScorer(scorer.predictor)
    engine = ScoringEngine(failing, ThreadPoolExecutor(1), settings)
    with serving(api_of(engine, settings)) as url:
        status, _, answer = ask(f"{url}{path}", data=data, headers=headers)
        assert (status, answer["error"]["code"]) == (500, "internal")
        assert "secret" not in json.dumps(answer)
        assert ask(f"{url}/readyz", "GET")[0] == 200


# --- starting ------------------------------------------------------------------------------------


def test_a_port_in_use_is_told_before_anything_starts():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=f"Cannot listen there: 127.0.0.1:{port}"):
            free_port("127.0.0.1", port)


def test_serve_has_one_address_per_cluster(ray_url, tiny_model_path):
    port = int(ray_url.rpartition(":")[2])
    with pytest.raises(ServiceError, match=f"got 127.0.0.1:{port}, expected 127.0.0.1:{port + 1}"):
        start_service(settings_for(tiny_model_path), port=port + 1)


def test_a_version_that_cannot_start_is_told_and_the_running_one_goes_on(ray_url, tiny_model_path):
    before = detect(ray_url)
    with pytest.raises(
        ServiceError, match="The service does not start: http-test .*Unknown device"
    ):
        start_service(settings_for(tiny_model_path, device="abacus"), port=0, name="http-test")
    assert detect(ray_url) == before


def test_a_missing_model_is_told_before_anything_starts(ray_cluster, tmp_path):
    with pytest.raises(ModelFileError, match="No such model file"):
        start_service(settings_for(tmp_path / "none.safetensors"), port=0)
    (tmp_path / "note.safetensors").write_text("just a note")
    with pytest.raises(ModelFileError, match="Not a model file"):
        start_service(settings_for(tmp_path / "note.safetensors"), port=0)


def test_without_a_cluster_there_is_no_service(tiny_model_path):
    code = (
        "from serve_app.settings import ServiceSettings; from serve_app.start import start_service;"
        f"start_service(ServiceSettings(model={str(tiny_model_path)!r}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "ServiceError: No Ray cluster is connected" in run.stderr
