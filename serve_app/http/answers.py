"""From records to what a request asked for."""

from __future__ import annotations

import io
import json
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
from starlette.responses import Response

from appliance.detections import Detections
from appliance.images.decoding import ImageLimits, decode_image
from appliance.images.drawing import draw_detections
from appliance.records import Record


def select(
    record: Record,
    *,
    score_threshold: float | None = None,
    max_detections: int | None = None,
    labels: Collection[str] | None = None,
) -> Record:
    """`record` with only the detections asked for, best first; None asks for all."""
    found = (
        item
        for item in record.detections
        if (score_threshold is None or item.score >= score_threshold)
        and (labels is None or item.label in labels)
    )
    return replace(record, detections=tuple(found)[:max_detections])


def contract_text(record: Record) -> str:
    """The JSON string that `POST /score` answers for one picture that was read."""
    boxes_xyxy = np.array([(d.x1, d.y1, d.x2, d.y2) for d in record.detections], np.float32)
    detections = Detections(
        boxes_xyxy,
        np.array([d.score for d in record.detections], np.float32),
        np.array([d.class_id for d in record.detections], np.int64),
        (record.height_px or 0, record.width_px or 0),  # 0, of an unread picture, is refused there
    )
    return json.dumps(detections.to_score_dict())


def json_response(value: Any, status: int = 200) -> Response:
    """`value` as JSON; ASCII only, since names given by clients may hold what UTF-8 cannot express."""
    return Response(json.dumps(value).encode("ascii"), status, media_type="application/json")


def annotated_jpeg(data: bytes, record: Record, limits: ImageLimits) -> bytes:
    """The picture with the detections of `record` drawn into it.

    Args:
        data: The encoded picture that the record is of.
        record: What to draw; its boxes are in pixels of the original.
        limits: As it was decoded under.
    """
    image = decode_image(data, source=record.image_uri, limits=limits)
    found = record.detections
    drawn = draw_detections(
        image.pixels,
        [(d.x1, d.y1, d.x2, d.y2) for d in found],
        [f"{d.label} {d.score:.2f}" for d in found],
        [d.class_id for d in found],
    )
    buffer = io.BytesIO()
    drawn.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
