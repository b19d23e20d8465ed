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
from appliance.evaluation.metrics.matching import (
    GroundTruth,
    Matches,
    check_measurable,
    match_detections,
)
from appliance.evaluation.metrics.operating_points import (
    OperatingPoint,
    ThresholdCurve,
    threshold_curve,
)
from appliance.labels import LabelMap

__all__ = [
    "GroundTruth",
    "LabelResult",
    "OperatingPoint",
    "PascalResult",
    "ThresholdCurve",
    "average_precision",
    "pascal_average_precision",
]

logger = logging.getLogger(__name__)

Interpolation = Literal["all-point", "11-point"]

# The recalls at which the envelope is averaged; None takes the area under all of it. Division, not a sum
# of tenths: k / 10 equals the recall 3 / 5 exactly where it should.
RECALL_LEVELS: dict[Interpolation, npt.NDArray[np.float64] | None] = {
    "all-point": None,
    "11-point": np.arange(11) / 10,
}


@dataclass(frozen=True, eq=False)
class LabelResult:
    """How well one class is found.

    Attributes:
        label: Its name.
        num_objects: Objects that count (neither difficult nor a crowd).
        average_precision: 0..1; None when there is no object that counts.
        scores: float32 `[R]`, descending: the detections of this class that count.
        precision: float64 `[R]`, over the detections up to and with each.
        recall: float64 `[R]`, likewise; 0 throughout when there is no object.
        curve: Precision, recall and F1 at every score threshold.
    """

    label: str
    num_objects: int
    average_precision: float | None
    scores: npt.NDArray[np.float32]
    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    curve: ThresholdCurve

    @property
    def best(self) -> OperatingPoint:
        """The threshold to recommend: the one with the highest F1, see `ThresholdCurve.best`."""
        return self.curve.best


@dataclass(frozen=True, eq=False)
class PascalResult:
    """The figures of one evaluation.

    Attributes:
        labels: One entry per class of the model, in the order of their ids.
        map: Mean of the average precisions that exist, 0..1.
        curve: Precision, recall and F1 at every score threshold that holds for all classes alike.
        iou_threshold: The least overlap that counted as found.
        interpolation: How the area under the curve was taken.
        matches: The verdict on every detection.
    """

    labels: tuple[LabelResult, ...]
    map: float
    curve: ThresholdCurve
    iou_threshold: float
    interpolation: Interpolation
    matches: Matches

    @property
    def best(self) -> OperatingPoint:
        """The one score threshold for all classes with the highest F1, and what it does."""
        return self.curve.best

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
    check_measurable(matches, labels)
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
        curve=threshold_curve(
            matches.scores[counted],
            matches.is_true_positive[counted],
            len(matches.object_class_ids),
        ),
        iou_threshold=iou_threshold,
        interpolation=interpolation,
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
    levels = RECALL_LEVELS[interpolation]
    if levels is not None:
        reached = np.searchsorted(recall, levels, side="left")
        return float(np.append(envelope, 0.0)[reached].sum() / len(levels))
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
        curve=threshold_curve(scores, is_true_positive, num_objects),
    )


def _precision_recall(
    is_true_positive: npt.NDArray[np.bool_], num_objects: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    true_positives = np.cumsum(is_true_positive, dtype=np.float64)
    precision = true_positives / np.arange(1, len(is_true_positive) + 1)
    return precision, true_positives / max(num_objects, 1)
