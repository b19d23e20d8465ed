"""The four ways to ask a service for detections: how each is asked, and how its answer is read.

Nothing here knows Locust or the service's code: requests and answers are bytes, as anybody's client has them.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.online.pictures import Picture

STREAM_PICTURES = 4
"""Pictures of one request of the stream."""


class WrongAnswerError(Exception):
    """An answer that came with status 200 and is not what was asked for."""


@dataclass(frozen=True)
class Found:
    """The detections of one picture, whatever protocol they came by.

    Attributes:
        boxes_xyxy: float `[N, 4]` in pixels of the picture as sent.
        scores: float `[N]`, best first.
        class_ids: int `[N]`, from 1.
    """

    boxes_xyxy: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    class_ids: npt.NDArray[np.int64]

    @classmethod
    def of(cls, boxes_xyxy: Any, scores: Any, class_ids: Any) -> Found:
        """From plain lists.

        Raises:
            WrongAnswerError: They are no numbers, or not equally many.
        """
        try:
            found = cls(
                np.reshape(np.array(boxes_xyxy, np.float64), (-1, 4)),
                np.array(scores, np.float64),
                np.array(class_ids, np.int64),
            )
        except (TypeError, ValueError):
            raise WrongAnswerError("detections that are no numbers") from None
        if not len(found.boxes_xyxy) == len(found.scores) == len(found.class_ids):
            raise WrongAnswerError("not as many boxes as scores and classes")
        return found


@dataclass(frozen=True)
class Protocol:
    """One way to ask.

    Attributes:
        name: As options and Locust's tags say it.
        path: Of the route; `{model}` stands for the name of the model.
        pictures: How many one request has.
        request: Body and headers for so many pictures.
        read: The detections of each picture from the body of an answer with status 200, in the order sent.
    """

    name: str
    path: str
    pictures: int
    request: Callable[[Sequence[Picture]], tuple[bytes, dict[str, str]]]
    read: Callable[[bytes, Sequence[Picture]], list[Found]]


def _raw_request(pictures: Sequence[Picture]) -> tuple[bytes, dict[str, str]]:
    return pictures[0].jpeg, {"Content-Type": "image/jpeg"}


def _read_record(body: bytes, pictures: Sequence[Picture]) -> list[Found]:
    return [_of_record(_parsed(body), pictures[0])]


def _score_request(pictures: Sequence[Picture]) -> tuple[bytes, dict[str, str]]:
    items = [{"image_in_base64": _base64(picture), "parameters": {}} for picture in pictures]
    return json.dumps(items).encode(), {"Content-Type": "application/json"}


def _read_score(body: bytes, pictures: Sequence[Picture]) -> list[Found]:
    texts = _parsed(body)
    if not isinstance(texts, list) or len(texts) != len(pictures):
        raise WrongAnswerError("not one text a picture")
    return [
        _of_score(_parsed(text), picture) for text, picture in zip(texts, pictures, strict=True)
    ]


def _of_score(answer: Any, picture: Picture) -> Found:
    with _Fields("detections of /score"):
        width, height = picture.size_wh
        boxes_tlbr = np.reshape(np.array(answer["detection_boxes"], np.float64), (-1, 4))
        boxes_xyxy = boxes_tlbr[:, [1, 0, 3, 2]] * (width, height, width, height)
        found = Found.of(boxes_xyxy, answer["detection_scores"], answer["detection_classes"])
        if answer["num_detections"] != len(found.scores):
            raise WrongAnswerError("num_detections is not the number of detections")
        return found


def _infer_request(pictures: Sequence[Picture]) -> tuple[bytes, dict[str, str]]:
    """Pictures as binary BYTES behind the JSON part, as Triton's clients send them."""
    data = b"".join(struct.pack("<I", len(p.jpeg)) + p.jpeg for p in pictures)
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [len(pictures)],
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return head + data, headers


def _read_infer(body: bytes, pictures: Sequence[Picture]) -> list[Found]:
    with _Fields("tensors of /v2"):
        outputs = {output["name"]: output for output in _parsed(body)["outputs"]}
        tensors = {
            name: np.reshape(np.array(outputs[name]["data"]), outputs[name]["shape"])
            for name in ("num_detections", "boxes_xyxy", "scores", "class_ids", "size_hw", "errors")
        }
        found = []
        for index, picture in enumerate(pictures):
            if tensors["errors"][index]:
                raise WrongAnswerError("an error instead of detections")
            _check_size(tuple(int(side) for side in tensors["size_hw"][index][::-1]), picture)
            count = int(tensors["num_detections"][index])
            parts = (tensors[name][index][:count] for name in ("boxes_xyxy", "scores", "class_ids"))
            found.append(Found.of(*parts))
        return found


def _stream_request(pictures: Sequence[Picture]) -> tuple[bytes, dict[str, str]]:
    lines = [
        json.dumps({"image": _base64(picture), "name": picture.name}).encode() + b"\n"
        for picture in pictures
    ]
    return b"".join(lines), {"Content-Type": "application/x-ndjson"}


def _read_stream(body: bytes, pictures: Sequence[Picture]) -> list[Found]:
    with _Fields("lines of a stream"):
        rows = [_parsed(line) for line in body.splitlines()]
        by_index = {row["index"]: row for row in rows}
        if sorted(by_index) != list(range(len(pictures))) or len(rows) != len(pictures):
            raise WrongAnswerError("not one line a picture")
        return [_of_record(by_index[index], picture) for index, picture in enumerate(pictures)]


DETECT = Protocol("detect", "/v1/detect", 1, _raw_request, _read_record)
SCORE = Protocol("score", "/score", 1, _score_request, _read_score)
INFER = Protocol("infer", "/v2/models/{model}/infer", 1, _infer_request, _read_infer)
STREAM = Protocol("stream", "/v1/detect/stream", STREAM_PICTURES, _stream_request, _read_stream)
PROTOCOLS = {protocol.name: protocol for protocol in (DETECT, SCORE, INFER, STREAM)}


def _of_record(row: Any, picture: Picture) -> Found:
    with _Fields("fields of a record"):
        if row["error"] is not None:
            raise WrongAnswerError(f"an error instead of detections: {row['error_kind']}")
        _check_size((row["width_px"], row["height_px"]), picture)
        items = row["detections"]
        boxes_xyxy = [[item[side] for side in ("x1", "y1", "x2", "y2")] for item in items]
        return Found.of(boxes_xyxy, [i["score"] for i in items], [i["class_id"] for i in items])


def _check_size(size_wh: tuple[int, int], picture: Picture) -> None:
    if tuple(size_wh) != picture.size_wh:
        raise WrongAnswerError("the size of another picture")


def _base64(picture: Picture) -> str:
    return base64.b64encode(picture.jpeg).decode()


def _parsed(body: bytes | str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, TypeError):
        raise WrongAnswerError("no JSON") from None


class _Fields:
    """What is missing in an answer, or is something else, makes it a wrong one."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (KeyError, IndexError, TypeError, ValueError, AttributeError)):
            raise WrongAnswerError(f"{self._what} are missing or malformed") from error
