"""Charts of sides that were measured in rounds: a point a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from appliance.evaluation.report.chart import COLORS, MARK, Chart, Ink

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def rounds_charts(document: Mapping[str, Any]) -> list[Chart]:
    """The speed of each side, if the document has any.

    Args:
        document: As the benchmarks of the model, of training and of batch scoring write them.
    """
    sides = speeds_of(document)
    return [_speed(sides)] if sides else []


def speeds_of(document: Mapping[str, Any]) -> dict[str, list[float]]:
    """Side -> pictures a second, one a round."""
    found: dict[str, list[float]] = {}
    for one in document.get("results", ()):
        if "side" in one:
            found.setdefault(one["side"], []).append(one["images_per_s"])
        elif "rounds_wall_s" in one:
            case = f"{one['arch'].removeprefix('fasterrcnn_')}, {one['batch']} a call"
            for side, prefix in (("torchvision", "reference_"), ("ours", "")):
                rounds_s = one[f"{prefix}rounds_wall_s"]
                found[f"{case}: {side}"] = [one["pictures"] / wall_s for wall_s in rounds_s]
    return found


def _speed(sides: Mapping[str, Sequence[float]]) -> Chart:
    def paint(ax: Axes, ink: Ink) -> None:
        for row, speeds in enumerate(sides.values()):
            ax.barh(row, median(speeds), color=COLORS[0], height=0.6, alpha=0.35)
            ax.plot(speeds, [row] * len(speeds), "o", color=COLORS[0], markersize=4)
            ax.annotate(
                f" {median(speeds):.3g}",
                (max(speeds), row),
                va="center",
                color=ink.text,
                fontsize=8,
                xytext=(4, 0),
                textcoords="offset points",
            )
        ax.axvline(0, color=MARK, linewidth=0.8)
        ax.set_yticks(range(len(sides)), list(sides), fontsize=8)
        ax.invert_yaxis()
        ax.margins(x=0.12)
        ax.set_xlim(left=0)
        ax.set_xlabel("pictures a second")

    return Chart(
        name="speed",
        title="Speed of each side",
        alt="Bars of the median speed of each side, with a point a round.",
        caption="A point is a round, a bar their median.",
        paint=paint,
        size_inches=(6.4, 1.2 + 0.34 * len(sides)),
        grid_axis="x",
    )
