"""The six error types by hand, and their costs against mending the data itself and evaluating anew."""

from __future__ import annotations

from collections.abc import Mapping

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
from appliance.errors import DatasetError, LabelError
from appliance.evaluation.metrics.average_precision import pascal_average_precision
from appliance.evaluation.metrics.error_types import ERROR_TYPES, ErrorTypes, analyse_errors
from appliance.evaluation.metrics.matching import GroundTruth, match_detections
from appliance.evaluation.metrics.overlaps import paired_iou

RIGHT = (square(0), 0.9)


def errors_of(truth: GroundTruth, detections: Detections) -> ErrorTypes:
    return analyse_errors([truth], [detections], TWO_LABELS)


def counted(**counts: int) -> dict[str, int]:
    return dict.fromkeys(ERROR_TYPES, 0) | counts


def costs(**values: float) -> Mapping[str, float]:
    return pytest.approx(dict.fromkeys(ERROR_TYPES, 0.0) | values)


def test_nothing_is_wrong() -> None:
    errors = errors_of(truth_of(square(0)), found(RIGHT))
    assert errors == ErrorTypes(counted(), costs(), 0.0, 0.0, 1.0, 0.0)


def test_classification_error_becomes_a_find_of_the_other_class() -> None:
    truth = truth_of(square(0), square(1), class_ids=[1, 2])
    errors = errors_of(truth, found(RIGHT, (square(1, 2), 0.8)))
    # The water was taken for a joghurt: mended, the water goes from 0 to 1. It is not missed.
    assert errors.counts == counted(classification=1)
    assert errors.map == 0.5
    assert errors.ap_cost == costs(classification=0.5)
    assert (errors.false_positive_cost, errors.false_negative_cost) == (0.0, 0.5)


def test_classification_error_on_an_object_that_is_found_is_removed() -> None:
    truth = truth_of(square(0), square(1))
    detections = found((square(0), 0.9), (square(0), 0.8), (square(1), 0.7), class_ids=[1, 2, 1])
    errors = errors_of(truth, detections)
    # The class water has no objects, so its detection costs nothing.
    assert errors.counts == counted(classification=1)
    assert errors.ap_cost == costs()


def test_localisation_error_is_moved_onto_its_object() -> None:
    # IoU 5 / 15.
    errors = errors_of(truth_of(square(0), square(1)), found(RIGHT, (square(1, 5), 0.8)))
    assert errors.counts == counted(localisation=1)
    assert errors.map == 0.5
    assert errors.ap_cost == costs(localisation=0.5)
    assert (errors.false_positive_cost, errors.false_negative_cost) == (0.0, 0.5)


def test_better_of_two_localisation_errors_is_mended_and_the_other_removed() -> None:
    truth = truth_of(square(0), square(1))
    errors = errors_of(truth, found((square(0, 5), 0.9), (square(0, 4), 0.8), (square(1), 0.7)))
    assert errors.counts == counted(localisation=2)
    # FP FP TP is 1/3 of one half; mended it is TP TP.
    assert errors.map == pytest.approx(1 / 6)
    assert errors.ap_cost == costs(localisation=5 / 6)


def test_both_is_wrong_in_class_and_place_and_is_removed() -> None:
    truth = truth_of(square(0), square(1), class_ids=[1, 2])
    errors = errors_of(truth, found((square(1, 5), 0.95), RIGHT))
    assert errors.counts == counted(both=1, missed=1)
    # FP TP of the class joghurt: 1/2, mended 1. The water stays at 0, or is not asked for.
    assert errors.map == 0.25
    assert errors.ap_cost == costs(both=0.25, missed=0.5)
    assert (errors.false_positive_cost, errors.false_negative_cost) == (0.25, 0.5)


def test_duplicate_is_removed() -> None:
    truth = truth_of(square(0), square(1))
    errors = errors_of(truth, found(RIGHT, (square(0, 1), 0.8), (square(1), 0.7)))
    assert errors.counts == counted(duplicate=1)
    assert errors.map == pytest.approx((1 + 2 / 3) / 2)
    assert errors.ap_cost == costs(duplicate=1 / 6)
    assert errors.false_positive_cost == pytest.approx(1 / 6)


def test_background_is_removed() -> None:
    # The second one overlaps an object by 1 / 19, less than a tenth.
    detections = found((square(5), 0.95), (square(0, 9), 0.94), RIGHT)
    errors = errors_of(truth_of(square(0)), detections)
    assert errors.counts == counted(background=2)
    assert errors.map == pytest.approx(1 / 3)
    assert errors.ap_cost == costs(background=2 / 3)


def test_missed_objects_are_not_asked_for() -> None:
    truth = truth_of(square(0), square(1), square(2), square(3))
    errors = errors_of(truth, found(RIGHT, (square(5), 0.8)))
    assert errors.counts == counted(background=1, missed=3)
    assert errors.map == 0.25
    assert errors.ap_cost == costs(missed=0.75)
    assert errors.false_negative_cost == 0.75


