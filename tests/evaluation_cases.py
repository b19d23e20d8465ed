"""Objects and detections for the tests of the figures: by hand on one picture, or at random on many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from appliance.detections import Detections
from appliance.evaluation.metrics.matching import GroundTruth
from appliance.labels import LabelMap

SIZE_HW = (100, 200)
ONE_LABEL = LabelMap(("joghurt",))
TWO_LABELS = LabelMap(("joghurt", "water"))
THREE_LABELS = LabelMap(("joghurt", "water", "milk"))
Box = tuple[float, float, float, float]


def truth_of(
    *boxes: Box,
    class_ids: Sequence[int] = (),
    difficult: Sequence[int] = (),
    crowd: Sequence[int] = (),
) -> GroundTruth:
    """Objects of class 1, unless told; `difficult` and `crowd` list the places of such objects."""
    ids = np.array(class_ids or [1] * len(boxes), np.int64)
    is_difficult, is_crowd = (
        np.isin(np.arange(len(boxes)), places) for places in (difficult, crowd)
    )
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return GroundTruth(corners, ids, is_difficult, "1.jpg", is_crowd)


def found(*scored: tuple[Box, float], class_ids: Sequence[int] = ()) -> Detections:
    """Detections of class 1, unless told, in the order given."""
    boxes = np.array([box for box, _ in scored], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score in scored], np.float32)
    ids = np.array(class_ids or [1] * len(scored), np.int64)
    return Detections(boxes, scores, ids, SIZE_HW)


def square(index: int, shift: float = 0.0) -> Box:
    """One of many boxes of 10 x 10 that do not touch each other, moved to the right by `shift`."""
    return (20.0 * index + shift, 0.0, 20.0 * index + shift + 10.0, 10.0)


def random_pictures(
    seed: int,
    pictures: int = 40,
    most_objects: int = 6,
    most_detections: int = 12,
    scores: int = 10_000,
    class_ids: Sequence[int] = (1, 2, 3),
    sides: tuple[float, float] = (8.0, 200.0),
    ignored_share: float = 0.1,
) -> tuple[list[GroundTruth], list[Detections]]:
    """Pictures with objects of all sizes, some difficult, some crowds, and detections around them.

    Some pictures have no objects, some no detections. There are `scores` different scores.
    """
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for picture in range(pictures):
        objects = int(rng.integers(most_objects + 1))
        truth_boxes = _random_boxes(rng, objects, sides)
        truth_ids = rng.choice(class_ids, objects)
        is_difficult, is_crowd = rng.random((2, objects)) < ignored_share
        truths.append(GroundTruth(truth_boxes, truth_ids, is_difficult, f"{picture}.jpg", is_crowd))
        count = int(rng.integers(most_detections + 1))
        boxes, ids = _random_boxes(rng, count, sides), rng.choice(class_ids, count)
        for index in range(count if objects else 0):
            near = int(rng.integers(2 * objects))
            if near < objects:
                boxes[index] = _nudged(rng, truth_boxes[near])
                ids[index] = truth_ids[near] if rng.random() < 0.8 else ids[index]
        ranked = np.sort(rng.integers(1, scores + 1, count))[::-1] / scores
        detections.append(Detections(boxes, ranked.astype(np.float32), ids, (600, 600)))
    return truths, detections


def _random_boxes(rng: np.random.Generator, count: int, sides: tuple[float, float]) -> np.ndarray:
    size = np.exp(rng.uniform(*np.log(sides), (count, 2)))
    corner = rng.uniform(0, 300, (count, 2))
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


def _nudged(rng: np.random.Generator, box: np.ndarray) -> np.ndarray:
    """The box with its sides moved by some tenths of its size, still within the picture."""
    width, height = box[2:] - box[:2]
    moved = box + rng.normal(0, 0.1, 4) * (width, height, width, height)
    x1, y1 = np.clip(moved[:2], 0, 590)
    x2, y2 = np.clip(moved[2:], (x1 + 4, y1 + 4), 600)
    return np.array([x1, y1, x2, y2], np.float32)
