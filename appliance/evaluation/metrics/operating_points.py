"""What a score threshold does: precision, recall and F1 at every threshold, and the best one.

A threshold takes all detections of one score or none of them, so a threshold can only lie at a score that
some detection has. Needs numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


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
class ThresholdCurve:
    """Every threshold that differs from the others, and what it does.

    Attributes:
        score_thresholds: float64 `[T]`, ascending: the scores that occur.
        true_positives: int64 `[T]`, objects found by detections at or above the threshold.
        false_positives: int64 `[T]`, the other detections at or above it.
        num_objects: Objects to be found.
    """

    score_thresholds: npt.NDArray[np.float64]
    true_positives: npt.NDArray[np.int64]
    false_positives: npt.NDArray[np.int64]
    num_objects: int

    @property
    def precision(self) -> npt.NDArray[np.float64]:
        """Share of the detections that are right, float64 `[T]`."""
        return self.true_positives / (self.true_positives + self.false_positives)

    @property
    def recall(self) -> npt.NDArray[np.float64]:
        """Share of the objects that are found, float64 `[T]`; 0 when there are none."""
        return self.true_positives / max(self.num_objects, 1)

    @property
    def f1(self) -> npt.NDArray[np.float64]:
        """Harmonic mean of precision and recall, float64 `[T]`."""
        taken = self.true_positives + self.false_positives
        return 2 * self.true_positives / (taken + self.num_objects)

    @property
    def best(self) -> OperatingPoint:
        """The threshold with the highest F1, the higher one among equals.

        Without a single true positive its threshold is None and its counts are over all detections.
        """
        if not self.true_positives.any():
            wrong = int(self.false_positives.max(initial=0))
            return OperatingPoint(None, 0, wrong, self.num_objects)
        # From the end: argmax takes the first of equals.
        best = len(self.score_thresholds) - 1 - int(np.argmax(self.f1[::-1]))
        found = int(self.true_positives[best])
        return OperatingPoint(
            score_threshold=float(self.score_thresholds[best]),
            true_positives=found,
            false_positives=int(self.false_positives[best]),
            false_negatives=self.num_objects - found,
        )


def threshold_curve(
    scores: npt.NDArray[np.float32], is_true_positive: npt.NDArray[np.bool_], num_objects: int
) -> ThresholdCurve:
    """The curve of one ranking.

    Args:
        scores: float32 `[R]`, descending.
        is_true_positive: bool `[R]`, in the same order.
        num_objects: Objects to be found.
    """
    # The last detection of each score, lowest score first.
    last = np.flatnonzero(np.append(scores[:-1] != scores[1:], True)[: len(scores)])[::-1]
    found = np.cumsum(is_true_positive, dtype=np.int64)[last]
    return ThresholdCurve(scores[last].astype(np.float64), found, last + 1 - found, num_objects)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