def test_class_that_is_left_without_objects_scores_by_its_detections() -> None:
    truth = truth_of(square(0), square(1), class_ids=[1, 2])
    without_water = errors_of(truth, found(RIGHT))
    assert without_water.ap_cost == costs(missed=0.5)
    wrong_water = errors_of(truth, found(RIGHT, (square(5), 0.8), class_ids=[1, 2]))
    assert wrong_water.ap_cost == costs(missed=0.0)


@pytest.mark.parametrize(
    ("box", "class_id", "name"),
    [
        ((0, 0, 10, 5), 2, "classification"),
        ((0, 0, 10, 4.99), 2, "both"),
        ((0, 0, 10, 1), 2, "both"),
        ((0, 0, 10, 0.99), 2, "background"),
        ((0, 0, 10, 4.99), 1, "localisation"),
        ((0, 0, 10, 1), 1, "localisation"),
        ((0, 0, 10, 0.99), 1, "background"),
    ],
)
def test_types_begin_at_an_overlap_of_a_half_and_of_a_tenth(box, class_id, name) -> None:
    errors = errors_of(truth_of((0, 0, 10, 10)), found((box, 0.9), class_ids=[class_id]))
    is_mendable = name in ("classification", "localisation")
    assert errors.counts == counted(**{name: 1}, missed=0 if is_mendable else 1)


def test_first_type_that_fits_is_taken() -> None:
    # A joghurt that is badly placed, on top of a water: localisation comes before classification.
    truth = truth_of(square(0), square(0, 5), class_ids=[1, 2])
    errors = errors_of(truth, found((square(0, 5), 0.9)))
    assert errors.counts == counted(localisation=1, missed=1)
    # A second detection of a joghurt, on top of a water: classification comes before duplicate.
    truth = truth_of(square(0), square(0, 2), class_ids=[1, 2])
    errors = errors_of(truth, found(RIGHT, (square(0, 1), 0.8)))
    assert errors.counts == counted(classification=1)
    # A second detection of a joghurt that also touches a water: duplicate comes before both.
    truth = truth_of(square(0), square(0, 6), class_ids=[1, 2])
    errors = errors_of(truth, found(RIGHT, (square(0, 1), 0.8)))
    assert errors.counts == counted(duplicate=1, missed=1)


def test_two_types_on_one_missed_object_are_each_mended_alone() -> None:
    truth = truth_of(square(0), square(1), class_ids=[1, 1])
    detections = found((square(1), 0.95), RIGHT, (square(1, 5), 0.8), class_ids=[2, 1, 1])
    errors = errors_of(truth, detections)
    assert errors.counts == counted(classification=1, localisation=1)
    # TP FP of two objects. Either mends the second object; moving the last detection makes it TP TP.
    assert errors.map == 0.5
    assert errors.ap_cost == costs(classification=0.5, localisation=0.5)


def test_difficult_objects_are_no_error_and_mend_nothing() -> None:
    truth = truth_of(square(0), square(1), square(2), difficult=[1], crowd=[2])
    # On the difficult one: dropped. Beside the crowd: a localisation error, removed when mended.
    errors = errors_of(truth, found((square(1), 0.95), (square(2, 5), 0.94), RIGHT))
    assert errors.counts == counted(localisation=1)
    assert errors.map == 0.5
    assert errors.ap_cost == costs(localisation=0.5)


def test_score_threshold_leaves_detections_out() -> None:
    truth = truth_of(square(0), square(1))
    detections = found(RIGHT, (square(5), 0.5), (square(1), 0.25))
    errors = analyse_errors([truth], [detections], ONE_LABEL, score_threshold=0.5)
    assert errors.counts == counted(background=1, missed=1)
    assert (errors.map, errors.score_threshold) == (0.5, 0.5)
    assert analyse_errors([truth], [detections], ONE_LABEL).counts == counted(background=1)


def test_the_least_overlap_decides_what_is_a_wrong_place() -> None:
    # IoU 9/11 with the first object, and 7/13 with the second.
    truth = truth_of(square(0), square(1))
    detections = found((square(0, 1.0), 0.9), (square(1, 3.0), 0.8))
    by_iou = {
        iou: analyse_errors([truth], [detections], ONE_LABEL, iou_threshold=iou)
        for iou in (0.05, 0.5, 0.75, 0.9)
    }
    assert by_iou[0.05].counts == by_iou[0.5].counts == counted()
    assert by_iou[0.75].counts == counted(localisation=1)
    assert by_iou[0.75].ap_cost == costs(localisation=0.5)
    assert by_iou[0.9].counts == counted(localisation=2)
    assert [errors.iou_threshold for errors in by_iou.values()] == list(by_iou)
    # Below the overlap from which a box is near an object at all, both are one.
    far = found((square(0, 9.0), 0.9))
    assert analyse_errors([truth], [far], ONE_LABEL, iou_threshold=0.05).counts == counted(missed=1)


