"""How each server is asked for the detections of one picture, and how its answer is read."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.online.pictures import Picture
from benchmarks.online.protocols import DETECT, Found, WrongAnswerError
from benchmarks.peers.agreement import found_of

_BOUNDARY = "7e1f4c0a9b"


@dataclass(frozen=True)
class Asking:
    """One way to ask.

    Attributes:
        path: Of the route.
        body: What is posted for a picture.
        headers: Sent with it.
        read: The detections in the body of an answer with status 200.
    """

    path: str
    body: Callable[[bytes], bytes]
    read: Callable[[bytes, Picture], Found]
    headers: dict[str, str] = field(default_factory=dict)


def read_answer(asking: Asking, answer: bytes, picture: Picture) -> Found:
    """Detections of an answer.

    Raises:
        WrongAnswerError: It has none.
    """
    try:
        return asking.read(answer, picture)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise WrongAnswerError(f"{type(error).__name__}: {answer[:200]!r}") from None


def _form(name: str) -> Callable[[bytes], bytes]:
    def body(jpeg: bytes) -> bytes:
        disposition = f'Content-Disposition: form-data; name="{name}"; filename="picture.jpg"'
        head = f"--{_BOUNDARY}\r\n{disposition}\r\nContent-Type: image/jpeg\r\n\r\n"
        return head.encode() + jpeg + f"\r\n--{_BOUNDARY}--\r\n".encode()

    return body


def _base64(jpeg: bytes) -> str:
    return base64.b64encode(jpeg).decode()


def _in_json(jpeg: bytes) -> bytes:
    return json.dumps({"image": _base64(jpeg)}).encode()


def _inference_request(jpeg: bytes) -> bytes:
    tensor: dict[str, Any] = {"name": "image", "shape": [1, 1], "datatype": "BYTES"}
    tensor |= {"parameters": {"content_type": "base64"}, "data": [_base64(jpeg)]}
    return json.dumps({"inputs": [tensor]}).encode()


def _read_plain(answer: bytes, picture: Picture) -> Found:
    return found_of(json.loads(answer))


def _read_first(answer: bytes, picture: Picture) -> Found:
    return found_of(json.loads(answer)[0])


def _read_inference(answer: bytes, picture: Picture) -> Found:
    return found_of(json.loads(json.loads(answer)["outputs"][0]["data"][0]))


def _read_record(answer: bytes, picture: Picture) -> Found:
    return DETECT.read(answer, [picture])[0]


_JPEG = {"Content-Type": "image/jpeg"}
_JSON = {"Content-Type": "application/json"}
_FORM = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}

ASKINGS = {
    "ours": Asking(DETECT.path, bytes, _read_record, _JPEG),
    "form": Asking("/detect", _form("image"), _read_plain, _FORM),
    "form_record": Asking("/detect", _form("image"), _read_record, _FORM),
    "forms": Asking("/detect", _form("images"), _read_first, _FORM),
    "json": Asking("/detect", _in_json, _read_plain, _JSON),
    "json_record": Asking("/detect", _in_json, _read_record, _JSON),
    "inference": Asking("/v2/models/detector/infer", _inference_request, _read_inference, _JSON),
    "predictions": Asking("/predictions/detector", bytes, _read_plain, _JPEG),
}
