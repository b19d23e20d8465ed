"""From records to what a request asked for."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace

import numpy as np

from appliance.detections import Detections
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