def test_nothing_to_evaluate_against_is_refused() -> None:
    with pytest.raises(DatasetError, match="nothing to evaluate against"):
        errors_of(truth_of(), found(RIGHT))
    with pytest.raises(LabelError, match="class id 3"):
        errors_of(truth_of(square(0)), found(RIGHT, class_ids=[3]))


class Workshop:
    """Pictures whose errors are found one by one and mended in the data itself."""

    def __init__(self, truths: list[GroundTruth], detections: list[Detections]) -> None:
        self.truths, self.detections = truths, detections
        matches = match_detections(truths, detections)
        counted_objects = zip(
            matches.object_image_index.tolist(),
            matches.object_index.tolist(),
            matches.object_is_found.tolist(),
            strict=True,
        )
        self.open = {(image, place) for image, place, is_found in counted_objects if not is_found}
        wrong = matches.is_false_positive
        self.errors = {
            (image, place): self.kind(image, place)
            for image, place in zip(
                matches.image_index[wrong].tolist(),
                matches.detection_index[wrong].tolist(),
                strict=True,
            )
        }
        mendable = {
            (image, target)
            for (image, _), (name, target) in self.errors.items()
            if name in ("classification", "localisation")
        }
        self.missed = self.open - mendable

    def kind(self, image: int, place: int) -> tuple[str, int]:
        one, truth = self.detections[image], self.truths[image]
        box = np.repeat(one.boxes_xyxy[place][None], len(truth), axis=0)
        iou = paired_iou(box, truth.boxes_xyxy)
        is_own = truth.class_ids == one.class_ids[place]
        own, other = np.where(is_own, iou, 0), np.where(is_own, 0, iou)
        best_own, best_other = own.max(initial=0), other.max(initial=0)
        if 0.1 <= best_own < 0.5:
            return "localisation", int(own.argmax())
        if best_other >= 0.5:
            return "classification", int(other.argmax())
        if best_own >= 0.5:
            return "duplicate", -1
        return ("both" if best_other >= 0.1 else "background"), -1

    def count(self, name: str) -> int:
        return sum(kind == name for kind, _ in self.errors.values())

    def map_with(self, mended: str) -> float:
        used, kept = set(), []
        for image, one in enumerate(self.detections):
            boxes, ids, stays = one.boxes_xyxy.copy(), one.class_ids.copy(), np.ones(len(one), bool)
            for place in range(len(one)):
                kind, target = self.errors.get((image, place), ("", -1))
                if kind == mended:
                    stays[place] = (image, target) in self.open - used
                if kind == mended and stays[place]:
                    used.add((image, target))
                    boxes[place] = self.truths[image].boxes_xyxy[target]
                    ids[place] = self.truths[image].class_ids[target]
            kept.append(Detections(boxes[stays], one.scores[stays], ids[stays], one.size_hw))
        return pascal_average_precision(self.truths, kept, THREE_LABELS).map

    def map_without_objects(self, objects: set[tuple[int, int]]) -> float:
        truths = []
        for image, truth in enumerate(self.truths):
            stays = np.array([(image, place) not in objects for place in range(len(truth))], bool)
            columns = (truth.boxes_xyxy, truth.class_ids, truth.difficult)
            boxes, ids, difficult = (column[stays] for column in columns)
            truths.append(GroundTruth(boxes, ids, difficult, truth.image_id, truth.is_crowd[stays]))
        return pascal_average_precision(truths, self.detections, THREE_LABELS).map


@pytest.mark.parametrize("seed", range(4))
def test_costs_are_what_mending_the_data_gains(seed: int) -> None:
    truths, detections = random_pictures(seed, 80)
    errors = analyse_errors(truths, detections, THREE_LABELS)
    workshop = Workshop(truths, detections)

    before = pascal_average_precision(truths, detections, THREE_LABELS).map
    assert errors.map == pytest.approx(before, abs=1e-12)
    for name in ERROR_TYPES[:-1]:
        assert errors.counts[name] == workshop.count(name) > 0
        gained = workshop.map_with(name) - before
        assert errors.ap_cost[name] == pytest.approx(gained, abs=1e-12)
        assert 0 < gained < 1 - before
    assert errors.counts["missed"] == len(workshop.missed) > 0
    gained = workshop.map_without_objects(workshop.missed) - before
    assert errors.ap_cost["missed"] == pytest.approx(gained, abs=1e-12)
    gained = workshop.map_without_objects(workshop.open) - before
    assert errors.false_negative_cost == pytest.approx(gained, abs=1e-12)
    assert errors.false_positive_cost > max(
        errors.ap_cost["duplicate"], errors.ap_cost["background"]
    )
