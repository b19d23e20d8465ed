"""Inference requests of the Open Inference Protocol: JSON, binary tensors behind it, trusting neither."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from appliance.errors import ApplianceError
from serve_app.errors import RequestError
from serve_app.http.json_bodies import parse_json, validated, wrong_shape
from serve_app.http.picture_texts import decode_image_text
from serve_app.http.pictures import SentPicture
from serve_app.http.schemas import DetectOptions
from serve_app.inference_protocol.descriptions import INPUT_NAME, OUTPUT_NAMES
from serve_app.inference_protocol.tensors import (
    BYTES,
    UINT8,
    bad_tensor,
    bytes_from_binary,
    checked_shape,
    element_count,
    flattened,
    uint8_from_json,
)

OPTION_NAMES = ("score_threshold", "max_detections", "labels", "resize")
_IGNORED_PARAMETERS = ("priority", "timeout")
"""What Triton's clients may send for its schedulers; X-Request-Timeout-Ms is our deadline."""
_MAX_TENSORS = 100
_UNSUPPORTED = ("shared_memory_region", "classification")


class InferInput(BaseModel):
    """An input tensor, its data in JSON or, with `binary_data_size`, behind it."""

    name: str
    datatype: str
    shape: list[Any]
    parameters: dict[str, Any] | None = None
    data: Any = None


class InferOutput(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferBody(BaseModel):
    """The JSON part of an inference request; fields unknown here belong to extensions and are ignored."""

    id: str | None = Field(None, description="Returned as it is.")
    parameters: dict[str, Any] | None = Field(
        None, description=f"{', '.join(OPTION_NAMES)}, as in /v1/detect; binary_data_output."
    )
    inputs: list[InferInput]
    outputs: list[InferOutput] | None = Field(None, description="Which to answer; else all.")


@dataclass(frozen=True)
class RequestedOutput:
    """An output, and whether its data is to follow the JSON part in binary."""

    name: str
    binary: bool


@dataclass(frozen=True)
class InferRequest:
    """A checked request.

    Attributes:
        id: As the client calls it, or None.
        pictures: In the order sent; what is wrong with one of them stands in its place.
        outputs: What to answer, in the order asked.
        options: Those of a detection.
    """

    id: str | None
    pictures: list[SentPicture]
    outputs: tuple[RequestedOutput, ...]
    options: DetectOptions


def parse_infer_request(body: bytes, header_length: str | None, max_images: int) -> InferRequest:
    """The request in a body.

    Args:
        body: All of it, unpacked.
        header_length: The header Inference-Header-Content-Length: bytes of JSON at the front of the body;
            None when all of it is JSON, 0 when it is one encoded picture.
        max_images: Most pictures.

    Raises:
        RequestError: 400, 413 or 422, with what is wrong.
    """
    length = _json_length(header_length, body)
    if length == 0:
        outputs = tuple(RequestedOutput(name, False) for name in OUTPUT_NAMES)
        return InferRequest(None, [SentPicture(INPUT_NAME, body)], outputs, DetectOptions())
    value = parse_json(body[:length], with_tensors=True)
    if not isinstance(value, dict):
        raise wrong_shape("The JSON part of the body must be an object")
    for name in ("inputs", "outputs"):
        if isinstance(value.get(name), list) and len(value[name]) > _MAX_TENSORS:
            raise bad_tensor(f"{name}: {len(value[name])} tensors, expected at most {_MAX_TENSORS}")
    given = validated(InferBody, value, "")
    if [item.name for item in given.inputs] != [INPUT_NAME]:
        names = ", ".join(item.name[:40] for item in given.inputs[:3])
        raise bad_tensor(f"Expected the one input {INPUT_NAME}, got {names or 'none'}")
    pictures = _pictures(given.inputs[0], memoryview(body)[length:], max_images)
    parameters = given.parameters or {}
    return InferRequest(
        given.id, pictures, _outputs(given.outputs, parameters), _options(parameters)
    )


def _json_length(header_length: str | None, body: bytes) -> int:
    if header_length is None:
        return len(body)
    text = header_length.strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= len(body)):
        raise RequestError(
            400,
            "invalid_header",
            f"Inference-Header-Content-Length is {text[:40]}, the body has {len(body)} bytes",
            hint="Send the number of bytes of the JSON part",
        )
    return int(text)


