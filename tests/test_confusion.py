"""Which class is taken for which, by hand, and that nothing is counted twice or lost."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import (
    ONE_LABEL,
    THREE_LABELS,
    TWO_LABELS,
    found,
    random_pictures,
    square,
    truth_of,
)

from appliance.errors import LabelError
from appliance.evaluation.metrics.confusion import confusion_matrix


def test_each_cell_by_hand() -> None:
    truths = [
        truth_of(square(0), square(1), square(2), class_ids=[1, 1, 2]),
        truth_of(square(0), class_ids=[2]),
        truth_of(),
    ]
    detections = [
        # Right, a joghurt taken for water, and nothing on the third.
        found((square(0), 0.9), (square(1), 0.8), class_ids=[1, 2]),
        found((square(0), 0.7), class_ids=[2]),
        # A negative with two wrong joghurts, one of them below the threshold.
        found((square(5), 0.5), (square(6), 0.4), class_ids=[1, 1]),
    ]
    matrix = confusion_matrix(truths, detections, TWO_LABELS, 0.5)
    assert matrix.labels == ("joghurt", "water")
    assert matrix.counts.tolist() == [[1, 1, 0], [0, 1, 1], [1, 0, 0]]
    assert (matrix.score_threshold, matrix.iou_threshold) == (0.5, 0.5)
    assert matrix.normalised().tolist() == [[0.5, 0.5, 0], [0, 0.5, 0.5], [1, 0, 0]]


def test_row_without_a_count_stays_zero() -> None:
    matrix = confusion_matrix([truth_of(square(0))], [found((square(0), 0.9))], TWO_LABELS, 0.5)
    assert matrix.normalised().tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_best_score_chooses_first_whatever_its_class() -> None:
    truth = truth_of(square(0))
    detections = found((square(0, 1), 0.9), (square(0), 0.8), class_ids=[2, 1])
    matrix = confusion_matrix([truth], [detections], TWO_LABELS, 0.5)
    # The water takes the joghurt; the right one comes too late and lies on background.
    assert matrix.counts.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_taken_object_leaves_the_next_best_one() -> None:
    truth = truth_of(square(0), square(0, 3), class_ids=[1, 2])
    detections = found((square(0), 0.9), (square(0, 1), 0.8))
    # Overlaps of the second: 9 / 11 with the first object, which is taken, 8 / 12 with the other one.
    matrix = confusion_matrix([truth], [detections], TWO_LABELS, 0.5)
    assert matrix.counts.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_best_overlap_is_taken_and_of_equal_ones_the_own_class() -> None:
    near = truth_of(square(0, 2), square(0, 1), class_ids=[1, 2])
    matrix = confusion_matrix([near], [found((square(0), 0.9))], TWO_LABELS, 0.5)
    assert matrix.counts.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    same_place = truth_of(square(0), square(0), class_ids=[2, 1])
    matrix = confusion_matrix([same_place], [found((square(0), 0.9))], TWO_LABELS, 0.5)
    assert matrix.counts.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_overlap_and_score_count_from_their_thresholds_on() -> None:
    truth, half = truth_of((0, 0, 10, 10)), (0, 0, 10, 5)
    for detections, threshold, iou, is_pair in [
        (found((half, 0.5)), 0.5, 0.5, True),
        (found((half, 0.5)), 0.5, 0.51, False),
        (found((half, 0.1)), 0.1, 0.5, True),
    ]:
        counts = confusion_matrix([truth], [detections], ONE_LABEL, threshold, iou).counts
        assert counts.tolist() == ([[1, 0], [0, 0]] if is_pair else [[0, 1], [1, 0]])


def test_difficult_objects_and_crowds_leave_out_whoever_takes_them() -> None:
    truth = truth_of(square(0), square(1), square(2), difficult=[0], crowd=[1])
    detections = found(
        (square(0), 0.9),
        (square(0), 0.8),
        (square(1), 0.7),
        (square(1), 0.6),
        class_ids=[1, 2, 1, 1],
    )
    matrix = confusion_matrix([truth], [detections], TWO_LABELS, 0.5)
    assert matrix.counts.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("seed", range(4))
def test_every_object_and_every_detection_is_counted_once(seed: int) -> None:
    truths, detections = random_pictures(seed, scores=10, ignored_share=0.0)
    counts = confusion_matrix(truths, detections, THREE_LABELS, 0.3).counts
    ids = np.concatenate([truth.class_ids for truth in truths])
    assert counts[:3].sum(axis=1).tolist() == np.bincount(ids, minlength=4)[1:].tolist()
    shown = np.concatenate([d.filter(score_threshold=0.3).class_ids for d in detections])
    assert counts[:, :3].sum(axis=0).tolist() == np.bincount(shown, minlength=4)[1:].tolist()
    assert counts[3, 3] == 0
    assert counts[:3, :3].trace() > 10


def test_no_picture_gives_an_empty_matrix() -> None:
    assert confusion_matrix([], [], ONE_LABEL, 0.5).counts.tolist() == [[0, 0], [0, 0]]


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match="1 ground truths for 0 detections"):
        confusion_matrix([truth_of()], [], ONE_LABEL, 0.5)
    with pytest.raises(ValueError, match="iou_threshold"):
        confusion_matrix([], [], ONE_LABEL, 0.5, 0.0)
    with pytest.raises(LabelError, match="class id 2, expected 1 to 1"):
        confusion_matrix([truth_of(square(0), class_ids=[2])], [found()], ONE_LABEL, 0.5)
