"""The proposals curve as charts: what accuracy gains and what time costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from appliance.evaluation.report.chart import COLORS, DASHES, Chart, Ink
from benchmarks.model_speed.proposals import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE_INCHES = (6.0, 3.6)


def accuracy_chart(architecture: str, points: Sequence[Point]) -> Chart:
    """AP50 of the crowded pictures against proposals."""
    return Chart(
        name="ap",
        title=f"{architecture}: AP50 where dozens of objects are",
        alt="Curves of AP50 over the number of proposals after NMS.",
        caption="Each curve keeps another number of proposals of each level before NMS.",
        paint=_painter(points, lambda point: point.ap50_crowded, "AP50"),
        size_inches=SIZE_INCHES,
    )


def time_chart(architecture: str, points: Sequence[Point]) -> Chart:
    """Milliseconds a picture against proposals."""
    return Chart(
        name="time",
        title=f"{architecture}: time of a picture",
        alt="Curves of the time of a picture over the number of proposals after NMS.",
        caption="Each curve keeps another number of proposals of each level before NMS.",
        paint=_painter(points, lambda point: point.ms_per_image, "ms a picture"),
        size_inches=SIZE_INCHES,
    )


def _painter(
    points: Sequence[Point], value_of: Callable[[Point], float], what: str
) -> Callable[[Axes, Ink], None]:
    def paint(ax: Axes, ink: Ink) -> None:
        for number, pre_nms in enumerate(sorted({p.pre_nms for p in points}, reverse=True)):
            here = sorted((p for p in points if p.pre_nms == pre_nms), key=lambda p: p.post_nms)
            ax.plot(
                [point.post_nms for point in here],
                [value_of(point) for point in here],
                color=COLORS[number % len(COLORS)],
                linestyle=DASHES[number % len(DASHES)],
                marker="o",
                markersize=3,
                label=f"{pre_nms} before NMS",
            )
        ticks = sorted({point.post_nms for point in points})
        ax.set_xscale("log")
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
        ax.set_xlabel("proposals after NMS")
        ax.set_ylabel(what)
        ax.legend(frameon=False, fontsize=8)

    return paint
