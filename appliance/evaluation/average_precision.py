"""Average precision of PASCAL VOC, as the TensorFlow Object Detection API computes it.

AP is the area under the precision envelope over all points (VOC 2010 and later); the 11-point mean of
VOC 2007 is an option. The mean leaves out classes without a single object that counts, with a warning;
a class with objects and no detection scores 0. Needs numpy only.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from appliance.detections import Detections
from appliance.errors import DatasetError, LabelError
from appliance.evaluation.matching import GroundTruth, Matches, match_detections
from appliance.labels import LabelMap

__all__ = [
    "GroundTruth",
    "LabelResult",
    "OperatingPoint",
    "PascalResult",
    "average_precision",
    "pascal_average_precision",
]

logger = logging.getLogger(__name__)

Interpolation = Literal["all-point", "11-point"]


@dataclass(frozen=True)
class OperatingPoint:
    """What a score threshold does: counts, and the shares that follow from them.

    Attributes:
        score_threshold: Detections at or above it count; None takes all of them.
        true_positives: Objects found.
        false_positives: Detections of nothing, or of an object found already.
        false_negatives: Objects missed.
    """

    score_threshold: float | None
    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def precision(self) -> float:
        """Share of the detections that are right; 0 when there are none."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the objects that were found; 0 when there are none."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        errors = self.false_positives + self.false_negatives
        return _share(2 * self.true_positives, 2 * self.true_positives + errors)


@dataclass(frozen=True, eq=False)
class LabelResult:
    """How well one class is found.

    Attributes:
        label: Its name.
        num_objects: Objects that count (not difficult).
        average_precision: 0..1; None when there is no object that counts.
        scores: float32 `[R]`, descending: the detections of this class that count.
        precision: float64 `[R]`, over the detections up to and with each.
        recall: float64 `[R]`, likewise; 0 throughout when there is no object.
        best: The threshold with the highest F1 and what it does; the higher one among equals. Without
            a single true positive its threshold is None and its counts are over all detections.
    """

    label: str
    num_objects: int
    average_precision: float | None
    scores: npt.NDArray[np.float32]
    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    best: OperatingPoint


@dataclass(frozen=True, eq=False)
class PascalResult:
    """The figures of one evaluation.

    Attributes:
        labels: One entry per class of the model, in the order of their ids.
        map: Mean of the average precisions that exist, 0..1.
        best: The one score threshold for all classes with the highest F1, and what it does.
        iou_threshold: The least overlap that counted as found.
        matches: The verdict on every detection.
    """

    labels: tuple[LabelResult, ...]
    map: float
    best: OperatingPoint
    iou_threshold: float
    matches: Matches

    @property
    def ap_per_label(self) -> dict[str, float | None]:
        """Label -> average precision; None where the ground truth has no object that counts."""
        return {result.label: result.average_precision for result in self.labels}

    def to_contract_dict(self) -> dict[str, float]:
        """The dictionary that `FasterRCNN.evaluate` answers with.

        Returns:
            `PASCAL/PerformanceByCategory/AP@0.5IOU/<label>` per class, NaN for a class without
            objects, and `PASCAL/Precision/mAP@0.5IOU`.
        """
        iou = f"{self.iou_threshold:g}IOU"
        metrics = {
            f"PASCAL/PerformanceByCategory/AP@{iou}/{label}": float("nan") if ap is None else ap
            for label, ap in self.ap_per_label.items()
        }
        return {**metrics, f"PASCAL/Precision/mAP@{iou}": self.map}


