"""Why the average precision is not 1: the six error types of TIDE, and what each one costs.

After Bolya, Foley, Hays and Hoffman, "TIDE: A General Toolbox for Identifying Object Detection Errors"
(ECCV 2020). With `t_f = 0.5` (foreground), or what counts as found elsewhere in an evaluation, and
`t_b = 0.1` (background), every false positive gets the first
of these types that fits; the order is that of the authors' program:

| type | the false positive | mended by |
|---|---|---|
| localisation | best overlaps an object of its class by `t_b <= IoU < t_f` | moving it onto that object |
| classification | overlaps an object of another class by `IoU >= t_f` | giving it that class |
| duplicate | overlaps an object of its class by `IoU >= t_f`, which a better one has found | removing it |
| both | overlaps an object of another class by `t_b <= IoU < t_f` | removing it |
| background | overlaps no object by `t_b` | removing it |

and `missed` are the objects that nothing found and no localisation or classification error lies on; they
are mended by not asking for them.

What is mended becomes a true positive with its old score. Of several that would find the same object, the
best-scored one does and the others go; one that lies on an object which is found already, or on a difficult
one, goes as well. The cost of a type is

    dAP = mAP(all errors of this type mended, nothing else) - mAP

so the costs of the types do not add up to `1 - mAP`. Likewise, `false_positive_cost` is what removing all
false positives would gain and `false_negative_cost` what not asking for any missed object would.

mAP is the one that the rest of the evaluation shows: PASCAL matching and the area under all points of the
envelope, over the classes that have objects. The authors' program matches as COCO does and takes 101
recalls, so its figures differ a little; and where both a localisation and a classification error lie on one
missed object, it mends only the better-scored one even when only the other type is asked about, which this
module, after the paper, does not. A class that is left without objects scores 1 when no detection of it is
left either, else 0. Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from appliance.detections import Detections
from appliance.evaluation.metrics.average_precision import average_precision
from appliance.evaluation.metrics.matching import (
    GroundTruth,
    Matches,
    check_measurable,
    match_detections,
)
from appliance.evaluation.metrics.overlaps import (
    FlatBoxes,
    OverlappingPairs,
    joined,
    overlapping_pairs,
)
from appliance.labels import LabelMap

ErrorType = Literal["classification", "localisation", "both", "duplicate", "background", "missed"]
ERROR_TYPES: tuple[ErrorType, ...] = (
    "classification",
    "localisation",
    "both",
    "duplicate",
    "background",
    "missed",
)
FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.1

_MOVED: tuple[ErrorType, ...] = ("classification", "localisation")
_REMOVED: tuple[ErrorType, ...] = ("both", "duplicate", "background")
_NOTHING = -1


@dataclass(frozen=True)
class ErrorTypes:
    """The errors by type, and what each type costs in mean average precision.

    Attributes:
        counts: Error type -> detections, or objects for "missed".
        ap_cost: Error type -> what mending all of them would gain, 0..1.
        false_positive_cost: What removing every false positive would gain.
        false_negative_cost: What not asking for any object that was not found would gain.
        map: The mean average precision as it is.
        score_threshold: Detections below it were left out.
        iou_threshold: The least overlap that counted as found, `t_f`.
    """

    counts: dict[str, int]
    ap_cost: dict[str, float]
    false_positive_cost: float
    false_negative_cost: float
    map: float
    score_threshold: float
    iou_threshold: float = FOREGROUND_IOU


def analyse_errors(
    ground_truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    labels: LabelMap,
    *,
    score_threshold: float = 0.0,
    iou_threshold: float = FOREGROUND_IOU,
) -> ErrorTypes:
    """Sorts all errors by type and measures what each type costs.

    Args:
        ground_truths: One per picture.
        detections: One per picture, in the same order.
        labels: The classes of the model.
        score_threshold: Leave out detections that score less. At 0, as the authors have it, many errors
            are faint detections that nobody would show; they cost little.
        iou_threshold: The least overlap that counts as found, `t_f`; where it is below `t_b`, it is both.

    Raises:
        DatasetError: There is no object that counts in any picture.
        LabelError: A class id is beyond the labels.
        ValueError: Ground truths and detections differ in number.
    """
    if score_threshold > 0:
        detections = [found.filter(score_threshold=score_threshold) for found in detections]
    matches = match_detections(ground_truths, detections, iou_threshold)
    check_measurable(matches, labels)
    objects = _Objects.of(matches, ground_truths)
    errors = _sorted_by_type(matches, objects, detections, iou_threshold)
    missed = objects.is_open.copy()
    for name in _MOVED:
        missed[errors.target[errors.of_type(name)]] = False

    ranking = _Ranking.of(matches, len(labels))
    before = ranking.map()
    mended = {
        "missed": ranking.without_objects(objects.class_ids[missed]),
        **{name: ranking.without(errors.of_type(name)) for name in _REMOVED},
        **{name: ranking.found(errors.of_type(name), errors.target, objects) for name in _MOVED},
    }
    no_false_negative = ranking.without_objects(objects.class_ids[objects.is_open])
    return ErrorTypes(
        counts={
            name: int((missed if name == "missed" else errors.of_type(name)).sum())
            for name in ERROR_TYPES
        },
        ap_cost={name: mended[name].map() - before for name in ERROR_TYPES},
        false_positive_cost=ranking.without(matches.is_false_positive).map() - before,
        false_negative_cost=no_false_negative.map() - before,
        map=before,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
    )


@dataclass(frozen=True, eq=False)
class _Objects:
    """All objects, also those that do not count; `is_open` is what counts and was not found."""

    boxes: FlatBoxes
    is_open: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, matches: Matches, ground_truths: Sequence[GroundTruth]) -> _Objects:
        is_open = ~joined([truth.is_ignored for truth in ground_truths], np.bool_)
        is_open[is_open] = ~matches.object_is_found
        return cls(FlatBoxes.of(ground_truths), is_open)

    @property
    def class_ids(self) -> npt.NDArray[np.int64]:
        return self.boxes.class_ids


@dataclass(frozen=True, eq=False)
class _Errors:
    """The type of each detection, best score first, -1 for what is no error, and the object it lies on."""

    type_index: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]

    def of_type(self, name: ErrorType) -> npt.NDArray[np.bool_]:
        chosen: npt.NDArray[np.bool_] = self.type_index == ERROR_TYPES.index(name)
        return chosen


def _sorted_by_type(
    matches: Matches,
    objects: _Objects,
    detections: Sequence[Detections],
    foreground_iou: float,
) -> _Errors:
    found = FlatBoxes.of(detections)
    background_iou = min(BACKGROUND_IOU, foreground_iou)
    pairs = overlapping_pairs(found, objects.boxes, background_iou, same_class=False)
    same_class = found.class_ids[pairs.detection] == objects.class_ids[pairs.object]
    own_iou, own_object = _best(pairs.where(same_class), len(found))
    other_iou, other_object = _best(pairs.where(~same_class), len(found))
    type_of: list[tuple[ErrorType, npt.NDArray[np.bool_]]] = [
        ("localisation", (own_iou >= background_iou) & (own_iou < foreground_iou)),
        ("classification", other_iou >= foreground_iou),
        ("duplicate", own_iou >= foreground_iou),
        ("both", other_iou >= background_iou),
    ]
    type_index = np.select(
        [fits for _, fits in type_of],
        [ERROR_TYPES.index(name) for name, _ in type_of],
        ERROR_TYPES.index("background"),
    )
    is_class_error = type_index == ERROR_TYPES.index("classification")
    # From the order of the pictures to that of the scores.
    first = np.searchsorted(found.image_index, matches.image_index)
    order = first + matches.detection_index
    return _Errors(
        type_index=np.where(matches.is_false_positive, type_index[order], _NOTHING),
        target=np.where(is_class_error, other_object, own_object)[order],
    )


def _best(
    pairs: OverlappingPairs, num_detections: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The best overlap of each detection, 0 where there is none, and the object."""
    best = pairs.best_per_detection()
    iou, target = np.zeros(num_detections), np.full(num_detections, _NOTHING)
    iou[best.detection], target[best.detection] = best.iou, best.object
    return iou, target


