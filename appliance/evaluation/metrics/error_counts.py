"""How many errors each score threshold makes, as numbers and as a plot, for choosing the threshold.

`DetectionEvaluation` and `graph_error_counts` carry the names that scripts of the first system import.
matplotlib is imported by the functions that plot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from appliance.detections import Detections
from appliance.errors import ConfigError
from appliance.evaluation.metrics.average_precision import PascalResult, pascal_average_precision
from appliance.evaluation.metrics.matching import GroundTruth, Matches
from appliance.labels import Label, LabelMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Unit = Literal["objects", "pictures"]

# Told apart by people who see red and green alike (Okabe and Ito), and by their dashes in grey print.
_LINES = (("wrong", "#d55e00", "-"), ("missed", "#0072b2", "--"), ("either", "#009e73", ":"))
_LINE_ON_NEGATIVES = ("wrong, on negatives", "#cc79a7", "-.")


@dataclass(frozen=True, eq=False)
class ErrorCounts:
    """Errors against the score threshold.

    Attributes:
        score_thresholds: float64 `[T]`, ascending, 0..1.
        wrong: int64 `[T]`, false positives, or pictures with at least one.
        missed: int64 `[T]`, objects not found, or pictures with at least one.
        either: int64 `[T]`, their sum, or pictures with an error of either kind.
        on_negatives: int64 `[T]`, the part of `wrong` that lies on negatives: pictures without any object.
        num_negatives: How many of those there are.
        unit: What is counted.
    """

    score_thresholds: npt.NDArray[np.float64]
    wrong: npt.NDArray[np.int64]
    missed: npt.NDArray[np.int64]
    either: npt.NDArray[np.int64]
    on_negatives: npt.NDArray[np.int64]
    num_negatives: int
    unit: Unit


def count_errors(
    matches: Matches, score_thresholds: Sequence[float] | None = None, *, unit: Unit = "objects"
) -> ErrorCounts:
    """Counts the errors at each score threshold.

    Args:
        matches: The verdicts of an evaluation.
        score_thresholds: Ascending, 0..1; None takes 0, 0.01, ..., 1.
        unit: Count objects, or pictures with an error.

    Raises:
        ConfigError: `matches` are no such verdicts.
    """
    if not isinstance(matches, Matches):
        raise ConfigError(
            "These are not the verdicts of an evaluation",
            got=type(matches).__name__,
            expected="Matches, as in detector.evaluate_in_detail(dataset).pascal.matches",
        )
    given = np.arange(101) / 100 if score_thresholds is None else score_thresholds
    thresholds = np.asarray(given, np.float64)
    exact = thresholds.astype(np.float32)
    is_wrong = matches.is_false_positive
    wrong_score, wrong_image = matches.scores[is_wrong], matches.image_index[is_wrong]
    # An object is missed above the score of the detection that found it; if none did, at any threshold.
    found_score = np.where(matches.object_is_found, matches.object_score, -np.inf)
    if unit == "objects":
        wrong, missed = _at_or_above(wrong_score, exact), _below(found_score, exact)
        on_negatives = _at_or_above(wrong_score[matches.image_is_negative[wrong_image]], exact)
        either = wrong + missed
    else:
        most_wrong = np.full(matches.num_images, -np.inf)
        np.maximum.at(most_wrong, wrong_image, wrong_score)
        least_found = np.full(matches.num_images, np.inf)
        np.minimum.at(least_found, matches.object_image_index, found_score)
        wrong, missed = _at_or_above(most_wrong, exact), _below(least_found, exact)
        on_negatives = _at_or_above(most_wrong[matches.image_is_negative], exact)
        # Without an error is a picture between its best wrong detection and its weakest right one.
        can_be_right = most_wrong < least_found
        right = _below(most_wrong[can_be_right], exact) - _below(least_found[can_be_right], exact)
        either = matches.num_images - right
    return ErrorCounts(
        score_thresholds=thresholds,
        wrong=wrong,
        missed=missed,
        either=either,
        on_negatives=on_negatives,
        num_negatives=int(matches.image_is_negative.sum()),
        unit=unit,
    )


def graph_error_counts(counts: ErrorCounts, ax: Axes | None = None) -> Axes:
    """Plots wrong, missed and either against the score threshold.

    Where there are negatives, a fourth line shows how much of what is wrong lies on them.

    Args:
        counts: From `count_errors`.
        ax: Where to plot; None makes a new figure.

    Returns:
        The axes that were drawn on.

    Raises:
        ConfigError: `counts` are something else.
    """
    from matplotlib.ticker import MaxNLocator

    if not isinstance(counts, ErrorCounts):
        raise ConfigError(
            "These are no error counts",
            got=type(counts).__name__,
            expected="what count_errors returns",
        )
    if ax is None:
        from matplotlib import pyplot as plt

        ax = plt.subplots(figsize=(6, 4), layout="constrained")[1]
    shown = {name: (getattr(counts, name), color, dashes) for name, color, dashes in _LINES}
    if counts.num_negatives:
        name, color, dashes = _LINE_ON_NEGATIVES
        shown[name] = (counts.on_negatives, color, dashes)
    for name, (values, color, dashes) in shown.items():
        ax.plot(
            counts.score_thresholds,
            values,
            dashes,
            color=color,
            linewidth=1.8,
            label=name,
            zorder=3,
        )
    ax.set(xlabel="score threshold", ylabel=f"{counts.unit} in error", xlim=(0, 1))
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(color="#d9dee3", linewidth=0.6)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    # Above the lines, which may be anywhere.
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(shown),
        frameon=False,
        handlelength=1.7,
        columnspacing=1.2,
    )
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
        ConfigError: An argument is of another kind.
        DatasetError: There is no object that counts in any picture.
    """

    def __init__(
        self,
        ground_truths: Sequence[GroundTruth],
        detections: Sequence[Detections],
        labels: LabelMap | Sequence[Label | str],
        iou_threshold: float = 0.5,
    ) -> None:
        if not isinstance(labels, LabelMap):
            if isinstance(labels, str) or not isinstance(labels, Iterable):
                raise ConfigError(
                    "These are no labels",
                    got=repr(labels),
                    expected="a list of names, as in ['milk']",
                )
            labels = LabelMap.of(labels)
        self.result: PascalResult = pascal_average_precision(
            ground_truths, detections, labels, iou_threshold
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


def _at_or_above(
    scores: npt.NDArray[np.floating], thresholds: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """How many of the scores each threshold lets through."""
    return len(scores) - _below(scores, thresholds)


def _below(
    scores: npt.NDArray[np.floating], thresholds: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """How many of the scores each threshold holds back."""
    return np.searchsorted(np.sort(scores), thresholds, side="left").astype(np.int64)
