"""The Open Inference Protocol over real HTTP, asked by Triton's own client as it comes from the registry."""

from __future__ import annotations

import asyncio
import base64
import json

import numpy as np
import pytest
import tritonclient.http as triton
from factories import encoded, jpeg_bytes, picture
from serving import ask, plain_service, serving, settings_for

from appliance.scoring import ImageScorer
from serve_app.http.api import create_api
from serve_app.inference_protocol.descriptions import OUTPUT_NAMES
from serve_app.inference_protocol.tensors import bytes_to_binary
from serve_app.scoring.models import ModelPool

JPEGS = [jpeg_bytes((128, 96), seed=1), jpeg_bytes((96, 64), seed=2)]
KEY = {"Authorization": "Bearer key-1"}


@pytest.fixture(scope="module")
def url(service_url):
    return service_url


@pytest.fixture(scope="module")
def client(url):
    with triton.InferenceServerClient(url.removeprefix("http://"), concurrency=4) as connected:
        yield connected


@pytest.fixture(scope="module")
def scorer(tiny_model_path):
    return ImageScorer.load(str(tiny_model_path), device="cpu")


def input_of(values, *, datatype="BYTES", binary=True):
    array = np.array(values, object if datatype == "BYTES" else np.uint8)
    tensor = triton.InferInput("image", list(array.shape), datatype)
    return tensor.set_data_from_numpy(array, binary_data=binary)


def assert_found(answer, records):
    """The tensors of an answer say what the records say."""
    counts = answer.as_numpy("num_detections").tolist()
    assert counts == [len(record.detections) for record in records]
    assert min(counts) > 0
    for index, record in enumerate(records):
        rows = slice(0, counts[index])
        boxes = [(d.x1, d.y1, d.x2, d.y2) for d in record.detections]
        np.testing.assert_allclose(answer.as_numpy("boxes_xyxy")[index, rows], boxes, atol=0.5)
        scores = [d.score for d in record.detections]
        np.testing.assert_allclose(answer.as_numpy("scores")[index, rows], scores, atol=1e-3)
        ids = [d.class_id for d in record.detections]
        assert answer.as_numpy("class_ids")[index, rows].tolist() == ids
        labels = np.array(answer.as_numpy("labels")[index, rows], np.bytes_).tolist()
        assert labels == [d.label.encode() for d in record.detections]
        assert answer.as_numpy("size_hw")[index].tolist() == [record.height_px, record.width_px]
    assert not any(answer.as_numpy("errors"))


