"""The twelve COCO figures against pycocotools, and what difficult objects and crowds become there."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence

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

from appliance.detections import Detections
from appliance.errors import LabelError
from appliance.evaluation.metrics.coco import CocoResult, coco_average_precision
from appliance.evaluation.metrics.matching import GroundTruth
from appliance.labels import LabelMap

BIG = (0.0, 0.0, 100.0, 100.0)
KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def reference(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], labels: LabelMap
) -> tuple[list[float], list[float]]:
    """The twelve figures, then the average precision of each class, as pycocotools has them.

    All classes and pictures at once. Difficult objects are left to other tests: pycocotools has no word
    for them.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO()
    objects = [
        {"image_id": image, "category_id": class_id, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        | {"area": (x2 - x1) * (y2 - y1), "iscrowd": crowd}
        for image, truth in enumerate(truths)
        for (x1, y1, x2, y2), class_id, crowd in zip(
            truth.boxes_xyxy.tolist(),
            truth.class_ids.tolist(),
            truth.is_crowd.tolist(),
            strict=True,
        )
    ]
    coco.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(len(truths))],
        "categories": [{"id": index} for index in range(1, len(labels) + 1)],
        "annotations": [{"id": index, **row} for index, row in enumerate(objects, start=1)],
    }
    coco.createIndex()
    answers = [
        {"image_id": image, "category_id": class_id, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        | {"score": score}
        for image, one in enumerate(detections)
        for (x1, y1, x2, y2), class_id, score in zip(
            one.boxes_xyxy.tolist(), one.class_ids.tolist(), one.scores.tolist(), strict=True
        )
    ]
    scorer = COCOeval(coco, coco.loadRes(answers), "bbox")
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    per_class = np.moveaxis(scorer.eval["precision"][:, :, :, 0, -1], 2, 0)
    return scorer.stats.tolist(), [
        float(values[values > -1].mean()) if (values > -1).any() else -1.0 for values in per_class
    ]


def known(values: Sequence[float | None]) -> list[float]:
    """-1 for what has no figure, as pycocotools writes it."""
    return [-1.0 if value is None else value for value in values]


@pytest.mark.parametrize("seed", range(6))
def test_all_figures_equal_pycocotools(seed: int) -> None:
    labels = LabelMap(("a", "b", "c", "d", "e"))
    # Class 4 is detected and never there, class 5 neither; seeds differ in how common equal scores are.
    truths, detections = random_pictures(seed, 60, scores=(5, 10_000)[seed % 2])
    truths = [
        GroundTruth(t.boxes_xyxy, t.class_ids, np.zeros(len(t), bool), t.image_id, t.is_crowd)
        for t in truths
    ]
    stray = Detections(np.array([[5, 5, 50, 50]]), np.array([0.5]), np.array([4]), (600, 600))
    truths, detections = [truth_of(), *truths], [stray, *detections]

    result = coco_average_precision(truths, detections, labels)

    figures, per_class = reference(truths, detections, labels)
    assert known(list(result.to_metrics().values())) == pytest.approx(figures, abs=1e-9)
    assert known(list(result.ap_per_label.values())) == pytest.approx(per_class, abs=1e-9)
    assert min(figures) > 0
    assert per_class[3:] == [-1, -1]


def test_more_than_a_hundred_detections_of_a_class_in_a_picture_are_cut_as_in_pycocotools() -> None:
    truths, detections = random_pictures(
        3, 3, most_objects=30, most_detections=400, class_ids=[1], ignored_share=0.0
    )
    assert max(len(one) for one in detections) > 200
    result = coco_average_precision(truths, detections, ONE_LABEL)
    figures, _ = reference(truths, detections, ONE_LABEL)
    assert known(list(result.to_metrics().values())) == pytest.approx(figures, abs=1e-9)


def test_pictures_without_any_object_are_worth_no_figure() -> None:
    truths, detections = [truth_of(), truth_of()], [found((square(0), 0.9)), found()]
    result = coco_average_precision(truths, detections, ONE_LABEL)
    assert set(result.to_metrics().values()) == {None}
    assert result.ap_per_label == {"joghurt": None}
    assert coco_average_precision([], [], ONE_LABEL) == result


def test_figures_have_the_names_of_the_metrics_file() -> None:
    values = [index / 100 for index in range(12)]
    assert list(CocoResult(*values, {}).to_metrics().items()) == [
        (f"COCO/{key}", value) for key, value in zip(KEYS, values, strict=True)
    ]


def test_golden_value_of_the_first_system() -> None:
    # TP TP TP TP FP FP TP over five objects: 0.942857 in PASCAL, 0.943423 at 101 recalls.
    truth = truth_of(*(square(index) for index in range(5)))
    ranked = [square(index) for index in (0, 1, 2, 3, 7, 8, 4)]
    detections = found(*((box, 0.9 - 0.1 * rank) for rank, box in enumerate(ranked)))
    result = coco_average_precision([truth], [detections], ONE_LABEL)
    for ap in (result.ap, result.ap_50, result.ap_75):
        assert ap == pytest.approx((81 + 20 * 5 / 7) / 101, abs=1e-12)
        assert round(ap, 6) == 0.943423
    assert (result.ap_small, result.ap_medium, result.ap_large) == (pytest.approx(ap), None, None)
    assert (result.ar_1, result.ar_10, result.ar_100) == (pytest.approx(0.2), 1.0, 1.0)


def test_objects_are_small_medium_or_large_by_the_area_of_their_box() -> None:
    sides = {"small": 31, "medium": 50, "large": 97}
    for name, side in sides.items():
        box = (0.0, 0.0, float(side), float(side))
        result = coco_average_precision([truth_of(box)], [found((box, 0.9))], ONE_LABEL)
        measured = {size: getattr(result, f"ap_{size}") for size in sides}
        assert measured == {size: pytest.approx(1.0) if size == name else None for size in sides}
        assert getattr(result, f"ar_{name}") == 1.0


def test_difficult_objects_are_neither_asked_for_nor_held_against_who_finds_them() -> None:
    truth = truth_of(square(0), square(1), difficult=[1])
    right = found((square(1), 0.9), (square(0), 0.8))
    assert coco_average_precision([truth], [right], ONE_LABEL).ap == pytest.approx(1)
    missed = found((square(0), 0.8))
    assert coco_average_precision([truth], [missed], ONE_LABEL).ar_100 == 1
    only_difficult = truth_of(square(0), difficult=[0])
    assert coco_average_precision([only_difficult], [missed], ONE_LABEL).ap is None


def test_difficult_object_is_overlapped_by_plain_iou_and_taken_once() -> None:
    truth = truth_of(BIG, (150, 0, 200, 50), difficult=[0])
    # Inside the difficult object, of which it covers a ninth: wrong. In a crowd it would be dropped.
    inside = found(((30, 30, 63, 63), 0.9), ((150, 0, 200, 50), 0.8))
    assert coco_average_precision([truth], [inside], ONE_LABEL).ap == pytest.approx(1 / 2)
    twice = found((BIG, 0.9), (BIG, 0.85), ((150, 0, 200, 50), 0.8))
    assert coco_average_precision([truth], [twice], ONE_LABEL).ap == pytest.approx(1 / 2)


def test_crowd_takes_any_number_of_detections_that_lie_in_it() -> None:
    truth = truth_of(BIG, (150, 0, 200, 50), crowd=[0])
    inside = [((5.0 + 30 * i, 5.0, 30.0 + 30 * i, 60.0), 0.9 - 0.1 * i) for i in range(3)]
    detections = found(*inside, ((150, 0, 200, 50), 0.1))
    result = coco_average_precision([truth], [detections], ONE_LABEL)
    assert result.ap == pytest.approx(1)
    difficult_crowd = truth_of(BIG, (150, 0, 200, 50), crowd=[0], difficult=[0])
    assert coco_average_precision([difficult_crowd], [detections], ONE_LABEL) == result


def test_detection_whose_best_object_is_taken_may_have_its_second_best() -> None:
    # The PASCAL rule differs: see the test of the same case there.
    truth = truth_of((0, 0, 10, 10), (2, 0, 12, 10))
    detections = found(((0, 0, 10, 10), 0.9), ((0.5, 0, 10.5, 10), 0.8))
    assert coco_average_precision([truth], [detections], ONE_LABEL).ap_50 == pytest.approx(1)


def test_nothing_is_printed_or_logged(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    truths, detections = random_pictures(1, 5)
    with caplog.at_level(logging.INFO):
        coco_average_precision(truths, detections, THREE_LABELS)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_class_ids_and_lengths_are_checked() -> None:
    with pytest.raises(LabelError, match=r"class of a detection .*class id 3, expected 1 to 2"):
        coco_average_precision([truth_of()], [found((square(0), 0.9), class_ids=[3])], TWO_LABELS)
    with pytest.raises(LabelError, match="class of a ground truth"):
        coco_average_precision([truth_of(square(0), class_ids=[2])], [found()], ONE_LABEL)
    with pytest.raises(ValueError, match="1 ground truths for 0 detections"):
        coco_average_precision([truth_of()], [], ONE_LABEL)


def test_faster_coco_eval_is_imported_only_where_it_is_needed() -> None:
    program = """
import sys
import appliance.evaluation.metrics.coco
assert not {"faster_coco_eval", "matplotlib", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
