"""Tensors and requests of the Open Inference Protocol: as numpy and Triton's client have them, and whatever else
may come."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tritonclient import utils as triton

from serve_app.errors import RequestError
from serve_app.inference_protocol.content_encoding import unpacked
from serve_app.inference_protocol.descriptions import OUTPUT_NAMES
from serve_app.inference_protocol.infer_answers import infer_answer
from serve_app.inference_protocol.infer_requests import RequestedOutput, parse_infer_request
from serve_app.inference_protocol.tensors import (
    Tensor,
    bytes_from_binary,
    bytes_to_binary,
    checked_shape,
    flattened,
    uint8_from_json,
)

ELEMENTS = st.lists(st.binary(max_size=40), max_size=6)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


def outcome(call, *arguments):
    """What the call gives, or the error with which it refuses what it was given."""
    try:
        return call(*arguments)
    except RequestError as error:
        return error


@given(ELEMENTS)
def test_bytes_have_the_form_of_tritons_client(elements):
    binary = bytes_to_binary(elements)
    assert bytes_from_binary(memoryview(binary), len(elements), "x") == elements
    array = np.array([*elements, None], object)[:-1]
    serialized = triton.serialize_byte_tensor(array)
    assert binary == (serialized.item() if serialized.size else b"")
    assert triton.deserialize_bytes_tensor(binary).tolist() == elements


@given(st.binary(max_size=60) | ELEMENTS.map(bytes_to_binary), st.integers(0, 4))
def test_any_bytes_are_elements_or_are_refused(data, count):
    elements = outcome(bytes_from_binary, memoryview(data), count, "x")
    if not isinstance(elements, RequestError):
        assert len(elements) == count
        assert bytes_to_binary(elements) == data


def test_an_element_longer_than_the_rest_takes_no_memory():
    with pytest.raises(RequestError, match="element 1 is cut off"):
        bytes_from_binary(memoryview(struct.pack("<IBI", 1, 7, 2**32 - 1)), 2, "x")


@pytest.mark.parametrize("datatype", ["FP32", "INT32", "INT64", "UINT8"])
def test_numbers_are_those_of_numpy(datatype):
    dtype = triton.triton_to_np_dtype(datatype)
    values = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    tensor = Tensor.of_numbers("x", datatype, values)
    assert tensor.shape == (2, 3, 4)
    again = np.frombuffer(tensor.to_binary(), dtype).reshape(tensor.shape)
    np.testing.assert_array_equal(again, values)
    np.testing.assert_array_equal(np.array(tensor.to_json(), dtype).reshape(2, 3, 4), values)
    assert flattened(values.tolist(), 24, "x") == tensor.to_json()


def test_half_a_surrogate_pair_in_a_label_is_no_failure():
    tensor = Tensor("labels", "BYTES", (2,), ["caf\u00e9", "\ud800"])
    assert bytes_from_binary(memoryview(tensor.to_binary()), 2, "x") == [b"caf\xc3\xa9", b"?"]
    answer = infer_answer(
        model_name="m",
        model_version="1",
        request_id=None,
        tensors={"labels": tensor},
        outputs=[RequestedOutput("labels", False)],
    )
    assert answer.json_length is None
    assert json.loads(answer.body)["outputs"][0]["data"] == ["caf\u00e9", "\ud800"]


@pytest.mark.parametrize(
    "shape", [None, 3, "3", [], [0], [-1], [1.0], [True], ["1"], [2**31], [1] * 9, [[1]]]
)
def test_a_shape_is_a_list_of_sides(shape):
    with pytest.raises(RequestError, match="whole numbers from 1"):
        checked_shape(shape, "x")


@pytest.mark.parametrize(
    "data", [{}, "abc", 3, [1, [2]], [[1], 2], [1, 2, 3], [[[[1]]], [[[2]]]] * 2]
)
def test_json_data_must_have_the_elements_of_the_shape(data):
    with pytest.raises(RequestError) as caught:
        flattened(data, 2, "x")
    assert caught.value.status == 400


@pytest.mark.parametrize("elements", [[256], [-1], [0.5], ["1"], [None], [10**30], [[1]]])
def test_pixels_in_json_are_whole_numbers(elements):
    with pytest.raises(RequestError, match="from 0 to 255"):
        uint8_from_json(elements, "x")


# --- requests -------------------------------------------------------------------------------------


def body_of(image, *, binary=None, **fields):
    head = json.dumps({"inputs": [{"name": "image", **image}], **fields}).encode()
    return (head, None) if binary is None else (head + binary, str(len(head)))


def parse(body, header_length=None):
    return parse_infer_request(body, header_length, max_images=3)


def bytes_input(*elements, **parameters):
    binary = bytes_to_binary(elements)
    size = {"binary_data_size": len(binary), **parameters}
    return {"datatype": "BYTES", "shape": [len(elements)], "parameters": size}, binary


def test_a_request_names_its_pictures_and_outputs():
    image, binary = bytes_input(b"one", b"two")
    asked = [{"name": "scores"}, {"name": "labels", "parameters": {"binary_data": False}}]
    options = {"score_threshold": 0.5, "labels": "a, b", "priority": 3, "timeout": 1}
    body = body_of(
        image,
        binary=binary,
        id="7",
        outputs=asked,
        parameters={"binary_data_output": True, **options},
    )
    request = parse(*body)
    assert request.id == "7"
    assert [(p.name, p.content) for p in request.pictures] == [
        ("image[0]", b"one"),
        ("image[1]", b"two"),
    ]
    assert request.outputs == (RequestedOutput("scores", True), RequestedOutput("labels", False))
    assert request.options.score_threshold == 0.5
    assert request.options.labels == ["a", "b"]


def test_by_default_all_outputs_come_as_json():
    request = parse(*body_of({"datatype": "BYTES", "shape": [1, 1], "data": [["QUJD"]]}))
    assert [(p.name, p.content) for p in request.pictures] == [("image", b"ABC")]
    assert request.outputs == tuple(RequestedOutput(name, False) for name in OUTPUT_NAMES)
    assert request.id is None


def test_a_text_that_is_no_base64_spoils_no_other():
    request = parse(*body_of({"datatype": "BYTES", "shape": [2], "data": ["QUJD", "%"]}))
    good, bad = (picture.content for picture in request.pictures)
    assert good == b"ABC"
    assert isinstance(bad, RequestError)


def test_a_header_length_of_0_means_that_the_body_is_the_picture():
    request = parse(b"\xff\xd8 jpeg", "0")
    assert [(p.name, p.content) for p in request.pictures] == [("image", b"\xff\xd8 jpeg")]


@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (5, 4, 3)])
@pytest.mark.parametrize("as_json", [True, False])
def test_pixels_come_out_as_they_went_in(shape, as_json):
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    image = {"datatype": "UINT8", "shape": list(shape)}
    if as_json:
        body = body_of({**image, "data": pixels.tolist()})
    else:
        image["parameters"] = {"binary_data_size": pixels.size}
        body = body_of(image, binary=pixels.tobytes())
    read = [np.array(Image.open(io.BytesIO(p.content))) for p in parse(*body).pictures]
    np.testing.assert_array_equal(np.stack(read), pixels.reshape(-1, 5, 4, 3))


GOOD = {"datatype": "BYTES", "shape": [1], "data": ["QUJD"]}
PIXELS = {"datatype": "UINT8", "shape": [1, 1, 3]}


@pytest.mark.parametrize(
    ("image", "fields", "words"),
    [
        ({**GOOD, "name": "pixels"}, {}, "the one input image, got pixels"),
        (GOOD, {"inputs": []}, "got none"),
        (GOOD, {"inputs": [{"name": "image", **GOOD}] * 2}, "got image, image"),
        (GOOD, {"inputs": None}, "inputs"),
        (GOOD, {"id": 7}, "id"),
        ({**GOOD, "datatype": "FP32"}, {}, "image is FP32"),
        ({**GOOD, "shape": [1, 2]}, {}, "BYTES [1, 2]"),
        ({**GOOD, "shape": [4]}, {}, "4 pictures"),
        ({**GOOD, "shape": [2]}, {}, "1 elements, the shape needs 2"),
        ({**GOOD, "data": [7]}, {}, "text with base64"),
        ({**GOOD, "data": None}, {}, "either data or binary_data_size"),
        ({**GOOD, "parameters": {"binary_data_size": 0}}, {}, "either data or binary_data_size"),
        ({**GOOD, "parameters": {"binary_data_size": 9}}, {}, "0 bytes follow"),
        ({**GOOD, "parameters": {"binary_data_size": True}}, {}, "binary_data_size is True"),
        ({**GOOD, "parameters": {"shared_memory_region": "x"}}, {}, "no shared_memory_region"),
        ({**PIXELS, "data": [1, 2, 300]}, {}, "from 0 to 255"),
        ({**PIXELS, "shape": [4, 1, 1, 3], "data": [1] * 12}, {}, "4 pictures"),
        ({**PIXELS, "shape": [1, 1, 4], "data": [1] * 4}, {}, "image is UINT8"),
        (GOOD, {"outputs": [{"name": "boxes"}]}, "no output boxes"),
        (GOOD, {"outputs": [{"name": "scores"}] * 2}, "twice"),
        (
            GOOD,
            {"outputs": [{"name": "scores", "parameters": {"classification": 2}}]},
            "no classif",
        ),
        (
            GOOD,
            {"outputs": [{"name": "scores", "parameters": {"binary_data": 1}}]},
            "true or false",
        ),
        (GOOD, {"parameters": {"binary_data_output": "yes"}}, "true or false"),
        (GOOD, {"parameters": {"treshold": 1}}, "no parameter treshold"),
        (GOOD, {"parameters": {"score_threshold": float("nan")}}, "parameters.score_threshold"),
        (GOOD, {"parameters": {"max_detections": 0}}, "parameters.max_detections"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(image, fields, words):
    with pytest.raises(RequestError) as caught:
        parse(*body_of(image, **fields))
    assert words in caught.value.message
    assert caught.value.status in (400, 413, 422)


@pytest.mark.parametrize("length", ["", "-1", "1.0", "99", "\u0663", "x", "1" * 30])
def test_a_wrong_header_length_is_refused(length):
    with pytest.raises(RequestError, match="Inference-Header-Content-Length"):
        parse(b"{}", length)


def test_bytes_that_belong_to_no_tensor_are_refused():
    with pytest.raises(RequestError, match="3 bytes follow the JSON part, and no input"):
        parse(*body_of(GOOD, binary=b"abc"))
    image, binary = bytes_input(b"one")
    with pytest.raises(RequestError, match="binary_data_size is 7, 8 bytes follow"):
        parse(*body_of(image, binary=binary + b"x"))
    pixels = {**PIXELS, "parameters": {"binary_data_size": 2}}
    with pytest.raises(RequestError, match="2 bytes, the shape needs 3"):
        parse(*body_of(pixels, binary=b"ab"))


def test_a_body_is_an_object():
    with pytest.raises(RequestError, match="must be an object"):
        parse(b"[]")


@given(
    st.binary(max_size=30) | JSON_VALUES.map(lambda value: json.dumps(value).encode()),
    st.none() | st.integers(0, 40).map(str) | st.text(max_size=3),
)
def test_any_body_is_a_request_or_is_refused(body, header_length):
    request = outcome(parse, body, header_length)
    assert isinstance(request, RequestError) or len(request.pictures) == 1


# The first input takes seconds on a busy machine.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["datatype", "shape", "data", "parameters"]), JSON_VALUES, max_size=4
    ),
    st.dictionaries(st.sampled_from(["id", "outputs", "parameters"]), JSON_VALUES, max_size=3),
)
def test_any_json_in_the_place_of_a_field_is_a_request_or_is_refused(image, fields):
    request = outcome(parse, *body_of({**GOOD, **image}, **fields))
    assert isinstance(request, RequestError) or 1 <= len(request.pictures) <= 3


# --- compressed bodies -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [(None, bytes), ("Identity", bytes), ("gzip", gzip.compress), ("deflate", zlib.compress)],
)
def test_bodies_are_unpacked(encoding, pack):
    data = bytes(range(256)) * 40
    assert unpacked(pack(data), encoding, len(data)) == data


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (gzip.compress(b"x" * 1001), "gzip", 413),
        (zlib.compress(b"\0" * 10_000_000), "deflate", 413),
        (b"no gzip", "gzip", 400),
        (gzip.compress(b"cut")[:-1], "gzip", 400),
        (gzip.compress(b"one") + b"two", "gzip", 400),
        (zlib.compress(b"x"), "gzip", 400),
        (b"x", "br", 415),
        (b"x", "gzip, deflate", 415),
    ],
)
def test_bodies_that_are_not_what_they_say_are_refused(body, encoding, status):
    with pytest.raises(RequestError) as caught:
        unpacked(body, encoding, 1000)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": [' + b"{}," * 10_001 + b"{}]}",
        b'{"inputs": [], "parameters": {' + b'"a": 0,' * 10_001 + b'"b": 0}}',
        b'{"inputs": [' + b"[]," * 1_000_001 + b"[]]}",
    ],
)
def test_json_of_more_values_than_pixels_need_is_not_parsed(body):
    with pytest.raises(RequestError, match="too many values") as caught:
        parse_infer_request(body, None, 3)
    assert caught.value.status == 413


@pytest.mark.parametrize("name", ["inputs", "outputs"])
def test_tensors_beyond_number_are_refused_before_they_are_looked_at(name):
    body = json.dumps({"inputs": [], name: [0] * 101}).encode()
    with pytest.raises(RequestError, match=f"{name}: 101 tensors"):
        parse_infer_request(body, None, 3)