@dataclass(frozen=True, eq=False)
class _Ranking:
    """What mAP is made of: the detections, best score first, and how many objects are asked for.

    `num_objects` counts by class id, 0 unused; `measured` are the classes that had objects at first.
    """

    class_ids: npt.NDArray[np.int64]
    is_true_positive: npt.NDArray[np.bool_]
    is_gone: npt.NDArray[np.bool_]
    num_objects: npt.NDArray[np.int64]
    measured: npt.NDArray[np.int64]

    @classmethod
    def of(cls, matches: Matches, num_labels: int) -> _Ranking:
        num_objects = np.bincount(matches.object_class_ids, minlength=num_labels + 1)
        return cls(
            class_ids=matches.class_ids,
            is_true_positive=matches.is_true_positive,
            is_gone=matches.is_ignored,
            num_objects=num_objects,
            measured=np.flatnonzero(num_objects),
        )

    def without(self, errors: npt.NDArray[np.bool_]) -> _Ranking:
        """These detections removed."""
        return replace(self, is_gone=self.is_gone | errors)

    def without_objects(self, class_ids: npt.NDArray[np.int64]) -> _Ranking:
        """So many fewer objects of each class asked for."""
        fewer = np.bincount(class_ids, minlength=len(self.num_objects))
        return replace(self, num_objects=self.num_objects - fewer)

    def found(
        self, errors: npt.NDArray[np.bool_], target: npt.NDArray[np.int64], objects: _Objects
    ) -> _Ranking:
        """The best of these detections on each open object made right, the others removed."""
        candidates = np.flatnonzero(errors & objects.is_open[target])
        found_objects, first = np.unique(target[candidates], return_index=True)
        winners = candidates[first]
        class_ids, is_true_positive = self.class_ids.copy(), self.is_true_positive.copy()
        is_gone = self.is_gone | errors
        class_ids[winners] = objects.class_ids[found_objects]
        is_true_positive[winners] = True
        is_gone[winners] = False
        return replace(
            self, class_ids=class_ids, is_true_positive=is_true_positive, is_gone=is_gone
        )

    def map(self) -> float:
        return float(np.mean([self._average_precision(class_id) for class_id in self.measured]))

    def _average_precision(self, class_id: int) -> float:
        ranked = self.is_true_positive[(self.class_ids == class_id) & ~self.is_gone]
        if self.num_objects[class_id] == 0:
            return 0.0 if len(ranked) else 1.0
        return average_precision(ranked, int(self.num_objects[class_id]))
