"""Which class is taken for which: the confusion matrix with a row and a column for the background.

Detections at or above the score threshold choose in the order of their scores. Each takes the object it
overlaps best, of whatever class, among those of its picture that are still free and overlap it by the IoU
threshold; of equal overlaps one of its own class, then the first. So every detection and every object is
counted once: as a pair, as a detection of background, or as an object taken for background, which is
missed. It differs from the PASCAL figures in that a detection of the wrong class takes an object away.

Difficult objects and crowds stay free for any number of detections, and a detection that takes one is left
out. Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from appliance.detections import Detections
from appliance.evaluation.metrics.matching import GroundTruth, check_class_ids
from appliance.evaluation.metrics.overlaps import FlatBoxes, joined, overlapping_pairs
from appliance.labels import LabelMap

_BACKGROUND = -1


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """How often each class was taken for each.

    Attributes:
        labels: The classes, in the order of their ids; background is not among them.
        counts: int64 `[C + 1, C + 1]`; rows are the truth, columns what was predicted, the last of either
            is background. The last row holds detections of nothing, the last column missed objects.
        score_threshold: Detections at or above it count.
        iou_threshold: The least overlap of a pair.
    """

    labels: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    score_threshold: float
    iou_threshold: float

    def normalised(self) -> npt.NDArray[np.float64]:
        """Shares of each row, float64 `[C + 1, C + 1]`; a row without any count stays 0.

        On the diagonal stands the share of the objects of a class that were found as such; the last row
        tells which classes the detections of nothing claim.
        """
        totals = self.counts.sum(axis=1, keepdims=True)
        shares: npt.NDArray[np.float64] = self.counts / np.maximum(totals, 1)
        return shares


def confusion_matrix(
    ground_truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    labels: LabelMap,
    score_threshold: float,
    iou_threshold: float = 0.5,
) -> ConfusionMatrix:
    """Counts which class was taken for which.

    Args:
        ground_truths: One per picture.
        detections: One per picture, in the same order.
        labels: The classes of the model.
        score_threshold: Detections at or above it count.
        iou_threshold: The least overlap of a pair, above 0 and up to 1.

    Raises:
        LabelError: A class id is beyond the labels.
        ValueError: Ground truths and detections differ in number, or the IoU threshold is out of range.
    """
    if len(ground_truths) != len(detections):
        raise ValueError(f"{len(ground_truths)} ground truths for {len(detections)} detections")
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be above 0 and at most 1, got {iou_threshold}")
    truth, found = FlatBoxes.of(ground_truths), FlatBoxes.of(detections)
    check_class_ids(truth.class_ids, found.class_ids, labels)
    is_ignored = joined([picture.is_ignored for picture in ground_truths], np.bool_)
    scores = joined([picture.scores for picture in detections], np.float32)
    is_shown = scores >= np.float32(score_threshold)
    taken = _taken_objects(found, truth, scores, is_ignored, iou_threshold, is_shown)

    background = len(labels)
    predicted = found.class_ids - 1
    is_paired = taken != _BACKGROUND
    actual = np.full(len(found), background)
    actual[is_paired] = truth.class_ids[taken[is_paired]] - 1
    counted = is_shown.copy()
    counted[is_paired] &= ~is_ignored[taken[is_paired]]
    is_missed = ~is_ignored
    is_missed[taken[is_paired]] = False

    counts = np.zeros((background + 1, background + 1), np.int64)
    np.add.at(counts, (actual[counted], predicted[counted]), 1)
    np.add.at(counts, (truth.class_ids[is_missed] - 1, background), 1)
    return ConfusionMatrix(labels.names, counts, score_threshold, iou_threshold)


def _taken_objects(
    found: FlatBoxes,
    truth: FlatBoxes,
    scores: npt.NDArray[np.float32],
    is_ignored: npt.NDArray[np.bool_],
    iou_threshold: float,
    is_shown: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int64]:
    """The object that each detection takes."""
    pairs = overlapping_pairs(found, truth, iou_threshold, same_class=False)
    pairs = pairs.where(is_shown[pairs.detection])
    is_other_class = found.class_ids[pairs.detection] != truth.class_ids[pairs.object]
    # Detections of equal score in their own order, which the index is.
    order = np.lexsort(
        (pairs.object, is_other_class, -pairs.iou, pairs.detection, -scores[pairs.detection])
    )
    is_free = np.ones(len(truth), np.bool_).tolist()
    stays_free = is_ignored.tolist()
    taken = np.full(len(found), _BACKGROUND).tolist()
    for detection, candidate in zip(
        pairs.detection[order].tolist(), pairs.object[order].tolist(), strict=True
    ):
        if taken[detection] == _BACKGROUND and is_free[candidate]:
            taken[detection] = candidate
            is_free[candidate] = stays_free[candidate]
    return np.array(taken, np.int64)
