"""Charts of how work grows with workers and replicas, and of where the time of a start goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from appliance.evaluation.report.chart import COLORS, DASHES, MARK, Chart, Ink

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE_INCHES = (6.0, 3.4)
_LEAST_SHOWN_MS = 0.02


def scaling_charts(document: Mapping[str, Any]) -> list[Chart]:
    """Those that fit a document of `benchmarks.scaling` or `benchmarks.cold_start`; none of another."""
    charts = []
    if document.get("weak"):
        charts.append(_weak(document["weak"]))
    control_plane = document.get("control_plane")
    sleeping = _sleeping(control_plane) if control_plane else []
    if control_plane and sleeping:
        charts += [_answered(sleeping), _costs(sleeping), _room(sleeping)]
    if "starts" in document and "median_s" in document:
        charts.append(_starts(document["median_s"]))
    return charts


def _sleeping(control_plane: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [case for case in control_plane["cases"] if case["sleep_ms"]]


def _weak(parts: Mapping[str, Mapping[str, Any]]) -> Chart:
    def paint(ax: Axes, ink: Ink) -> None:
        for row, part in enumerate(parts.values()):
            speed_up = part["speed_up"]
            ax.barh(row, speed_up["median"], color=COLORS[0], height=0.6, alpha=0.35)
            ax.plot(speed_up["rounds"], [row] * len(speed_up["rounds"]), "o", color=COLORS[0], ms=4)
            ax.text(0.05, row, f"{speed_up['median']:.2f}", va="center", color=ink.text, fontsize=8)
        ax.axvline(2, color=MARK, linewidth=0.8, linestyle=":")
        ax.set_yticks(range(len(parts)), list(parts), fontsize=8)
        ax.invert_yaxis()
        ax.set_xlim(left=0)
        ax.set_xlabel("images a second of two, by those of one")

    return Chart(
        name="weak",
        title="Twice the work on two workers of one thread",
        alt="Bars of the speed of two workers by that of one, for each kind of work.",
        caption="A point is a round, a bar their median; `model` is the predictor alone, without Ray: what the machine gives.",
        paint=paint,
        size_inches=(6.0, 1.4 + 0.34 * len(parts)),
        grid_axis="x",
    )


def _answered(cases: Sequence[Mapping[str, Any]]) -> Chart:
    def paint(ax: Axes, ink: Ink) -> None:
        replicas = [case["replicas"] for case in cases]
        ideal = [case["ideal_per_s"] for case in cases]
        good = [median(load["good_per_s"] for load in case["loads"]) for case in cases]
        ax.plot(replicas, ideal, color=MARK, linewidth=0.8, linestyle=":", label="sleep alone")
        ax.plot(replicas, good, marker="o", markersize=3, color=COLORS[0], label="answered")
        _by_replicas(ax, replicas)
        ax.set_ylabel("answers a second")
        ax.set_ylim(0, 1.05 * max(*ideal, *good))
        ax.legend(frameon=False, fontsize=8)

    return Chart(
        name="control-plane",
        title="A model that sleeps, on more and more replicas",
        alt="A curve of answers a second over the number of replicas, and the line that nothing but the sleep would allow.",
        caption="Two clients for each replica; service and clients share the cores of one machine.",
        paint=paint,
        size_inches=_SIZE_INCHES,
    )


def _costs(cases: Sequence[Mapping[str, Any]]) -> Chart:
    names = {name for case in cases for name in case["loads"][-1]["cpu_ms_per_request"]}
    costs = {
        name: [
            median(load["cpu_ms_per_request"].get(name, 0.0) for load in case["loads"])
            for case in cases
        ]
        for name in sorted(names)
    }

    def paint(ax: Axes, ink: Ink) -> None:
        replicas = [case["replicas"] for case in cases]
        shown = {name: ms for name, ms in costs.items() if max(ms) >= _LEAST_SHOWN_MS}
        for number, (name, ms) in enumerate(shown.items()):
            ax.plot(
                replicas,
                ms,
                marker="o",
                markersize=3,
                label=name,
                color=COLORS[number % len(COLORS)],
                # Another dash for each color, and when colors come again, others than before.
                linestyle=DASHES[(number + number // len(COLORS)) % len(DASHES)],
            )
        _by_replicas(ax, replicas)
        ax.set_ylabel("CPU ms for a request")
        ax.set_ylim(bottom=0)
        ax.legend(frameon=False, fontsize=7)

    return Chart(
        name="cpu",
        title="What a request costs besides the model",
        alt="A curve of CPU milliseconds for a request for each process of the service, over the number of replicas.",
        caption="All processes of a name together: ServeReplica decodes and answers, haproxy passes on.",
        paint=paint,
        size_inches=_SIZE_INCHES,
    )


def _room(cases: Sequence[Mapping[str, Any]]) -> Chart:
    def paint(ax: Axes, ink: Ink) -> None:
        replicas = [case["replicas"] for case in cases]
        memory = [sum(case["memory_mib"].values()) / 1024 for case in cases]
        idle = [sum(case["idle_cores"].values()) for case in cases]
        ax.plot(replicas, memory, marker="o", markersize=3, color=COLORS[0], label="memory, GiB")
        ax.plot(
            replicas, idle, marker="o", markersize=3, color=COLORS[1], linestyle="--",
            label="cores while nobody asks",
        )  # fmt: skip
        _by_replicas(ax, replicas)
        ax.set_ylim(bottom=0)
        ax.legend(frameon=False, fontsize=8)

    return Chart(
        name="rest",
        title="What a service takes at rest",
        alt="Curves of memory and of cores taken while nobody asks, over the number of replicas.",
        caption="All processes of the service and of its cluster.",
        paint=paint,
        size_inches=_SIZE_INCHES,
    )


def _by_replicas(ax: Axes, replicas: Sequence[int]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(replicas, [str(count) for count in replicas])
    ax.minorticks_off()
    ax.set_xlabel("replicas")


def _starts(tables: Mapping[str, Mapping[str, float]]) -> Chart:
    rows = [
        (start, phase, seconds)
        for start, table in tables.items()
        for phase, seconds in table.items()
    ]

    def paint(ax: Axes, ink: Ink) -> None:
        names = list(tables)
        reached = dict.fromkeys(tables, 0.0)
        for row, (start, _, seconds) in enumerate(rows):
            color = COLORS[names.index(start)]
            ax.barh(row, seconds, left=reached[start], color=color, height=0.7)
            reached[start] += seconds
            ax.text(reached[start], row, f" {seconds:.2f}", va="center", color=ink.text, fontsize=7)
        ax.set_yticks(
            range(len(rows)), [f"{start}: {phase}" for start, phase, _ in rows], fontsize=7
        )
        ax.set_ylim(len(rows), -1)
        ax.set_xlim(0, 1.12 * max(reached.values()))
        ax.set_xlabel("seconds since the beginning")

    return Chart(
        name="phases",
        title="Where the time of a start goes",
        alt="Bars of the phases of each start, one after the other, from its beginning to the first answer.",
        caption="Medians of the rounds, so the phases of a start add up only about to its median.",
        paint=paint,
        size_inches=(8.0, 1.4 + 0.22 * len(rows)),
        grid_axis="x",
    )
