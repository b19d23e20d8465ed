"""Charts of an open load: what a service answers, and how long that takes, at each rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from appliance.evaluation.report.chart import COLORS, DASHES, MARK, Chart, Ink

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE_INCHES = (6.0, 3.4)
_PERCENTILES = ("p50", "p90", "p95", "p99", "p99.9")


def load_charts(document: Mapping[str, Any]) -> list[Chart]:
    """Those that its steps allow; void steps are left out.

    Args:
        document: As `python -m benchmarks.online` writes it.
    """
    steps = sorted(
        (step for step in document["steps"] if not step["void"]), key=lambda one: one["rate_per_s"]
    )
    if not steps:
        return []
    # Only who measures loads has what reads their histograms.
    charts = [] if find_spec("hdrh") is None else [_spectrum(document, steps)]
    if len({step["rate_per_s"] for step in steps}) > 1:
        charts = [_saturation(document, steps), _latency(document, steps), *charts]
    return charts


def _saturation(document: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> Chart:
    def paint(ax: Axes, ink: Ink) -> None:
        rates = [step["rate_per_s"] for step in steps]
        ax.plot(rates, rates, color=MARK, linewidth=0.8, linestyle=":", label="asked for")
        for number, (name, key) in enumerate(
            (("answered rightly", "answered_per_s"), ("... in time", "goodput_per_s"))
        ):
            values = [step[key] for step in steps]
            style = {"color": COLORS[number], "linestyle": DASHES[number]}
            ax.plot(rates, values, marker="o", markersize=3, label=name, **style)
        highest = document["figures"].get("highest_rate_per_s")
        if highest is not None:
            ax.axvline(highest, color=COLORS[2], linewidth=1, label="highest rate held")
        ax.set_xlabel("requests a second")
        ax.set_ylabel("answers a second")
        ax.set_ylim(bottom=0)
        ax.legend(frameon=False, fontsize=8)

    return Chart(
        name="saturation",
        title="What is answered",
        alt="Curves of right answers a second, and of those in time, over the rate of requests.",
        caption=f"In time is within {document['objective_ms']:g} ms from when a request was due.",
        paint=paint,
        size_inches=_SIZE_INCHES,
    )


def _latency(document: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> Chart:
    def paint(ax: Axes, ink: Ink) -> None:
        for number, name in enumerate(_PERCENTILES):
            told = [
                (step["rate_per_s"], step["latency_ms"][name])
                for step in steps
                if step["latency_ms"][name] is not None
            ]
            if told:
                style = {
                    "color": COLORS[number % len(COLORS)],
                    "linestyle": DASHES[number % len(DASHES)],
                }
                ax.plot(*zip(*told, strict=True), marker="o", markersize=3, label=name, **style)
        ax.axhline(document["objective_ms"], color=MARK, linewidth=0.8, label="objective")
        ax.set_yscale("log")
        ax.set_xlabel("requests a second")
        ax.set_ylabel("ms")
        ax.legend(frameon=False, fontsize=8)

    return Chart(
        name="latency",
        title="How long right answers take",
        alt="Curves of percentiles of the latency over the rate of requests.",
        caption="A percentile stands where enough samples lie beyond it: p99 from 10,000 on.",
        paint=paint,
        size_inches=_SIZE_INCHES,
    )


def _spectrum(document: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> Chart:
    """All latencies of the longest step, by how rare they are."""
    from benchmarks.online.latencies import Latencies

    longest = max(steps, key=lambda step: step["right"])
    latencies = Latencies()
    for window in longest["windows"]:
        latencies.add(Latencies.decoded(window["latencies"]))

    def paint(ax: Axes, ink: Ink) -> None:
        # One in so many; beyond a hundredth of all samples there is no telling.
        rare = np.logspace(0, np.log10(max(10.0, len(latencies))), 100)
        ax.plot(rare, [latencies.at(100 - 100 / one) for one in rare], color=COLORS[0])
        ax.axvline(max(1.0, len(latencies) / 100), color=MARK, linewidth=0.8, linestyle=":")
        ax.axhline(document["objective_ms"], color=MARK, linewidth=0.8, label="objective")
        ax.legend(frameon=False, fontsize=8)
        ax.set_xscale("log")
        ax.set_xlabel("one request in so many takes longer")
        ax.set_ylabel("ms")
        ax.set_ylim(bottom=0)

    return Chart(
        name="spectrum",
        title=f"Latencies at {longest['rate_per_s']:.3g} requests a second",
        alt="A curve of the latency over how rare it is.",
        caption=f"Of {len(latencies):,} right answers. Right of the dotted line fewer than a hundred lie "
        "beyond a point: its place is chance.",
        paint=paint,
        size_inches=_SIZE_INCHES,
    )
