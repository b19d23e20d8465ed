"""The statistics of a dataset as PNG charts.

matplotlib is imported by the functions that draw, and its global state stays as it was.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from appliance import storage
from appliance.annotations.checks.findings import counted
from appliance.annotations.statistics import DatasetStatistics, Numbers
from appliance.images.chart_fonts import any_letters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of Okabe and Ito's palette, for the colour-blind.
_BLUE, _VERMILION = "#0072b2", "#d55e00"
_INK, _PALE_INK, _GRID = "#30363d", "#6e7781", "#d9dee3"
_DPI = 160
_WIDTH_INCHES = 7.0
_ROW_INCHES = 0.27
_MOST_LABELS = 40
_MOST_LABELS_WITH_NUMBERS = 14
_MOST_BARS = 30
_LONGEST_LABEL = 24


def write_charts(
    statistics: DatasetStatistics, name: str, folder: str | os.PathLike[str]
) -> list[str]:
    """Draws every chart that the data has something for.

    Args:
        statistics: Of the data.
        name: Of the data, for the headings.
        folder: Gets the PNG files; is made where missing.

    Returns:
        The paths written.

    Raises:
        StorageError: A file cannot be written.
    """
    charts: dict[str, Callable[[DatasetStatistics], Figure]] = {
        "objects_per_label.png": objects_per_label,
        "objects_per_picture.png": objects_per_picture,
    }
    if statistics.object_count:
        charts |= {"box_sizes.png": box_sizes, "aspect_ratios.png": aspect_ratios}
    if len(statistics.object_counts) > 1:
        charts["labels_together.png"] = labels_together
    written = []
    for file_name, draw in charts.items():
        buffer = io.BytesIO()
        with any_letters():
            figure = draw(statistics)
            figure.text(0.99, 0.005, name, ha="right", va="bottom", fontsize=7, color=_PALE_INK)
            figure.savefig(buffer, format="png", dpi=_DPI)
        path = storage.join(folder, file_name)
        storage.write_bytes(path, buffer.getvalue())
        written.append(path)
    return written


def objects_per_label(statistics: DatasetStatistics) -> Figure:
    """Bars of the objects of each label, the most frequent first."""
    counts = sorted(statistics.object_counts.items(), key=lambda item: -item[1])
    shown = counts[:_MOST_LABELS]
    left_out = f", the {len(shown)} most frequent" if len(shown) < len(counts) else ""
    title = (
        f"{counted(statistics.object_count, 'object')} of {counted(len(counts), 'label')}{left_out}"
    )
    figure, ax = _figure(title, height_inches=1.1 + _ROW_INCHES * len(shown))
    names = [_cut(label) for label, _ in shown]
    values = [count for _, count in shown]
    bars = ax.barh(range(len(shown)), values, height=0.7, color=_BLUE)
    ax.bar_label(bars, [f"{value:,}" for value in values], padding=4, fontsize=8.5, color=_INK)
    ax.set_yticks(range(len(shown)), names)
    ax.invert_yaxis()
    ax.set(xlabel="objects", xlim=(0, 1.12 * max(*values, 1)))
    _whole_numbers(ax, "x")
    ax.grid(axis="y", visible=False)
    return figure


def objects_per_picture(statistics: DatasetStatistics) -> Figure:
    """Bars of the pictures with so many objects; the negatives stand out."""
    counts = np.array(list(statistics.objects_per_image), np.int64)
    images = np.array(list(statistics.objects_per_image.values()), np.int64)
    negatives = statistics.empty_image_count
    without = f"{negatives:,}" if negatives else "none"
    title = f"{counted(statistics.image_count, 'picture')}, {without} of them without any object"
    figure, ax = _figure(title)
    step = max(1, -(-int(counts.max() + 1) // _MOST_BARS))
    edges = np.arange(1, int(counts.max()) + step + 1, step)
    heights, _ = np.histogram(counts, edges, weights=images)
    ax.bar(edges[:-1] + (step - 1) / 2, heights, width=0.8 * step, color=_BLUE)
    ax.bar([0 if step == 1 else -step / 2], [negatives], width=0.8 * step, color=_VERMILION)
    if negatives:
        at = 0 if step == 1 else -step / 2
        ax.annotate(
            "negatives",
            (at, negatives),
            (0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            color=_VERMILION,
        )
    ax.set(xlabel="objects on a picture", ylabel="pictures")
    ax.set_xlim(-0.7 * step if step == 1 else -1.1 * step, None)
    ax.margins(y=0.12)
    _whole_numbers(ax, "x")
    _whole_numbers(ax, "y")
    ax.grid(axis="x", visible=False)
    return figure


def box_sizes(statistics: DatasetStatistics) -> Figure:
    """How wide and how high the boxes are, with both medians."""
    figure, ax = _figure("Widths and heights of the boxes")
    sides = {"width": (statistics.widths_px, _BLUE), "height": (statistics.heights_px, _VERMILION)}
    largest = max(float(values.max()) for values, _ in sides.values())
    edges = np.linspace(0, largest, 41).tolist()
    for side, (values, color) in sides.items():
        median = float(np.median(values))
        label = f"{side}, median {median:.0f} pixels"
        ax.hist(values, edges, histtype="stepfilled", color=color, alpha=0.25)
        ax.hist(values, edges, histtype="step", color=color, linewidth=1.6, label=label)
        ax.axvline(median, color=color, linewidth=1, linestyle=(0, (3, 2)))
    ax.set(xlabel="pixels", ylabel="boxes", xlim=(0, largest))
    _whole_numbers(ax, "y")
    _legend(ax)
    return figure


def aspect_ratios(statistics: DatasetStatistics) -> Figure:
    """How elongated the boxes are, on a scale where 1:2 and 2:1 are equally far from a square."""
    figure, ax = _figure("Aspect ratios of the boxes")
    logs: Numbers = np.log2(statistics.aspect_ratios)
    reach = max(1.25, float(np.abs(logs).max()) * 1.05)
    ax.hist(logs, np.linspace(-reach, reach, 42).tolist(), color=_BLUE)
    powers = np.arange(-int(reach), int(reach) + 1)
    names = [f"{2**power}:1" if power >= 0 else f"1:{2**-power}" for power in powers.tolist()]
    ax.set_xticks(powers, names)
    ax.set(xlabel="width : height", ylabel="boxes", xlim=(-reach, reach))
    _whole_numbers(ax, "y")
    for x, text, align in ((0.01, "◂ upright", "left"), (0.99, "lying ▸", "right")):
        ax.text(
            x, 0.97, text, transform=ax.transAxes, ha=align, va="top", fontsize=8.5, color=_PALE_INK
        )
    return figure


def labels_together(statistics: DatasetStatistics) -> Figure:
    """Of the pictures with the label of a row, the share that also shows the label of a column."""
    shown = sorted(statistics.image_counts, key=lambda label: -statistics.image_counts[label])
    shown = [label for label in statistics.image_counts if label in set(shown[:_MOST_LABELS])]
    both = np.zeros((len(shown), len(shown)))
    place = {label: index for index, label in enumerate(shown)}
    for (first, second), count in statistics.image_counts_of_pairs.items():
        if first in place and second in place:
            both[place[first], place[second]] = both[place[second], place[first]] = count
    images = np.array([statistics.image_counts[label] for label in shown], np.float64)
    share = both / np.maximum(images, 1)[:, None]
    np.fill_diagonal(share, np.nan)
    side = max(4.6, 2.2 + 0.36 * len(shown))
    figure, ax = _figure(
        "Labels that are seen together", width_inches=side + 1.2, height_inches=side
    )
    grid = ax.imshow(np.ma.masked_invalid(share), cmap="Blues", vmin=0, vmax=1)
    ax.set_facecolor("#f2f4f6")
    names = [_cut(label) for label in shown]
    ax.set_xticks(range(len(shown)), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(shown)), names)
    ax.grid(visible=False)
    if len(shown) <= _MOST_LABELS_WITH_NUMBERS:
        for row, column in np.argwhere(~np.isnan(share)).tolist():
            value = share[row, column]
            ax.text(
                column,
                row,
                f"{100 * value:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if value > 0.55 else _INK,
            )
    bar = figure.colorbar(grid, ax=ax, shrink=0.8, format=lambda value, _: f"{value:.0%}")
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=_INK, labelsize=8, length=0)
    bar.set_label("of the row's pictures show the column's label too", color=_INK, fontsize=8.5)
    return figure


def _figure(
    title: str, *, width_inches: float = _WIDTH_INCHES, height_inches: float = 4.0
) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, max(height_inches, 2.2)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.14)  # type: ignore[union-attr, call-arg]
    ax = figure.add_subplot()
    ax.set_title(title, loc="left", fontsize=11.5, color=_INK, pad=10)
    ax.grid(color=_GRID, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(colors=_INK, labelsize=9, length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    for text in (ax.xaxis.label, ax.yaxis.label):
        text.set_color(_INK)
        text.set_fontsize(9)
    return figure, ax


def _whole_numbers(ax: Axes, axis: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    chosen = ax.xaxis if axis == "x" else ax.yaxis
    chosen.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    chosen.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _legend(ax: Axes) -> None:
    for text in ax.legend(frameon=False, fontsize=8.5).get_texts():
        text.set_color(_INK)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 1]}…"
