"""Overlapping boxes of all pictures at once, against a loop over pictures and boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from evaluation_cases import Box, found, random_pictures, square, truth_of

from appliance.detections import Detections
from appliance.evaluation.metrics import overlaps
from appliance.evaluation.metrics.matching import GroundTruth, match_detections
from appliance.evaluation.metrics.overlaps import FlatBoxes, overlapping_pairs, paired_iou


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def pairs_one_by_one(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], least: float, same_class: bool
) -> list[tuple[int, int, float]]:
    pairs = []
    first_detection = first_object = 0
    for truth, one in zip(truths, detections, strict=True):
        for place, (box, class_id) in enumerate(zip(one.boxes_xyxy, one.class_ids, strict=True)):
            for index, (other, other_id) in enumerate(
                zip(truth.boxes_xyxy, truth.class_ids, strict=True)
            ):
                overlap = iou(box.tolist(), other.tolist())
                if overlap >= least and (class_id == other_id or not same_class):
                    pairs.append((first_detection + place, first_object + index, overlap))
        first_detection += len(one)
        first_object += len(truth)
    return pairs


@pytest.mark.parametrize("same_class", [True, False])
@pytest.mark.parametrize("pairs_at_once", [1, 7, 1_000_000])
def test_pairs_are_those_of_a_loop_over_pictures_and_boxes(
    same_class: bool, pairs_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlaps, "_PAIRS_AT_ONCE", pairs_at_once)
    truths, detections = random_pictures(5, 30)
    pairs = overlapping_pairs(
        FlatBoxes.of(detections), FlatBoxes.of(truths), 0.1, same_class=same_class
    )
    expected = pairs_one_by_one(truths, detections, 0.1, same_class)
    assert len(expected) > 50
    assert list(zip(pairs.detection, pairs.object, strict=True)) == [row[:2] for row in expected]
    assert pairs.iou == pytest.approx([row[2] for row in expected], abs=1e-12)
    best = pairs.best_per_detection()
    assert best.detection.tolist() == sorted({row[0] for row in expected})
    for detection, target, overlap in zip(best.detection, best.object, best.iou, strict=True):
        rivals = [row for row in expected if row[0] == detection]
        assert target == max(rivals, key=lambda row: row[2])[1]
        assert overlap == pytest.approx(max(row[2] for row in rivals))


def test_first_object_among_equal_overlaps_is_the_best() -> None:
    truth, one = truth_of(square(0, 2), square(0), square(0)), found((square(0), 0.9))
    pairs = overlapping_pairs(FlatBoxes.of([one]), FlatBoxes.of([truth]), 0.5, same_class=True)
    assert pairs.object.tolist() == [0, 1, 2]
    assert pairs.best_per_detection().object.tolist() == [1]


def test_boxes_know_their_picture_and_their_place() -> None:
    boxes = FlatBoxes.of([truth_of(), truth_of(square(0), square(1)), truth_of(square(2))])
    assert (boxes.image_index.tolist(), boxes.place.tolist()) == ([1, 1, 2], [0, 1, 0])
    assert boxes.boxes_xyxy.tolist() == [list(square(index)) for index in range(3)]
    assert len(boxes) == 3


def test_no_picture_and_no_box_give_no_pair() -> None:
    for truths, detections in (([], []), ([truth_of()], [found()])):
        nothing = overlapping_pairs(
            FlatBoxes.of(detections), FlatBoxes.of(truths), 0.5, same_class=True
        )
        assert len(nothing.detection) == len(nothing.best_per_detection().detection) == 0
    assert len(match_detections([], []).scores) == 0


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((0, 0, 10, 10), 1.0),
        ((0, 0, 10, 5), 0.5),
        ((5, 0, 15, 10), 1 / 3),
        ((10, 0, 20, 10), 0.0),
        ((30, 30, 40, 40), 0.0),
    ],
)
def test_overlap_of_boxes_has_no_plus_one(other: Box, expected: float) -> None:
    first, second = np.array([(0, 0, 10, 10)], np.float32), np.array([other], np.float32)
    assert paired_iou(first, second).tolist() == [expected]
