"""The charts of the report: SVG as data URIs, one for a light page and one for a dark one.

matplotlib is imported by the functions that draw, and its global state stays as it was.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from appliance.evaluation.average_precision import LabelResult, PascalResult
from appliance.evaluation.error_counts import count_errors, graph_error_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette; grey for black and a dark yellow, which show on both pages. Curves also differ
# in their dashes, for grey print.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c", "#a89a00")
_MARK = "#8c8c8c"
_DASHES = ("-", "--", "-.", ":")
_MOST_CURVES = 8
_MOST_POINTS = 400
_SIZE_INCHES = (4.2, 3.05)
_LEGEND_ROW_INCHES = 0.17
_LONGEST_NAME = 20
_INK_OF_PAGE = {"light": ("#30363d", "#d9dee3"), "dark": ("#c9d1d9", "#3a424b")}


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        title: Its heading.
        alt: What it shows, for people who do not see it.
        caption: How to read it.
        light_uri: For a light page, a data URI.
        dark_uri: For a dark page.
    """

    title: str
    alt: str
    caption: str
    light_uri: str
    dark_uri: str


class _Painter(Protocol):
    def __call__(self, ax: Axes) -> None: ...


def precision_recall_chart(result: PascalResult) -> Chart:
    """The precision envelope of each class; of more than eight, the eight worst."""
    measured = [label for label in result.labels if label.average_precision is not None]
    shown = sorted(measured, key=lambda label: label.average_precision or 0.0)[:_MOST_CURVES]

    def paint(ax: Axes) -> None:
        for index, label in enumerate(shown):
            recall, envelope = _envelope(label)
            ax.plot(
                recall,
                envelope,
                _DASHES[index % len(_DASHES)],
                color=_COLORS[index % len(_COLORS)],
                # Thinner from curve to curve: where they coincide, all of them stay visible.
                linewidth=3.2 - 2.0 * index / max(len(shown) - 1, 1),
                drawstyle="steps-pre",
                marker="o",
                markersize=4.5,
                markevery=[len(recall) - 1],
                label=f"{_cut(label.label)} {label.average_precision:.3f}",
                clip_on=False,
            )
        ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        ax.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)

    facts = ", ".join(f"{label.label} {label.average_precision:.3f}" for label in shown)
    left_out = len(measured) - len(shown)
    more = f" The {left_out} better labels are left out." if left_out else ""
    return _chart(
        "Precision and recall",
        f"Line chart of precision against recall. Average precision: {facts}.",
        "Each curve falls where wrong detections come in and ends where no further object is found. The "
        f"area under it is the average precision beside the label. Worst label first.{more}",
        paint,
        legend_rows=(len(shown) + 1) // 2,
    )


def error_counts_chart(result: PascalResult) -> Chart:
    """Wrong, missed and either against the score threshold, with the best threshold marked."""
    counts = count_errors(result.matches)
    threshold = result.best.score_threshold

    def paint(ax: Axes) -> None:
        graph_error_counts(counts, ax)
        if threshold is not None:
            ax.axvline(threshold, color=_MARK, linewidth=1, linestyle=(0, (2, 2)))
        ax.set_ylabel("errors")
        # With every threshold near 0 comes a flood of wrong detections; the rest of the chart is for
        # thresholds that someone would choose.
        ax.set_ylim(0, max(1.0, 2.5 * float(np.median(counts.either))))
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8)

    fewest = int(counts.either.argmin())
    return _chart(
        "Errors and the score threshold",
        f"Line chart of wrong detections and missed objects against the score threshold. The fewest "
        f"errors are {counts.either[fewest]} at {counts.score_thresholds[fewest]:.2f}.",
        "A low threshold lets wrong detections in, a high one misses objects. The dotted upright line "
        "marks the threshold with the best balance (F1).",
        paint,
    )