def test_health_and_metadata(client, scorer):
    assert client.is_server_live()
    assert client.is_server_ready()
    version = scorer.predictor.model_version
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", version)
    assert not client.is_model_ready("tiny", "7")
    assert not client.is_model_ready("other")
    server = client.get_server_metadata()
    assert (server["name"], server["extensions"]) == ("detection-appliance", ["binary_tensor_data"])
    model = client.get_model_metadata("tiny")
    assert model == client.get_model_metadata("tiny", version)
    assert (model["name"], model["versions"]) == ("tiny", [version])
    assert model["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert tuple(output["name"] for output in model["outputs"]) == OUTPUT_NAMES


def test_the_answer_has_the_datatypes_and_shapes_of_the_metadata(client):
    answer = client.infer("tiny", [input_of(JPEGS)])
    for described in client.get_model_metadata("tiny")["outputs"]:
        array = answer.as_numpy(described["name"])
        sent = answer.get_output(described["name"])
        assert sent["datatype"] == described["datatype"]
        assert array.ndim == len(described["shape"])
        assert all(
            side in (-1, real) for side, real in zip(described["shape"], array.shape, strict=True)
        )


@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
def test_pictures_in_binary(client, scorer, packing):
    records = scorer.score([("a", JPEGS[0]), ("b", JPEGS[1])])
    answer = client.infer(
        "tiny",
        [input_of(JPEGS)],
        model_version=scorer.predictor.model_version,
        request_id="caf\u00e9 7",
        request_compression_algorithm=packing,
        response_compression_algorithm=packing,
    )
    assert_found(answer, records)
    response = answer.get_response()
    assert (response["model_name"], response["id"]) == ("tiny", "caf\u00e9 7")
    assert response["model_version"] == scorer.predictor.model_version


def test_pictures_in_json_and_outputs_as_asked(client, scorer):
    texts = [base64.b64encode(data).decode() for data in JPEGS]
    asked = [triton.InferRequestedOutput(name, binary_data=False) for name in OUTPUT_NAMES]
    answer = client.infer("tiny", [input_of(texts, binary=False)], outputs=asked)
    assert_found(answer, scorer.score([("a", JPEGS[0]), ("b", JPEGS[1])]))
    asked = [triton.InferRequestedOutput("labels"), triton.InferRequestedOutput("scores", False)]
    response = client.infer("tiny", [input_of([[JPEGS[0]]])], outputs=asked).get_response()
    assert [("data" in output) for output in response["outputs"]] == [False, True]


@pytest.mark.parametrize("binary", [True, False])
def test_pixels_are_scored_as_the_picture_they_are(client, scorer, binary):
    image = picture((64, 48), seed=3)
    answer = client.infer(
        "tiny", [input_of(np.array(image)[None], datatype="UINT8", binary=binary)]
    )
    assert_found(answer, scorer.score([("a", encoded(image, "PNG"))]))


def test_several_requests_at_once(client, scorer):
    records = scorer.score([("a", JPEGS[0])])
    waiting = [client.async_infer("tiny", [input_of(JPEGS[:1])]) for _ in range(6)]
    answers = [request.get_result() for request in waiting]
    for answer in answers:
        assert_found(answer, records)


def test_options_choose_among_the_detections(client):
    every = client.infer("tiny", [input_of(JPEGS)])
    two = client.infer("tiny", [input_of(JPEGS)], parameters={"max_detections": 2})
    assert two.as_numpy("scores").shape == (2, 2)
    np.testing.assert_array_equal(two.as_numpy("scores"), every.as_numpy("scores")[:, :2])
    circles = client.infer("tiny", [input_of(JPEGS)], parameters={"labels": "circle"})
    assert set(circles.as_numpy("labels").ravel()) <= {b"circle", b""}
    none = client.infer("tiny", [input_of(JPEGS)], parameters={"score_threshold": 1.0})
    assert none.as_numpy("boxes_xyxy").shape == (2, 0, 4)
    assert none.as_numpy("num_detections").tolist() == [0, 0]
    asked = [triton.InferRequestedOutput("labels", binary_data=False)]
    answer = client.infer(
        "tiny", [input_of(JPEGS)], outputs=asked, parameters={"score_threshold": 1.0}
    )
    assert answer.as_numpy("labels").shape == (2, 0)


def test_a_broken_picture_spoils_no_other(client, scorer):
    answer = client.infer("tiny", [input_of([JPEGS[0], b"no picture", JPEGS[1]])])
    counts = answer.as_numpy("num_detections").tolist()
    records = scorer.score([("a", JPEGS[0]), ("b", JPEGS[1])])
    assert counts == [len(records[0].detections), 0, len(records[1].detections)]
    first, bad, last = answer.as_numpy("errors")
    assert (first, last) == (b"", b"")
    assert b"Not a picture: image[1]" in bad


@pytest.mark.parametrize(
    ("ask_for", "words"),
    [
        (lambda client: client.infer("tiny", [input_of([b"no picture"])]), "Not a picture: image"),
        (lambda client: client.infer("tiny", [input_of([b"x", b"y"])]), "Not a picture: image[0]"),
        (lambda client: client.infer("other", [input_of(JPEGS)]), "no model of the name other"),
        (lambda client: client.infer("tiny", [input_of(JPEGS)], "7"), "no version 7"),
        (lambda client: client.infer("tiny", [input_of(JPEGS * 2)]), "4 pictures"),
        (lambda client: client.infer("tiny", [input_of([b"x" * 200_000])]), "200,000 bytes"),
        (lambda client: client.infer("tiny", [input_of(JPEGS)], sequence_id=3), "sequence_id"),
        (
            lambda client: client.infer("tiny", [input_of(JPEGS)], parameters={"labels": "cat"}),
            "cat",
        ),
        (lambda client: client.get_model_config("tiny"), "nothing at /v2/models/tiny/config"),
        (lambda client: client.get_model_metadata("other"), "no model of the name other"),
        (lambda client: client.get_model_metadata("tiny", "7"), "no version 7"),
        (lambda client: client.get_model_repository_index(), "nothing at /v2/repository/index"),
    ],
)
def test_the_client_is_told_what_is_wrong(client, ask_for, words):
    with pytest.raises(triton.InferenceServerException) as caught:
        ask_for(client)
    assert words in caught.value.message()
    assert caught.value.status() in ("400", "404", "413", "422")


def test_compressed_bodies_are_limited_as_they_are_unpacked(client):
    with pytest.raises(triton.InferenceServerException, match="200,000 bytes"):
        client.infer("tiny", [input_of([b"x" * 300_000])], request_compression_algorithm="gzip")


# --- without the client ------------------------------------------------------------------------------


def test_a_picture_alone_is_a_request(url, scorer):
    headers = {"Inference-Header-Content-Length": "0"}
    status, _, answer = ask(f"{url}/v2/models/tiny/infer", "POST", JPEGS[0], headers)
    assert status == 200
    outputs = {output["name"]: output for output in answer["outputs"]}
    (record,) = scorer.score([("a", JPEGS[0])])
    assert outputs["num_detections"]["data"] == [len(record.detections)]
    assert outputs["labels"]["data"] == [found.label for found in record.detections]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v2/", 404, "nothing at /v2/"),
        ("GET", "/v2/models", 404, "nothing at /v2/models"),
        ("GET", "/v2/models/tiny/infer", 405, "GET is not possible"),
        ("POST", "/v2/health/live", 405, "POST is not possible"),
        ("POST", "/v2/models/tiny/infer", 400, "not JSON"),
        ("POST", "/v2/models/%00%ff/infer", 400, "not JSON"),
        ("GET", "/v2/models/%00%ff", 404, "no model of the name"),
    ],
)
def test_errors_have_the_form_of_the_protocol(url, method, path, status, words):
    got_status, headers, answer = ask(f"{url}{path}", method, b"{" if method == "POST" else None)
    assert got_status == status
    assert set(answer) == {"error"}
    assert words in answer["error"]
    assert ("Allow" in headers) == (status == 405)


