"""How many errors each score threshold makes, as numbers and as a plot, for choosing the threshold.

`DetectionEvaluation` and `graph_error_counts` carry the names that scripts of the first system import.
matplotlib is imported by the functions that plot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from appliance.detections import Detections
from appliance.evaluation.average_precision import PascalResult, pascal_average_precision
from appliance.evaluation.matching import GroundTruth, Matches
from appliance.labels import Label, LabelMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Unit = Literal["objects", "pictures"]

# Told apart by people who see red and green alike (Okabe and Ito), and by their dashes in grey print.
_LINES = (("wrong", "#d55e00", "-"), ("missed", "#0072b2", "--"), ("either", "#009e73", ":"))


@dataclass(frozen=True, eq=False)
class ErrorCounts:
    """Errors against the score threshold.

    Attributes:
        score_thresholds: float64 `[T]`, ascending, 0..1.
        wrong: int64 `[T]`, false positives, or pictures with at least one.
        missed: int64 `[T]`, objects not found, or pictures with at least one.
        either: int64 `[T]`, their sum, or pictures with an error of either kind.
        unit: What is counted.
    """

    score_thresholds: npt.NDArray[np.float64]
    wrong: npt.NDArray[np.int64]
    missed: npt.NDArray[np.int64]
    either: npt.NDArray[np.int64]
    unit: Unit


def count_errors(
    matches: Matches, score_thresholds: Sequence[float] | None = None, *, unit: Unit = "objects"
) -> ErrorCounts:
    """Counts the errors at each score threshold.

    Args:
        matches: The verdicts of an evaluation.
        score_thresholds: Ascending, 0..1; None takes 0, 0.01, ..., 1.
        unit: Count objects, or pictures with an error.
    """
    given = np.arange(101) / 100 if score_thresholds is None else score_thresholds
    thresholds = np.asarray(given, np.float64)
    counts = np.array([_errors_at(matches, float(t), unit) for t in thresholds], np.int64)
    wrong, missed, either = counts.reshape(-1, 3).T
    return ErrorCounts(thresholds, wrong, missed, either, unit)


def graph_error_counts(counts: ErrorCounts, ax: Axes | None = None) -> Axes:
    """Plots wrong, missed and either against the score threshold.

    Args:
        counts: From `count_errors`.
        ax: Where to plot; None makes a new figure.

    Returns:
        The axes that were drawn on.
    """
    if ax is None:
        from matplotlib import pyplot as plt

        ax = plt.subplots(figsize=(6, 4))[1]
    for name, color, dashes in _LINES:
        ax.plot(counts.score_thresholds, getattr(counts, name), dashes, color=color, label=name)
    ax.set(xlabel="score threshold", ylabel=f"{counts.unit} in error", xlim=(0, 1))
    ax.set_ylim(bottom=0)
    ax.legend()
    return ax


class DetectionEvaluation:
    """Detections measured against the truth, with what one usually asks next.

    Args:
        ground_truths: One per picture.
        detections: One per picture, in the same order.
        labels: The classes of the model.
        iou_threshold: The least overlap that counts as found, above 0 and up to 1.

    Attributes:
        result: The figures, per class and over all.

    Raises:
        DatasetError: There is no object that counts in any picture.
    """

    def __init__(
        self,
        ground_truths: Sequence[GroundTruth],
        detections: Sequence[Detections],
        labels: LabelMap | Sequence[Label | str],
        iou_threshold: float = 0.5,
    ) -> None:
        label_map = labels if isinstance(labels, LabelMap) else LabelMap.of(labels)
        self.result: PascalResult = pascal_average_precision(
            ground_truths, detections, label_map, iou_threshold
        )

    def metrics(self) -> dict[str, float]:
        """The dictionary that `FasterRCNN.evaluate` answers with."""
        return self.result.to_contract_dict()

    def error_counts(
        self, score_thresholds: Sequence[float] | None = None, *, unit: Unit = "objects"
    ) -> ErrorCounts:
        """See `count_errors`."""
        return count_errors(self.result.matches, score_thresholds, unit=unit)

    def graph_error_counts(self, ax: Axes | None = None, *, unit: Unit = "objects") -> Axes:
        """See the function of this name."""
        return graph_error_counts(self.error_counts(unit=unit), ax)


def _errors_at(matches: Matches, threshold: float, unit: Unit) -> tuple[int, int, int]:
    is_wrong = matches.is_false_positive & (matches.scores >= np.float32(threshold))
    is_missed = matches.object_is_missed(threshold)
    if unit == "objects":
        wrong, missed = int(is_wrong.sum()), int(is_missed.sum())
        return wrong, missed, wrong + missed
    wrong_images = np.unique(matches.image_index[is_wrong])
    missed_images = np.unique(matches.object_image_index[is_missed])
    return len(wrong_images), len(missed_images), len(np.union1d(wrong_images, missed_images))