def training_charts(training_log: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Loss and learning rate over the steps, as far as the log has them."""
    charts = []
    steps, losses = _series(training_log, "loss")
    if len(steps):
        smooth = _smoothed(losses)

        def paint_loss(ax: Axes) -> None:
            ax.plot(*_thinned(steps, losses), color=_COLORS[0], linewidth=0.8, alpha=0.35)
            ax.plot(*_thinned(steps, smooth), color=_COLORS[0], linewidth=1.8)
            ax.set(xlabel="step", ylabel="loss", ylim=(0, 1.05 * float(np.quantile(losses, 0.99))))

        charts.append(
            _chart(
                "Training loss",
                f"Line chart of the training loss from {smooth[0]:.3g} to {smooth[-1]:.3g} over "
                f"{steps[-1]:.0f} steps.",
                "The sum of all losses: faint at every step, bold as a running mean.",
                paint_loss,
            )
        )
    rate_steps, rates = _series(training_log, "learning_rate")
    if len(rate_steps):

        def paint_rate(ax: Axes) -> None:
            ax.plot(*_thinned(rate_steps, rates), color=_COLORS[1], linewidth=1.8)
            ax.set(xlabel="step", ylabel="learning rate", ylim=(0, 1.05 * float(rates.max())))

        charts.append(
            _chart(
                "Learning rate",
                f"Line chart of the learning rate, at most {rates.max():.3g}.",
                "The size of the steps that training took.",
                paint_rate,
            )
        )
    return charts


def _chart(title: str, alt: str, caption: str, paint: _Painter, *, legend_rows: int = 0) -> Chart:
    width, height = _SIZE_INCHES
    size_inches = width, height + _LEGEND_ROW_INCHES * legend_rows
    light_uri, dark_uri = (
        _svg_uri(paint, size_inches, *_INK_OF_PAGE[page]) for page in ("light", "dark")
    )
    return Chart(title, alt, caption, light_uri, dark_uri)


def _svg_uri(paint: _Painter, size_inches: tuple[float, float], ink: str, grid: str) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_inches, layout="constrained")
    ax = figure.add_subplot()
    paint(ax)
    ax.grid(color=grid, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(colors=ink, labelsize=9, length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    for text in (ax.xaxis.label, ax.yaxis.label):
        text.set_color(ink)
        text.set_fontsize(9)
    for legend in (*figure.legends, ax.get_legend()):
        for text in legend.get_texts() if legend is not None else ():
            text.set_color(ink)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    # The reader's own font: names of fonts that only this machine has would be of no use.
    svg = re.sub(
        r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'[^;\"]*",
        r"\1system-ui, sans-serif",
        buffer.getvalue(),
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _envelope(label: LabelResult) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Recall and the best precision at or beyond it, up to the last object found."""
    if label.best.score_threshold is None:
        return np.zeros(1), np.zeros(1)
    end = int(np.argmax(label.recall)) + 1
    envelope = np.maximum.accumulate(label.precision[:end][::-1])[::-1]
    return _thinned(
        np.concatenate([[0.0], label.recall[:end]]), np.concatenate([envelope[:1], envelope])
    )


def _cut(name: str) -> str:
    """Long names lose their middle: what tells them apart is more often at an end."""
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[-half + 1 :]}"


def _thinned(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """At most about `_MOST_POINTS` of the points, the first and the last among them."""
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), _MOST_POINTS)).round().astype(np.int64))
    return x[kept], y[kept]


def _series(
    training_log: Sequence[Mapping[str, Any]], key: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    points = [(row["step"], row[key]) for row in training_log if row.get(key) is not None]
    steps, values = np.array(points, np.float64).reshape(-1, 2).T
    return steps, values


def _smoothed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over a window of a twentieth of the run around each value, narrower at both ends."""
    half = max(1, len(values) // 40)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start, end = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    mean: npt.NDArray[np.float64] = (sums[end] - sums[start]) / (end - start)
    return mean
