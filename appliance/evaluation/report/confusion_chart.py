"""The confusion matrix to look at: a heat map that stays legible, and the confusions that matter in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from appliance.evaluation.metrics.confusion import ConfusionMatrix
from appliance.evaluation.report.chart import Chart, Ink, cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BACKGROUND = "background"
_MOST_ROWS = 24
_MOST_NUMBERED = 14


@dataclass(frozen=True)
class Confusion:
    """One kind of mistake and how often it happened.

    Attributes:
        truth: The class of the object; `BACKGROUND` where there is none.
        predicted: The class of the detection; `BACKGROUND` where there is none.
        count: How many.
        share: Of all objects of `truth`, or of all detections of nothing, 0..1.
    """

    truth: str
    predicted: str
    count: int
    share: float


def frequent_confusions(matrix: ConfusionMatrix, limit: int = 10) -> list[Confusion]:
    """Pairs of two different classes that were taken for each other, the most frequent first."""
    counts = matrix.counts[:-1, :-1].copy()
    np.fill_diagonal(counts, 0)
    totals = matrix.counts[:-1].sum(axis=1)
    order = np.argsort(-counts, axis=None, kind="stable")[:limit]
    pairs = [divmod(int(place), len(matrix.labels)) for place in order]
    return [
        Confusion(
            matrix.labels[row],
            matrix.labels[column],
            int(counts[row, column]),
            float(counts[row, column] / totals[row]),
        )
        for row, column in pairs
        if counts[row, column]
    ]


def confusion_chart(matrix: ConfusionMatrix) -> Chart:
    """The matrix as a heat map; of more classes than fit, those that are confused most."""
    names, counts, gathered = _gathered(matrix)
    size = len(names)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)

    def paint(ax: Axes, ink: Ink) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        colormap = LinearSegmentedColormap.from_list("shares", ink.scale)
        ax.imshow(shares, cmap=colormap, vmin=0, vmax=1, interpolation="nearest")
        for edge in np.arange(size - 1) + 0.5:
            ax.axhline(edge, color=ink.page, linewidth=1.2 if edge < size - 2 else 3)
            ax.axvline(edge, color=ink.page, linewidth=1.2 if edge < size - 2 else 3)
        for row, column in np.argwhere(counts > 0) if size <= _MOST_NUMBERED + 1 else ():
            color = ink.page if shares[row, column] > 0.45 else ink.text
            ax.text(
                *(column, row, f"{counts[row, column]:,}"),
                ha="center",
                va="center",
                fontsize=8,
                color=color,
            )
        ax.set_xticks(range(size), names, rotation=90 if size > 5 else 0, fontsize=8)
        ax.set_yticks(range(size), names, fontsize=8)
        ax.xaxis.tick_top()
        ax.xaxis.set_label_position("top")
        ax.set(xlabel="detected", ylabel="annotated")

    side = 2.2 + 0.24 * max(size, 4) if size > _MOST_NUMBERED + 1 else 1.9 + 0.38 * max(size, 4)
    return Chart(
        "confusion_matrix",
        "Confusion matrix",
        _alt(matrix),
        "A row holds the objects of one class, a column what they were detected as; the deeper the colour, "
        "the greater the share of the row. The diagonal is right. The last column is missed objects, the "
        f"last row detections that fit no object. A box that fits counts whatever its label.{gathered}",
        paint,
        (side + 0.3, side),
        is_map=True,
        is_wide=size > _MOST_NUMBERED + 1,
    )


def _gathered(matrix: ConfusionMatrix) -> tuple[list[str], npt.NDArray[np.int64], str]:
    """Names and counts with background; beyond what fits, the least confused classes as one."""
    labels, counts = list(matrix.labels), matrix.counts
    if len(labels) <= _MOST_ROWS:
        return [*(cut(label, 16) for label in labels), BACKGROUND], counts, ""
    mistakes = counts - np.diag(np.diag(counts))
    involved = (mistakes.sum(axis=0) + mistakes.sum(axis=1))[:-1]
    kept = np.sort(np.argsort(-involved, kind="stable")[: _MOST_ROWS - 1])
    number = len(labels) - len(kept)
    # Where each class goes: its place among the kept ones, or the place of the others.
    target = np.full(len(labels) + 1, len(kept))
    target[kept] = np.arange(len(kept))
    target[-1] = len(kept) + 1
    small = np.zeros((len(kept) + 2, len(kept) + 2), np.int64)
    np.add.at(small, (target[:, None], target[None, :]), counts)
    names = [*(cut(labels[index], 16) for index in kept), f"{number} others", BACKGROUND]
    return names, small, f" The {number} labels with the fewest mistakes are gathered."


def _alt(matrix: ConfusionMatrix) -> str:
    right = int(np.diag(matrix.counts)[:-1].sum())
    confused = int(matrix.counts[:-1, :-1].sum()) - right
    missed = int(matrix.counts[:-1, -1].sum())
    wrong = int(matrix.counts[-1].sum())
    return (
        f"Confusion matrix of {len(matrix.labels)} labels: {right} objects found as what they are, "
        f"{confused} taken for another label, {missed} missed, {wrong} detections that fit no object."
    )