def pascal_average_precision(
    ground_truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    labels: LabelMap,
    iou_threshold: float = 0.5,
    interpolation: Interpolation = "all-point",
) -> PascalResult:
    """Measures detections against the truth.

    Args:
        ground_truths: One per picture.
        detections: One per picture, in the same order.
        labels: The classes of the model.
        iou_threshold: The least overlap that counts as found, above 0 and up to 1.
        interpolation: "all-point" (VOC 2010 and later) or "11-point" (VOC 2007).

    Raises:
        DatasetError: There is no object that counts in any picture.
        LabelError: A class id is beyond the labels.
        ValueError: Ground truths and detections differ in number, or the threshold is out of range.
    """
    matches = match_detections(ground_truths, detections, iou_threshold)
    _check_class_ids(matches, labels)
    if not len(matches.object_class_ids):
        raise DatasetError(
            "There is nothing to evaluate against",
            got=f"{matches.num_images} pictures without an object that counts",
            expected="at least one object that is not marked difficult",
        )
    results = tuple(
        _label_result(matches, class_id, labels.name_of(class_id), interpolation)
        for class_id in range(1, len(labels) + 1)
    )
    absent = [result.label for result in results if result.average_precision is None]
    if absent:
        logger.warning(
            "No object to evaluate, left out of the mean average precision: %s", ", ".join(absent)
        )
    measured = [r.average_precision for r in results if r.average_precision is not None]
    counted = ~matches.is_ignored
    return PascalResult(
        labels=results,
        map=float(np.mean(measured)),
        best=_best_point(
            matches.scores[counted],
            matches.is_true_positive[counted],
            len(matches.object_class_ids),
        ),
        iou_threshold=iou_threshold,
        matches=matches,
    )


def average_precision(
    is_true_positive: npt.NDArray[np.bool_],
    num_objects: int,
    interpolation: Interpolation = "all-point",
) -> float:
    """Average precision of one ranking.

    Args:
        is_true_positive: bool `[R]`, best score first.
        num_objects: Objects to be found, at least one and at least as many as were.
        interpolation: See `pascal_average_precision`.
    """
    precision, recall = _precision_recall(is_true_positive, num_objects)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if interpolation == "11-point":
        # Division, not a sum of tenths: k / 10 equals the recall 3 / 5 exactly where it should.
        levels = np.arange(11) / 10
        reached = np.searchsorted(recall, levels, side="left")
        return float(np.append(envelope, 0.0)[reached].sum() / 11)
    # Recall rises by 1 / num_objects at each true positive and nowhere else.
    return float(envelope[is_true_positive].sum() / num_objects)


def _label_result(
    matches: Matches, class_id: int, label: str, interpolation: Interpolation
) -> LabelResult:
    counted = (matches.class_ids == class_id) & ~matches.is_ignored
    scores = matches.scores[counted]
    is_true_positive = matches.is_true_positive[counted]
    num_objects = int((matches.object_class_ids == class_id).sum())
    precision, recall = _precision_recall(is_true_positive, num_objects)
    return LabelResult(
        label=label,
        num_objects=num_objects,
        average_precision=(
            average_precision(is_true_positive, num_objects, interpolation) if num_objects else None
        ),
        scores=scores,
        precision=precision,
        recall=recall,
        best=_best_point(scores, is_true_positive, num_objects),
    )


def _precision_recall(
    is_true_positive: npt.NDArray[np.bool_], num_objects: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    true_positives = np.cumsum(is_true_positive, dtype=np.float64)
    precision = true_positives / np.arange(1, len(is_true_positive) + 1)
    return precision, true_positives / max(num_objects, 1)


def _best_point(
    scores: npt.NDArray[np.float32], is_true_positive: npt.NDArray[np.bool_], num_objects: int
) -> OperatingPoint:
    true_positives = np.cumsum(is_true_positive)
    if not is_true_positive.any():
        return OperatingPoint(None, 0, len(scores), num_objects)
    taken = np.arange(1, len(scores) + 1)
    f1 = 2 * true_positives / (taken + num_objects)
    # A threshold takes all detections of one score or none, so it can only end after the last of them.
    f1[:-1][scores[:-1] == scores[1:]] = -1.0
    last = int(np.argmax(f1))
    found = int(true_positives[last])
    return OperatingPoint(float(scores[last]), found, last + 1 - found, num_objects - found)


def _check_class_ids(matches: Matches, labels: LabelMap) -> None:
    for what, class_ids in (
        ("detection", matches.class_ids),
        ("ground truth", matches.object_class_ids),
    ):
        if len(class_ids) and class_ids.max() > len(labels):
            raise LabelError(
                f"The class of a {what} is unknown",
                got=f"class id {class_ids.max()}",
                expected=f"1 to {len(labels)}",
            )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
