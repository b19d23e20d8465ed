"""Answers to inference requests: what was found as tensors, as JSON or with binary tensors behind it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve_app.http.results import Result
from serve_app.inference_protocol.infer_requests import RequestedOutput
from serve_app.inference_protocol.tensors import BYTES, Tensor


@dataclass(frozen=True)
class InferAnswer:
    """The body of an answer.

    Attributes:
        body: JSON, and binary tensors behind it.
        json_length: Bytes of JSON, or None when nothing is behind it.
    """

    body: bytes
    json_length: int | None


def tensors_of(results: Sequence[Result]) -> dict[str, Tensor]:
    """Every output of the model, by name; see `descriptions` for what they hold.

    Args:
        results: One a picture, in the order sent.
    """
    found = [result.record.detections for result in results]
    count, most = len(found), max((len(items) for items in found), default=0)
    boxes_xyxy = np.zeros((count, most, 4), np.float32)
    scores = np.zeros((count, most), np.float32)
    class_ids = np.zeros((count, most), np.int64)
    labels = [""] * (count * most)
    for index, items in enumerate(found):
        for row, item in enumerate(items):
            boxes_xyxy[index, row] = (item.x1, item.y1, item.x2, item.y2)
            scores[index, row] = item.score
            class_ids[index, row] = item.class_id
            labels[index * most + row] = item.label
    sizes_hw = [(r.record.height_px or 0, r.record.width_px or 0) for r in results]
    errors = ["" if result.error is None else str(result.error) for result in results]
    tensors = (
        Tensor.of_numbers("num_detections", "INT32", [len(items) for items in found]),
        Tensor.of_numbers("boxes_xyxy", "FP32", boxes_xyxy),
        Tensor.of_numbers("scores", "FP32", scores),
        Tensor.of_numbers("class_ids", "INT64", class_ids),
        Tensor("labels", BYTES, (count, most), labels),
        Tensor.of_numbers("size_hw", "INT32", np.reshape(sizes_hw, (count, 2))),
        Tensor("errors", BYTES, (count,), errors),
    )
    return {tensor.name: tensor for tensor in tensors}


def infer_answer(
    *,
    model_name: str,
    model_version: str,
    request_id: str | None,
    tensors: dict[str, Tensor],
    outputs: Iterable[RequestedOutput],
) -> InferAnswer:
    """The outputs that were asked for, in the form that was asked for.

    Args:
        model_name: As the client calls it.
        model_version: Its version.
        request_id: As the client calls the request, or None.
        tensors: All outputs by name.
        outputs: Which of them, and how.
    """
    described: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for output in outputs:
        tensor = tensors[output.name]
        description: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        if output.binary:
            binary.append(tensor.to_binary())
            description["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            description["data"] = tensor.to_json()
        described.append(description)
    answer: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if request_id is not None:
        answer["id"] = request_id
    # ASCII only: names may hold what UTF-8 cannot express.
    head = json.dumps({**answer, "outputs": described}).encode("ascii")
    return InferAnswer(b"".join([head, *binary]), len(head) if binary else None)
