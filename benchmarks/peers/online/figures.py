"""What the rounds of the servers come to: a figure is the median of the rounds, percentiles are of all requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

SAMPLES_OF_A_P99 = 10_000
"""From so many on a p99 is one; of fewer it is called the p99 of so many."""


def figures_of(
    rounds: Sequence[Mapping[str, Any]], *, seconds: float, objective_ms: float
) -> dict[str, Any]:
    """The figures of one server.

    Args:
        rounds: As `rounds.run_round` tells them.
        seconds: That each load lasted.
        objective_ms: Within which an answer counts as goodput.
    """
    clients = sorted({step["clients"] for one in rounds for step in _closed(one)})
    return {
        "saturated_images_per_s": median(saturated_per_s(one) for one in rounds),
        "by_clients_per_s": {
            number: median(_speed(_of_clients(one, number)) for one in rounds) for number in clients
        },
        "one_client_ms": _times_ms([_of_clients(one, clients[0]) for one in rounds]),
        "equal_load_ms": _times_ms([_of_rate(one, "equal_per_s") for one in rounds]),
        "goodput_at_equal_load_per_s": median(
            _goodput(_of_rate(one, "equal_per_s"), seconds, objective_ms) for one in rounds
        ),
        "goodput_at_overload_per_s": median(
            _goodput(_of_rate(one, "overload_per_s"), seconds, objective_ms) for one in rounds
        ),
        "start_up_s": median(one["start_up_s"] for one in rounds),
        "idle_mib": median(one["idle_mib"] for one in rounds),
        "peak_mib": median(one["peak_mib"] for one in rounds),
        "not_right": sum(
            step["requests"] - len(step["right_ms"])
            for one in rounds
            for step in one["steps"]
            if step.get("step") != "overload_per_s"
        ),
    }


def saturated_per_s(one: Mapping[str, Any]) -> float:
    """Right answers a second of one round, with the number of clients that gets the most of them."""
    return max(_speed(step) for step in _closed(one))


def _closed(one: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [step for step in one["steps"] if "clients" in step]


def _of_clients(one: Mapping[str, Any], clients: int) -> dict[str, Any]:
    return next(step for step in _closed(one) if step["clients"] == clients)


def _of_rate(one: Mapping[str, Any], name: str) -> dict[str, Any]:
    return next(step for step in one["steps"] if step.get("step") == name)


def _speed(step: Mapping[str, Any]) -> float:
    return len(step["right_ms"]) / float(step["seconds"])


def _goodput(step: Mapping[str, Any], seconds: float, objective_ms: float) -> float:
    """Right answers within the objective, by the time that requests came."""
    return sum(time_ms <= objective_ms for time_ms in step["right_ms"]) / seconds


def _times_ms(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    times_ms = [time_ms for step in steps for time_ms in step["right_ms"]]
    if not times_ms:
        return {"samples": 0, "p50": None, "p99": None, "p99_is": "none"}
    enough = len(times_ms) >= SAMPLES_OF_A_P99
    return {
        "samples": len(times_ms),
        "p50": round(float(np.percentile(times_ms, 50)), 2),
        "p99": round(float(np.percentile(times_ms, 99)), 2),
        "p99_is": "p99" if enough else f"p99 of {len(times_ms)}",
    }
