"""The PASCAL rules, one by one on hand-worked cases; all together are in test_brute_force.py."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from evaluation_cases import ONE_LABEL, SIZE_HW, TWO_LABELS, found, square, truth_of

from appliance.detections import Detections
from appliance.errors import DatasetError, LabelError
from appliance.evaluation.metrics.average_precision import (
    GroundTruth,
    OperatingPoint,
    average_precision,
    pascal_average_precision,
)
from appliance.evaluation.metrics.matching import match_detections


def ap_of(truth: GroundTruth, detections: Detections) -> float | None:
    return pascal_average_precision([truth], [detections], ONE_LABEL).ap_per_label["joghurt"]


@pytest.mark.parametrize(
    ("interpolation", "expected"), [("all-point", 33 / 35), ("11-point", (9 + 2 * 5 / 7) / 11)]
)
def test_golden_value_of_the_first_system(interpolation: str, expected: float) -> None:
    truth = truth_of(*(square(index) for index in range(5)))
    # TP TP TP TP FP FP TP; squares 7 and 8 are empty.
    ranked = [square(index) for index in (0, 1, 2, 3, 7, 8, 4)]
    detections = found(*((box, 0.9 - 0.1 * rank) for rank, box in enumerate(ranked)))

    result = pascal_average_precision([truth], [detections], ONE_LABEL, 0.5, interpolation)

    assert result.map == pytest.approx(expected, abs=1e-12)
    assert round(result.map, 6) in (0.942857, 0.948052)
    assert result.matches.is_true_positive.tolist() == [True] * 4 + [False] * 2 + [True]


def test_eleven_points_count_a_recall_that_meets_them_exactly() -> None:
    # Three of five objects, all right: the points 0, 0.1, ..., 0.6 have precision 1.
    ranking = np.array([True, True, True])
    assert average_precision(ranking, 5, "11-point") == pytest.approx(7 / 11, abs=1e-12)
    assert average_precision(ranking, 5) == pytest.approx(3 / 5, abs=1e-12)


def test_contract_dictionary_has_the_keys_of_the_first_system() -> None:
    result = pascal_average_precision([truth_of(square(0))], [found((square(0), 0.8))], TWO_LABELS)
    metrics = result.to_contract_dict()
    assert list(metrics) == [
        "PASCAL/PerformanceByCategory/AP@0.5IOU/joghurt",
        "PASCAL/PerformanceByCategory/AP@0.5IOU/water",
        "PASCAL/Precision/mAP@0.5IOU",
    ]
    assert metrics["PASCAL/PerformanceByCategory/AP@0.5IOU/joghurt"] == 1.0
    assert math.isnan(metrics["PASCAL/PerformanceByCategory/AP@0.5IOU/water"])
    assert metrics["PASCAL/Precision/mAP@0.5IOU"] == 1.0


def test_overlap_of_exactly_one_half_counts_and_pixels_get_no_plus_one() -> None:
    # 50 / 100. With +1 on the sides it would be 66 / 121, so a slightly smaller box tells the two apart.
    assert ap_of(truth_of((0, 0, 10, 10)), found(((0, 0, 10, 5), 0.9))) == 1.0
    assert ap_of(truth_of((0, 0, 10, 10)), found(((0, 0, 10, 4.99), 0.9))) == 0.0


def test_second_detection_of_one_object_is_a_false_positive() -> None:
    truth = truth_of(square(0), square(1))
    detections = found((square(0), 0.9), (square(0), 0.8), (square(1), 0.7))
    # Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    assert ap_of(truth, detections) == pytest.approx((1 + 2 / 3) / 2, abs=1e-12)


def test_detection_whose_best_object_is_taken_does_not_turn_to_its_second_best() -> None:
    # Two objects that overlap; both detections lie best on the first, the second one overlaps the other
    # by 8 / 12 = 0.67 as well. COCO would let it have that object, PASCAL does not.
    truth = truth_of((0, 0, 10, 10), (2, 0, 12, 10))
    detections = found(((0, 0, 10, 10), 0.9), ((0.5, 0, 10.5, 10), 0.8))
    matches = match_detections([truth], [detections])
    assert matches.is_true_positive.tolist() == [True, False]
    assert matches.is_false_positive.tolist() == [False, True]
    assert ap_of(truth, detections) == 0.5


def test_difficult_objects_are_neither_asked_for_nor_held_against_anyone() -> None:
    truth = truth_of(square(0), square(1), difficult=[1])
    # Both detections of the difficult object are dropped, also the second one.
    detections = found((square(1), 0.9), (square(1), 0.8), (square(0), 0.7))
    result = pascal_average_precision([truth], [detections], ONE_LABEL)
    assert result.map == 1.0
    assert result.labels[0].num_objects == 1
    assert result.matches.is_ignored.tolist() == [True, True, False]
    assert result.matches.is_true_positive.tolist() == [False, False, True]
    assert result.best == OperatingPoint(pytest.approx(0.7), 1, 0, 0)


def test_detection_that_barely_overlaps_a_difficult_object_is_a_false_positive() -> None:
    truth = truth_of((0, 0, 10, 10), square(1), difficult=[0])
    detections = found(((0, 0, 10, 4), 0.9), (square(1), 0.8))
    assert ap_of(truth, detections) == 0.5


def test_crowds_count_as_difficult() -> None:
    truth = truth_of(square(0), square(1), square(2), crowd=[1], difficult=[2])
    detections = found((square(1), 0.9), (square(1), 0.8), (square(2), 0.7), (square(0), 0.6))
    result = pascal_average_precision([truth], [detections], ONE_LABEL)
    assert result.map == 1.0
    assert result.labels[0].num_objects == 1
    assert result.matches.is_ignored.tolist() == [True, True, True, False]
    assert truth.is_ignored.tolist() == [False, True, True]


def test_detection_turns_to_the_first_of_objects_that_it_overlaps_alike() -> None:
    truth = truth_of(square(0), square(0), difficult=[0])
    assert match_detections([truth], [found((square(0), 0.9))]).is_ignored.tolist() == [True]
    truth = truth_of(square(0), square(0), difficult=[1])
    matches = match_detections([truth], [found((square(0), 0.9), (square(0), 0.8))])
    assert matches.is_true_positive.tolist() == [True, False]
    assert matches.is_false_positive.tolist() == [False, True]


def test_detection_of_another_class_finds_nothing_and_takes_nothing() -> None:
    truth = truth_of(square(0), square(1), class_ids=[1, 2])
    detections = found((square(0), 0.9), (square(0), 0.8), (square(1), 0.7), class_ids=[2, 1, 2])
    result = pascal_average_precision([truth], [detections], TWO_LABELS)
    assert result.ap_per_label == {"joghurt": 1.0, "water": 0.5}
    assert result.map == 0.75


def test_equal_scores_rank_by_picture_then_by_detection() -> None:
    truths = [truth_of(square(0)), truth_of(square(0))]
    wrong_then_right = found((square(3), 0.5), (square(0), 0.5))
    right = found((square(0), 0.5))
    # FP TP | TP: precision 1/2, 2/3 at the two finds, envelope 2/3 for both.
    first = pascal_average_precision(truths, [wrong_then_right, right], ONE_LABEL)
    assert first.matches.is_true_positive.tolist() == [False, True, True]
    assert first.matches.image_index.tolist() == [0, 0, 1]
    assert first.matches.detection_index.tolist() == [0, 1, 0]
    assert first.map == pytest.approx(2 / 3, abs=1e-12)
    # TP | FP TP.
    second = pascal_average_precision(truths, [right, wrong_then_right], ONE_LABEL)
    assert second.matches.is_true_positive.tolist() == [True, False, True]
    assert second.map == pytest.approx((1 + 2 / 3) / 2, abs=1e-12)


def test_class_without_objects_leaves_the_mean_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    detections = found((square(0), 0.9), (square(1), 0.8), class_ids=[1, 2])
    with caplog.at_level(logging.WARNING, logger="appliance"):
        result = pascal_average_precision([truth_of(square(0))], [detections], TWO_LABELS)
    assert result.map == 1.0
    assert result.ap_per_label == {"joghurt": 1.0, "water": None}
    assert "left out of the mean average precision: water" in caplog.text


def test_class_with_objects_and_no_detection_scores_zero(
    caplog: pytest.LogCaptureFixture,
) -> None:
    truth = truth_of(square(0), square(1), class_ids=[1, 2])
    result = pascal_average_precision([truth], [found((square(0), 0.9))], TWO_LABELS)
    assert result.ap_per_label == {"joghurt": 1.0, "water": 0.0}
    assert result.map == 0.5
    assert result.labels[1].best == OperatingPoint(None, 0, 0, 1)
    assert not caplog.records


def test_no_detection_at_all_scores_zero() -> None:
    truths = [truth_of(square(0)), truth_of()]
    result = pascal_average_precision(truths, [Detections.empty(SIZE_HW)] * 2, ONE_LABEL)
    assert result.map == 0.0
    assert (result.best.precision, result.best.recall, result.best.f1) == (0.0, 0.0, 0.0)
    for interpolation in ("all-point", "11-point"):
        assert average_precision(np.zeros(0, bool), 1, interpolation) == 0.0


def test_picture_without_objects_only_brings_false_positives() -> None:
    truths = [truth_of(), truth_of(square(0))]
    detections = [found((square(0), 0.9)), found((square(0), 0.8))]
    assert pascal_average_precision(truths, detections, ONE_LABEL).map == 0.5


def test_best_threshold_has_the_highest_f1_and_never_splits_a_tie() -> None:
    truth = truth_of(*(square(index) for index in range(4)))
    detections = found(
        (square(0), 0.9),
        (square(1), 0.8),
        (square(2), 0.5),
        (square(8), 0.5),
        (square(9), 0.1),
    )
    # Three of three right would be the best point, but a threshold of 0.5 takes the wrong one too:
    # F1 is 4/6 at 0.8 and 6/8 at 0.5.
    best = pascal_average_precision([truth], [detections], ONE_LABEL).labels[0].best
    assert best == OperatingPoint(0.5, 3, 1, 1)
    assert (best.precision, best.recall, best.f1) == (0.75, 0.75, 0.75)


def test_best_threshold_is_the_higher_one_among_equals() -> None:
    truth = truth_of(square(0), square(1))
    # F1 is 2/3 after the first detection, 1/2 after the second, 2/3 again after four.
    detections = found((square(0), 0.75), (square(7), 0.5), (square(1), 0.25), (square(8), 0.125))
    result = pascal_average_precision([truth], [detections], ONE_LABEL)
    assert result.best == OperatingPoint(0.25, 2, 1, 0)
    with_more_wrong = found(
        (square(0), 0.75), (square(7), 0.5), (square(8), 0.25), (square(1), 0.125)
    )
    result = pascal_average_precision([truth], [with_more_wrong], ONE_LABEL)
    assert result.best == OperatingPoint(0.75, 1, 0, 1)


def test_precision_and_recall_follow_the_ranking() -> None:
    truth = truth_of(square(0), square(1))
    detections = found((square(0), 0.75), (square(7), 0.5), (square(1), 0.25))
    curve = pascal_average_precision([truth], [detections], ONE_LABEL).labels[0]
    assert curve.scores.tolist() == [0.75, 0.5, 0.25]
    assert curve.precision == pytest.approx([1, 1 / 2, 2 / 3])
    assert curve.recall.tolist() == [0.5, 0.5, 1.0]


def test_matches_tell_which_object_was_missed() -> None:
    truth = truth_of(square(0), square(1), square(2), difficult=[0])
    matches = match_detections([truth_of(), truth], [found(), found((square(2), 0.5))])
    assert matches.object_image_index.tolist() == [1, 1]
    assert matches.object_index.tolist() == [1, 2]
    assert matches.object_score.tolist() == [0.0, 0.5]
    assert matches.object_is_missed(0.0).tolist() == [True, False]
    assert matches.object_is_missed(0.5).tolist() == [True, False]
    assert matches.object_is_missed(0.6).tolist() == [True, True]


def test_negatives_are_pictures_without_any_object() -> None:
    truths = [truth_of(), truth_of(square(0), difficult=[0]), truth_of(square(0))]
    matches = match_detections(truths, [found()] * 3)
    assert matches.image_is_negative.tolist() == [True, False, False]
    assert matches.num_images == 3


def test_nothing_to_evaluate_against_is_said_clearly() -> None:
    only_difficult = truth_of(square(0), difficult=[0])
    with pytest.raises(DatasetError, match=r"nothing to evaluate against .*1 pictures without"):
        pascal_average_precision([only_difficult], [found((square(0), 0.9))], ONE_LABEL)
    with pytest.raises(DatasetError, match="0 pictures"):
        pascal_average_precision([], [], ONE_LABEL)


def test_class_id_beyond_the_labels_is_refused() -> None:
    good, beyond = truth_of(square(0)), found((square(0), 0.9), class_ids=[2])
    with pytest.raises(LabelError, match=r"class of a detection .*class id 2, expected 1 to 1"):
        pascal_average_precision([good], [beyond], ONE_LABEL)
    with pytest.raises(LabelError, match="class of a ground truth"):
        pascal_average_precision([truth_of(square(0), class_ids=[3])], [found()], ONE_LABEL)


def test_broken_values_are_refused() -> None:
    no_ids = np.zeros(0, np.int64)
    with pytest.raises(ValueError, match=r"1\.jpg: box 1 is degenerate"):
        truth_of(square(0), (5, 5, 5, 9))
    with pytest.raises(ValueError, match="degenerate"):
        truth_of((0, 0, math.inf, 9))
    with pytest.raises(ValueError, match="differ in length"):
        GroundTruth(np.zeros((1, 4), np.float32), no_ids, np.zeros(0, bool), "1.jpg")
    with pytest.raises(ValueError, match=r"is_crowd differ in length: 1, \(1,\), \(1,\), \(2,\)"):
        GroundTruth(np.array([square(0)]), np.ones(1), np.zeros(1), "1.jpg", np.zeros(2))
    with pytest.raises(ValueError, match="count from 1, got 0"):
        truth_of(square(0), class_ids=[0])
    with pytest.raises(ValueError, match="1 ground truths for 0 detections"):
        match_detections([truth_of()], [])
    with pytest.raises(ValueError, match="iou_threshold"):
        match_detections([], [], 0.0)


def test_equals_pycocotools_where_the_rules_agree(capsys: pytest.CaptureFixture[str]) -> None:
    """Objects far apart and different scores: then COCO at IoU 0.5 differs by its 101 points only."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(7)
    truths = [truth_of(*(square(index) for index in range(8))) for _ in range(30)]
    detections = []
    for _ in truths:
        scores = np.sort(rng.random(8))[::-1]
        places = rng.permutation(10)[:8]
        detections.append(
            found(*((square(p), s) for p, s in zip(places.tolist(), scores.tolist(), strict=True)))
        )
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(1, 31)],
        "categories": [{"id": 1}],
        "annotations": [
            {"id": image * 100 + place, "image_id": image, "category_id": 1, "iscrowd": 0}
            | {"bbox": [20 * place, 0, 10, 10], "area": 100}
            for image in range(1, 31)
            for place in range(8)
        ],
    }
    coco.createIndex()
    answers = [
        {"image_id": image, "category_id": 1, "score": score} | {"bbox": [x1, y1, x2 - x1, y2 - y1]}
        for image, one in enumerate(detections, start=1)
        for (x1, y1, x2, y2), score in zip(
            one.boxes_xyxy.tolist(), one.scores.tolist(), strict=True
        )
    ]
    scorer = COCOeval(coco, coco.loadRes(answers), "bbox")
    scorer.params.iouThrs = np.array([0.5])
    scorer.params.areaRng, scorer.params.areaRngLbl = [[0, 1e10]], ["all"]
    scorer.params.maxDets = [100]
    scorer.evaluate()
    scorer.accumulate()
    precision_at_101_recalls = scorer.eval["precision"][0, :, 0, 0, 0]

    ours = pascal_average_precision(truths, detections, ONE_LABEL).labels[0]

    envelope = [
        max(ours.precision[ours.recall >= level], default=0.0) for level in scorer.params.recThrs
    ]
    assert precision_at_101_recalls == pytest.approx(envelope, abs=1e-9)
    assert ours.average_precision == pytest.approx(np.mean(envelope), abs=0.01)
    assert "Accumulating" in capsys.readouterr().out