def _pictures(given: InferInput, binary: memoryview, max_images: int) -> list[SentPicture]:
    shape = checked_shape(given.shape, INPUT_NAME)
    _check_count(given.datatype, shape, max_images)
    parameters = given.parameters or {}
    _refuse_unsupported(parameters, INPUT_NAME)
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size != len(binary)):
        raise bad_tensor(
            f"{INPUT_NAME}: binary_data_size is {str(size)[:40]}, {len(binary)} bytes follow the JSON part"
        )
    if size is None and len(binary):
        raise bad_tensor(f"{len(binary)} bytes follow the JSON part, and no input has binary data")
    if (size is None) == (given.data is None):
        raise bad_tensor(f"{INPUT_NAME}: expected either data or binary_data_size")
    data = binary if size is not None else flattened(given.data, element_count(shape), INPUT_NAME)
    if given.datatype == UINT8:
        return _of_pixels(data, shape)
    several = shape[0] > 1
    names = [f"{INPUT_NAME}[{index}]" if several else INPUT_NAME for index in range(shape[0])]
    if isinstance(data, memoryview):
        elements: list[Any] = bytes_from_binary(data, len(names), INPUT_NAME)
    else:
        elements = [_of_text(item, name) for item, name in zip(data, names, strict=True)]
    return [SentPicture(name, item) for name, item in zip(names, elements, strict=True)]


def _check_count(datatype: str, shape: tuple[int, ...], max_images: int) -> None:
    if datatype == BYTES and (len(shape) == 1 or shape[1:] == (1,)):
        count = shape[0]
    elif datatype == UINT8 and len(shape) in (3, 4) and shape[-1] == 3:
        count = shape[0] if len(shape) == 4 else 1
    else:
        raise bad_tensor(
            f"{INPUT_NAME} is {datatype[:40]} {list(shape)}, expected BYTES [n] or [n, 1], or UINT8 "
            "[n, h, w, 3] or [h, w, 3]"
        )
    if count > max_images:
        raise RequestError(
            413,
            "too_many_images",
            f"The request has {count} pictures (expected at most {max_images})",
            hint="Send several requests",
        )


def _of_text(item: Any, name: str) -> bytes | ApplianceError:
    if not isinstance(item, str):
        raise bad_tensor(f"{name}: an element of BYTES must be a text with base64")
    try:
        return decode_image_text(item, name)
    except RequestError as error:
        return error  # one picture of several spoils no other


def _of_pixels(data: memoryview | list[Any], shape: tuple[int, ...]) -> list[SentPicture]:
    raw = data if isinstance(data, memoryview) else uint8_from_json(data, INPUT_NAME)
    if len(raw) != element_count(shape):
        raise bad_tensor(f"{INPUT_NAME}: {len(raw)} bytes, the shape needs {element_count(shape)}")
    pixels = np.frombuffer(raw, np.uint8).reshape(-1, *shape[-3:])
    several = len(pixels) > 1
    return [
        SentPicture(f"{INPUT_NAME}[{index}]" if several else INPUT_NAME, _bitmap(picture))
        for index, picture in enumerate(pixels)
    ]


def _bitmap(pixels_hwc: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Pixels as a file without compression: the way from bytes to detections stays the only one."""
    buffer = io.BytesIO()
    Image.fromarray(pixels_hwc).save(buffer, "BMP")
    return buffer.getvalue()


def _outputs(
    asked: list[InferOutput] | None, parameters: dict[str, Any]
) -> tuple[RequestedOutput, ...]:
    binary = _truth_value(parameters, "binary_data_output", False)
    if not asked:
        return tuple(RequestedOutput(name, binary) for name in OUTPUT_NAMES)
    names = [output.name for output in asked]
    for name in names:
        if name not in OUTPUT_NAMES:
            raise bad_tensor(f"There is no output {name[:40]}, only {', '.join(OUTPUT_NAMES)}")
    if len(set(names)) < len(names):
        raise bad_tensor("An output is asked for twice")
    outputs = []
    for output in asked:
        own = output.parameters or {}
        _refuse_unsupported(own, output.name)
        outputs.append(RequestedOutput(output.name, _truth_value(own, "binary_data", binary)))
    return tuple(outputs)


def _options(parameters: dict[str, Any]) -> DetectOptions:
    known = {*OPTION_NAMES, *_IGNORED_PARAMETERS, "binary_data_output"}
    unknown = [name for name in parameters if name not in known]
    if unknown:
        raise wrong_shape(
            f"There is no parameter {unknown[0][:40]}, only {', '.join(OPTION_NAMES)} and "
            "binary_data_output"
        )
    options = {name: parameters[name] for name in OPTION_NAMES if name in parameters}
    return validated(DetectOptions, options, "parameters.")


def _refuse_unsupported(parameters: dict[str, Any], where: str) -> None:
    for name in _UNSUPPORTED:
        if name in parameters:
            raise bad_tensor(f"{where}: the service has no {name}")


def _truth_value(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise wrong_shape(f"{name} must be true or false")
    return value
