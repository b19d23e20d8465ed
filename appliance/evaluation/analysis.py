"""What stands behind the figures: how sure they are, what kinds of errors cost them, and who is mixed up.

Computed once, then shown by the report, by TensorBoard and in `metrics.json`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from appliance.evaluation.evaluate import EvaluationResult
from appliance.evaluation.metrics.confusion import ConfusionMatrix, confusion_matrix
from appliance.evaluation.metrics.error_counts import ErrorCounts, count_errors
from appliance.evaluation.metrics.error_types import ErrorTypes, analyse_errors
from appliance.evaluation.metrics.intervals import (
    ConfidenceIntervals,
    Interval,
    bootstrap_intervals,
)

NO_THRESHOLD = 0.5


@dataclass(frozen=True, eq=False)
class Analysis:
    """The second look at an evaluation.

    Attributes:
        intervals: Between which values the figures would lie on other pictures of the same kind.
        error_types: The six kinds of errors and the average precision that each costs, all scores counted.
        error_types_shown: The same of the detections at or above `score_threshold`, which users see.
        confusion: Who is taken for whom at `score_threshold`.
        errors_in_objects: Wrong, missed and either per score threshold.
        errors_in_pictures: The same as numbers of pictures.
        score_threshold: The best one for all classes together; `NO_THRESHOLD` where none finds anything.
    """

    intervals: ConfidenceIntervals
    error_types: ErrorTypes
    error_types_shown: ErrorTypes
    confusion: ConfusionMatrix
    errors_in_objects: ErrorCounts
    errors_in_pictures: ErrorCounts
    score_threshold: float

    def to_json_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file; numbers are finite or null."""
        intervals = self.intervals
        return {
            "confidence": {
                "level": intervals.level,
                "resamples": intervals.resamples,
                "map_50": _pair(intervals.map),
                "ap_50": {name: _pair(found) for name, found in intervals.ap_per_label.items()},
            },
            "error_types": asdict(self.error_types),
            "error_types_shown": asdict(self.error_types_shown),
            "confusion_matrix": {
                "score_threshold": self.confusion.score_threshold,
                "rows_and_columns": [*self.confusion.labels, "background"],
                "counts": self.confusion.counts.tolist(),
            },
            "error_counts": {
                "objects": _counts(self.errors_in_objects),
                "pictures": _counts(self.errors_in_pictures),
            },
        }


def analyse(result: EvaluationResult, *, resamples: int = 1000, seed: int = 0) -> Analysis:
    """Takes the second look.

    Args:
        result: The evaluation.
        resamples: How often the pictures are drawn anew for the confidence intervals.
        seed: Equal seeds give equal intervals.
    """
    pascal = result.pascal
    threshold = pascal.best.score_threshold
    score_threshold = NO_THRESHOLD if threshold is None else threshold
    return Analysis(
        intervals=bootstrap_intervals(pascal, resamples=resamples, seed=seed),
        error_types=analyse_errors(
            result.ground_truths,
            result.detections,
            result.labels,
            iou_threshold=pascal.iou_threshold,
        ),
        error_types_shown=analyse_errors(
            result.ground_truths,
            result.detections,
            result.labels,
            score_threshold=score_threshold,
            iou_threshold=pascal.iou_threshold,
        ),
        confusion=confusion_matrix(
            result.ground_truths,
            result.detections,
            result.labels,
            score_threshold,
            pascal.iou_threshold,
        ),
        errors_in_objects=count_errors(pascal.matches),
        errors_in_pictures=count_errors(pascal.matches, unit="pictures"),
        score_threshold=score_threshold,
    )


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _counts(counts: ErrorCounts) -> dict[str, list[float] | list[int]]:
    return {
        "score_thresholds": counts.score_thresholds.tolist(),
        "wrong": counts.wrong.tolist(),
        "missed": counts.missed.tolist(),
        "either": counts.either.tolist(),
    }
