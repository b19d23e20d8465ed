"""Precision, recall and F1 at every score threshold, against counting them one threshold at a time."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import ONE_LABEL, THREE_LABELS, found, random_pictures, square, truth_of

from appliance.evaluation.metrics.average_precision import pascal_average_precision
from appliance.evaluation.metrics.operating_points import OperatingPoint, threshold_curve


def test_curve_by_hand() -> None:
    truth = truth_of(*(square(index) for index in range(4)))
    detections = found((square(0), 0.75), (square(8), 0.5), (square(1), 0.5), (square(2), 0.25))
    curve = pascal_average_precision([truth], [detections], ONE_LABEL).labels[0].curve
    assert curve.score_thresholds.tolist() == [0.25, 0.5, 0.75]
    assert curve.true_positives.tolist() == [3, 2, 1]
    assert curve.false_positives.tolist() == [1, 1, 0]
    assert curve.precision.tolist() == [3 / 4, 2 / 3, 1.0]
    assert curve.recall.tolist() == [3 / 4, 2 / 4, 1 / 4]
    assert curve.f1 == pytest.approx([6 / 8, 4 / 7, 2 / 5])
    assert curve.best == OperatingPoint(0.25, 3, 1, 1)


@pytest.mark.parametrize("seed", range(5))
def test_every_threshold_does_what_counting_says(seed: int) -> None:
    truths, detections = random_pictures(seed, scores=12)
    result = pascal_average_precision(truths, detections, THREE_LABELS)
    counted = ~result.matches.is_ignored
    scores, is_right = result.matches.scores[counted], result.matches.is_true_positive[counted]
    objects = len(result.matches.object_class_ids)

    curve = result.curve

    assert curve.score_thresholds.tolist() == sorted(set(scores.tolist()))
    by_f1 = []
    for index, threshold in enumerate(curve.score_thresholds):
        shown = scores >= threshold
        right, wrong = int(is_right[shown].sum()), int((~is_right)[shown].sum())
        point = OperatingPoint(threshold, right, wrong, objects - right)
        assert (curve.true_positives[index], curve.false_positives[index]) == (right, wrong)
        assert curve.precision[index] == point.precision
        assert curve.recall[index] == point.recall
        assert curve.f1[index] == pytest.approx(point.f1, abs=1e-15)
        by_f1.append((point.f1, threshold, point))
    assert result.best == max(by_f1)[2]


def test_without_detections_there_is_no_threshold() -> None:
    curve = threshold_curve(np.zeros(0, np.float32), np.zeros(0, bool), 3)
    assert len(curve.score_thresholds) == len(curve.f1) == 0
    assert curve.best == OperatingPoint(None, 0, 0, 3)


def test_without_objects_everything_is_wrong() -> None:
    curve = threshold_curve(np.array([0.5, 0.25], np.float32), np.zeros(2, bool), 0)
    assert curve.recall.tolist() == curve.f1.tolist() == [0.0, 0.0]
    assert curve.best == OperatingPoint(None, 0, 2, 0)
