"""Whether a service that works for long grows: memory, descriptors and threads after each of many rounds of load.

    python -m benchmarks.soak --json
    python -m benchmarks.soak --requests 2000 --round-seconds 10

Starts `appliance serve`, sends pictures from a few clients in rounds until so many requests are answered, and looks
at all processes of the service after each round, when they wait. The slope is that of a straight line through the
points after the first quarter, in which caches and pools fill. Prints a table, then with --json one JSON document
last; the same goes to `benchmarks/results/FOLDER/NAME.json`.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil

from benchmarks.commands import add_result_arguments, count, positive, run_command
from benchmarks.measurement import write_result
from benchmarks.serving.figures import OK
from benchmarks.serving.preparation import prepared_for
from benchmarks.serving.service import memory_mib, running_service, send_load

_PER = 1000
_MOST_MIB = 0.5
"""Growth for every thousand requests that is called a leak, if it is beyond noise."""
_FIRST_SHARE = 0.25
_FEWEST_POINTS = 4


def main() -> None:
    """Runs the soak."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description="Watches a service that works for long."
    )
    parser.add_argument("--requests", type=count, default=20_000, help="at least so many")
    parser.add_argument("--clients", type=count, default=4, help="each with one connection")
    parser.add_argument("--round-seconds", type=positive, default=30.0, help="between two looks")
    parser.add_argument("--backbone", default="mobilenet_v2", help="of the compact network")
    parser.add_argument("--serve", default="", help="further options of `appliance serve`")
    add_result_arguments(parser, name="soak")
    run_command(parser, _run)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    points: list[dict[str, Any]] = []
    requests = 0
    statuses: dict[str, int] = {}
    with (
        prepared_for(options) as prepared,
        running_service(prepared.model, *options.serve.split()) as url,
    ):
        while requests < options.requests or len(points) < _FEWEST_POINTS:
            load = {"clients": options.clients, "seconds": options.round_seconds}
            told = send_load(url, prepared.pictures, **load)
            for request in told["requests"]:
                status = str(request["status"])
                statuses[status] = statuses.get(status, 0) + 1
            requests += len(told["requests"])
            points.append({"requests": requests, **state_of_children()})
            print(_line(points[-1]), flush=True)
    result = {
        "clients": options.clients,
        "requests": requests,
        "per_status": statuses,
        "failures": requests - statuses.get(str(OK), 0),
        "figures": growth(points),
        "points": points,
    }
    for name, value in result["figures"].items():
        print(f"{name:32} {value}")
    write_result(options.name, "benchmarks.soak", result, options.folder)
    return result


def state_of_children() -> dict[str, Any]:
    """Memory in MiB by name, descriptors and threads of all processes that this one has started."""
    descriptors = threads = 0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            descriptors += child.num_fds()
            threads += child.num_threads()
    memory = memory_mib()
    return {
        "memory_mib": sum(memory.values()),
        "memory_mib_by_name": memory,
        "descriptors": descriptors,
        "threads": threads,
    }


def growth(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Slopes after the first quarter, for each thousand requests, with their 95 % interval.

    Args:
        points: At least four, with `requests`, `memory_mib`, `descriptors` and `threads`.
    """
    later = points[int(len(points) * _FIRST_SHARE) :]
    slopes = {
        f"{name}_per_1000_requests": _slope(
            [p["requests"] for p in later], [p[name] for p in later]
        )
        for name in ("memory_mib", "descriptors", "threads")
    }
    low, value, _ = slopes["memory_mib_per_1000_requests"]
    return {**slopes, "memory_leaks": low > 0 and value > _MOST_MIB}


def _slope(requests: Sequence[int], values: Sequence[float]) -> tuple[float, float, float]:
    """Lower end, slope and upper end for each thousand requests."""
    x = np.asarray(requests, np.float64) / _PER
    y = np.array(values, np.float64)
    centred = x - x.mean()
    # What stays as it was has a slope of nothing at all, without rounding.
    y -= y.mean()
    slope = float(centred @ y / (centred @ centred))
    rest = y - slope * centred
    error = float(np.sqrt(rest @ rest / max(1, len(x) - 2) / (centred @ centred)))
    return slope - 1.96 * error, slope, slope + 1.96 * error


def _line(point: dict[str, Any]) -> str:
    return (
        f"{point['requests']:7} requests  {point['memory_mib']:6} MiB  "
        f"{point['descriptors']:5} descriptors  {point['threads']:5} threads"
    )


if __name__ == "__main__":
    main()
