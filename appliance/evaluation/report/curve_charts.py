"""What the charts of an evaluation show: average precision, curves, errors and confusions.

Each reads well for one class and for eighty: the worst classes are named, the others stay in grey, and a
map of more classes than fit gathers those that are hardly confused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from appliance.evaluation.analysis import Analysis
from appliance.evaluation.metrics.average_precision import LabelResult, PascalResult, ThresholdCurve
from appliance.evaluation.metrics.error_counts import ErrorCounts, graph_error_counts
from appliance.evaluation.report.chart import (
    COLORS,
    DASHES,
    LEGEND_ROW_INCHES,
    MARK,
    SIZE_INCHES,
    Chart,
    Ink,
    Painter,
    cut,
    thinned,
)
from appliance.evaluation.report.text import error_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CURVES = 8
_MOST_BARS = 20
_FEW_POINTS = 80
_F1_STEPS = 200


def curve_charts(pascal: PascalResult, analysis: Analysis) -> list[Chart]:
    """Precision and recall, F1, and errors against the score threshold."""
    return [
        precision_recall_chart(pascal),
        f1_chart(pascal),
        error_counts_chart(pascal, analysis.errors_in_objects),
        error_pictures_chart(pascal, analysis.errors_in_pictures),
    ]


def precision_recall_chart(pascal: PascalResult) -> Chart:
    """The precision envelope of each class; of more than eight, the eight worst in colour."""
    shown, others = _worst(pascal)

    def paint(ax: Axes, ink: Ink) -> None:
        for label in others:
            ax.plot(*thinned(*_envelope(label), _FEW_POINTS), color=ink.grid, linewidth=0.9)
        for index, label in enumerate(shown):
            recall, envelope = thinned(*_envelope(label))
            ax.plot(
                recall,
                envelope,
                color=COLORS[index % len(COLORS)],
                linestyle=DASHES[index % len(DASHES)],
                linewidth=_line_width(index, len(shown)),
                drawstyle="steps-pre",
                marker="o",
                markersize=4.5,
                markevery=[len(recall) - 1],
                label=f"{cut(label.label)} {label.average_precision:.3f}",
                clip_on=False,
            )
        ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        ax.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)

    facts = ", ".join(f"{label.label} {label.average_precision:.3f}" for label in shown)
    return Chart(
        "precision_recall",
        "Precision and recall",
        f"Line chart of precision against recall. Average precision: {facts}.",
        "Each curve falls where wrong detections come in and ends where no further object is found. The "
        f"area under it is the average precision beside the label. Worst label first.{_rest(others)}",
        paint,
        _with_legend(len(shown)),
    )


def f1_chart(pascal: PascalResult) -> Chart:
    """F1 of each class against its score threshold, the best point marked."""
    shown, others = _worst(pascal)

    def paint(ax: Axes, ink: Ink) -> None:
        for label in others:
            ax.plot(*_f1_curve(label.curve, _FEW_POINTS), color=ink.grid, linewidth=0.9)
        for index, label in enumerate(shown):
            color = COLORS[index % len(COLORS)]
            ax.plot(
                *_f1_curve(label.curve),
                color=color,
                linestyle=DASHES[index % len(DASHES)],
                linewidth=_line_width(index, len(shown)),
                drawstyle="steps-pre",
                label=f"{cut(label.label)} {label.best.f1:.3f}",
            )
            if label.best.score_threshold is not None:
                ax.plot(label.best.score_threshold, label.best.f1, "o", color=color, markersize=4.5)
        if len(shown) > 1:
            ax.plot(
                *_f1_curve(pascal.curve),
                color=ink.text,
                linewidth=1,
                drawstyle="steps-pre",
                label=f"all labels {pascal.best.f1:.3f}",
            )
        ax.set(xlabel="score threshold", ylabel="F1", xlim=(0, 1), ylim=(0, 1.02))
        ax.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)

    facts = ", ".join(f"{label.label} {label.best.f1:.3f}" for label in shown)
    return Chart(
        "f1",
        "F1 and the score threshold",
        f"Line chart of F1 against the score threshold. Best F1: {facts}.",
        "F1 is high where few objects are missed and few detections are wrong. The dot is the best "
        "threshold of a label; on a flat top any threshold does, a sharp peak wants care."
        f"{_rest(others)}",
        paint,
        _with_legend(len(shown) + (len(shown) > 1)),
    )


def error_counts_chart(pascal: PascalResult, counts: ErrorCounts) -> Chart:
    """Wrong, missed and either against the score threshold, with the best threshold marked."""
    fewest = int(counts.either.argmin())
    return Chart(
        "errors",
        "Errors and the score threshold",
        f"Line chart of wrong detections and missed objects against the score threshold. The fewest "
        f"errors are {counts.either[fewest]} at {counts.score_thresholds[fewest]:.2f}.",
        "A low threshold lets wrong detections in, a high one misses objects. The dotted upright line "
        "marks the threshold with the best balance (F1).",
        _error_painter(pascal, counts, "errors"),
    )


def error_pictures_chart(pascal: PascalResult, counts: ErrorCounts) -> Chart:
    """Pictures with an error against the score threshold."""
    fewest = int(counts.either.argmin())
    return Chart(
        "error_pictures",
        "Pictures with an error",
        f"Line chart of pictures with an error against the score threshold. The fewest are "
        f"{counts.either[fewest]} of {pascal.matches.num_images} pictures at "
        f"{counts.score_thresholds[fewest]:.2f}.",
        "How many of the pictures have at least one wrong detection, one missed object, or either.",
        _error_painter(pascal, counts, "pictures"),
    )


def average_precision_chart(pascal: PascalResult, analysis: Analysis) -> Chart:
    """A bar a class with its confidence interval, worst on top; of many, the worst."""
    measured = _by_average_precision(pascal)
    shown = measured[:_MOST_BARS]
    left_out = len(measured) - len(shown)

    def paint(ax: Axes, ink: Ink) -> None:
        values = [label.average_precision or 0.0 for label in shown]
        places = range(len(shown))
        ax.barh(places, values, height=0.62, color=COLORS[5])
        for place, label, value in zip(places, shown, values, strict=True):
            interval = analysis.intervals.ap_per_label.get(label.label)
            if interval is not None:
                ax.plot([interval.low, interval.high], [place, place], color=ink.text, linewidth=1)
            ax.text(1.02, place, f"{value:.3f}", va="center", fontsize=8, color=ink.text)
        ax.set_yticks(places, [cut(label.label) for label in shown], fontsize=8)
        ax.invert_yaxis()
        ax.set(xlabel=f"average precision at IoU {pascal.iou_threshold:g}", xlim=(0, 1))

    facts = ", ".join(f"{label.label} {label.average_precision:.3f}" for label in shown)
    more = f" {left_out} better labels are left out." if left_out else ""
    return Chart(
        "average_precision",
        "Average precision of each label",
        f"Bar chart of the average precision: {facts}.",
        f"Worst label first; the thin line is the confidence interval.{more}",
        paint,
        (SIZE_INCHES[0] + 0.6, 1.0 + 0.24 * max(len(shown), 3)),
        grid_axis="x",
    )


def error_types_chart(analysis: Analysis) -> Chart:
    """What each kind of error costs, the costliest on top."""
    rows = error_rows(analysis)

    def paint(ax: Axes, ink: Ink) -> None:
        costs = [row.ap_cost for row in rows]
        greatest = max(*costs, 0.01)
        ax.barh(range(len(rows)), costs, height=0.62, color=COLORS[1])
        for place, row in enumerate(rows):
            text = f" {row.ap_cost:.3f} ({row.count:,})"
            ax.text(row.ap_cost, place, text, va="center", fontsize=8, color=ink.text)
        ax.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
        ax.invert_yaxis()
        ax.set(xlabel="average precision it costs (and how often)", xlim=(0, 1.35 * greatest))

    facts = ", ".join(f"{row.name.lower()} {row.ap_cost:.3f}" for row in rows)
    return Chart(
        "error_types",
        "What the errors cost",
        f"Bar chart of the average precision that each kind of error costs: {facts}.",
        "So much higher would the average precision be without this kind of error.",
        paint,
        grid_axis="x",
    )


def _error_painter(pascal: PascalResult, counts: ErrorCounts, what: str) -> Painter:
    threshold = pascal.best.score_threshold

    def paint(ax: Axes, ink: Ink) -> None:
        graph_error_counts(counts, ax)
        if threshold is not None:
            ax.axvline(threshold, color=MARK, linewidth=1, linestyle=(0, (2, 2)))
        ax.set_ylabel(what)
        # With every threshold near 0 comes a flood of wrong detections; the rest of the chart is for
        # thresholds that someone would choose.
        highest = min(2.5 * float(np.median(counts.either)), 1.05 * float(counts.either.max()))
        ax.set_ylim(0, max(1.0, highest))
        own = ax.get_legend()
        if own is not None:
            own.remove()
        ax.figure.legend(
            *ax.get_legend_handles_labels(),
            loc="outside lower center",  # above stands the title of the PNG
            ncols=4,
            frameon=False,
            fontsize=8,
            columnspacing=1.2,
            handlelength=1.9,
        )

    return paint


def _by_average_precision(pascal: PascalResult) -> list[LabelResult]:
    measured = [label for label in pascal.labels if label.average_precision is not None]
    return sorted(measured, key=lambda label: label.average_precision or 0.0)


def _worst(pascal: PascalResult) -> tuple[list[LabelResult], list[LabelResult]]:
    measured = _by_average_precision(pascal)
    return measured[:_MOST_CURVES], measured[_MOST_CURVES:]


def _rest(others: list[LabelResult]) -> str:
    if not others:
        return ""
    number = "The better label is" if len(others) == 1 else f"The {len(others)} better labels are"
    return f" {number} drawn in grey."


def _line_width(index: int, count: int) -> float:
    """Thinner from curve to curve: where they coincide, all of them stay visible."""
    return 3.2 - 2.0 * index / max(count - 1, 1)


def _with_legend(entries: int) -> tuple[float, float]:
    width, height = SIZE_INCHES
    return width, height + LEGEND_ROW_INCHES * ((entries + 1) // 2)


def _envelope(label: LabelResult) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Recall and the best precision at or beyond it, at every object found."""
    finds = np.flatnonzero(np.diff(label.recall, prepend=0.0) > 0)
    if label.best.score_threshold is None:
        return np.zeros(1), np.zeros(1)
    envelope = np.maximum.accumulate(label.precision[finds][::-1])[::-1]
    return np.append(0.0, label.recall[finds]), np.append(envelope[0], envelope)


def _f1_curve(
    curve: ThresholdCurve, steps: int = _F1_STEPS
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """F1 at evenly spread thresholds from 0 to 1, and at the best one."""
    best = curve.best.score_threshold
    thresholds = np.linspace(0, 1, steps + 1)
    thresholds = np.unique(np.append(thresholds, thresholds[-1] if best is None else best))
    # Above the highest score nothing is found.
    f1 = np.append(curve.f1, 0.0)
    return thresholds, f1[np.searchsorted(curve.score_thresholds, thresholds)]
