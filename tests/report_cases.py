"""Evaluations for the tests of the report: objects and detections by their places on one picture."""

from __future__ import annotations

import base64

import numpy as np

from appliance.detections import Detections
from appliance.evaluation.evaluate import EvaluationResult
from appliance.evaluation.metrics.average_precision import GroundTruth, pascal_average_precision
from appliance.labels import LabelMap

SIZE_HW = (100, 400)


def box(place: int) -> tuple[float, float, float, float]:
    """One of many boxes that do not touch each other."""
    return (20.0 * place, 0.0, 20.0 * place + 10.0, 10.0)


def evaluation_of(
    labels: LabelMap,
    truth: list[tuple[int, int]],
    scored: list[tuple[int, int, float]],
    iou_threshold: float = 0.5,
) -> EvaluationResult:
    """One picture; objects as (place, class id), detections as (place, class id, score)."""
    ground_truth = GroundTruth(
        np.array([box(place) for place, _ in truth], np.float32),
        np.array([class_id for _, class_id in truth]),
        np.zeros(len(truth), bool),
        "1.jpg",
    )
    detections = Detections(
        np.array([box(place) for place, _, _ in scored], np.float32),
        np.array([score for _, _, score in scored], np.float32),
        np.array([class_id for _, class_id, _ in scored], np.int64),
        SIZE_HW,
    )
    pascal = pascal_average_precision([ground_truth], [detections], labels, iou_threshold)
    return EvaluationResult(pascal, labels, (ground_truth,), (detections,), 0.5)


def groceries() -> EvaluationResult:
    """joghurt at the golden value 33/35, water at 1/2, orange without an object."""
    ranking = (0, 1, 2, 3, 15, 16, 4)
    scored = [(place, 1, 0.9 - 0.1 * rank) for rank, place in enumerate(ranking)]
    return evaluation_of(
        LabelMap(("joghurt", "orange", "water")),
        [(place, 1) for place in range(5)] + [(5, 3), (6, 3)],
        [*scored, (5, 3, 0.25)],
    )


def decoded(data_uri: str) -> bytes:
    """What a data URI holds."""
    return base64.b64decode(data_uri.split(",", 1)[1])