@pytest.mark.parametrize("timeout", ["0", "soon"])
def test_errors_of_headers_have_that_form_too(url, timeout):
    body = json.dumps({"inputs": []})
    headers = {"X-Request-Timeout-Ms": timeout}
    status, _, answer = ask(f"{url}/v2/models/tiny/infer", "POST", body, headers)
    assert status == 400
    assert "X-Request-Timeout-Ms" in answer["error"]


def test_the_examples_of_the_description_work(url):
    _, _, api = ask(f"{url}/openapi.json", "GET")
    paths = {path for path in api["paths"] if path.startswith("/v2")}
    model = {f"/v2/models/{{name}}{version}" for version in ("", "/versions/{version}")}
    assert paths == {"/v2", "/v2/health/live", "/v2/health/ready"} | {
        f"{path}{suffix}" for path in model for suffix in ("", "/ready", "/infer")
    }
    infer = api["paths"]["/v2/models/{name}/infer"]["post"]
    body = json.dumps(infer["requestBody"]["content"]["application/json"]["example"])
    status, _, answer = ask(f"{url}/v2/models/tiny/infer", "POST", body)
    assert (status, answer["model_name"]) == (200, "tiny")


def test_keys_close_models_and_leave_health_open(tiny_model_path):
    with (
        plain_service(tiny_model_path, keys=("key-1",)) as url,
        triton.InferenceServerClient(url.removeprefix("http://")) as client,
    ):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert not client.is_model_ready("tiny")
        assert client.is_model_ready("tiny", headers=KEY)
        with pytest.raises(triton.InferenceServerException, match="asks for a key"):
            client.infer("tiny", [input_of(JPEGS)])
        answer = client.infer("tiny", [input_of(JPEGS)], headers=KEY)
        assert answer.as_numpy("num_detections").shape == (2,)
        status, headers, _ = ask(f"{url}/v2/models/tiny", "GET")
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")


def test_a_stopped_model_is_not_ready(tiny_model_path):
    settings = settings_for(tiny_model_path)
    pool = ModelPool.load(settings)
    with serving(create_api(pool, settings)) as url:
        asyncio.run(pool.default.close())
        with triton.InferenceServerClient(url.removeprefix("http://")) as client:
            assert client.is_server_live()
            assert not client.is_server_ready()
            assert not client.is_model_ready("tiny")
        status, headers, answer = ask(f"{url}/v2/health/ready", "GET")
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "does not answer" in answer["error"]


def test_the_binary_form_is_what_any_program_can_write(url):
    binary = bytes_to_binary(JPEGS)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2]}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(binary)}}]})
    headers = {"Inference-Header-Content-Length": str(len(head))}
    path = f"{url}/v2/models/tiny/infer"
    status, _, answer = ask(path, "POST", head.encode() + binary, headers)
    assert status == 200
    assert answer["outputs"][0]["shape"] == [2]
