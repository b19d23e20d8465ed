"""What is said of many requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

OK = 200
WORK = ("decode", "model")
"""Stages that are the model's work and no overhead."""


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Median, 90, 99 % and the largest; empty when there are no values."""
    if not values:
        return {}
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        **{f"p{p}": round(ordered[round(last * p / 100)], 3) for p in (50, 90, 99)},
        "max": round(ordered[-1], 3),
    }


def summary(told: dict[str, Any]) -> dict[str, Any]:
    """Rates, and times in ms of what was answered and what was refused.

    Args:
        told: What `benchmarks.serving.load` printed.
    """
    requests = told["requests"]
    good = [request for request in requests if request["status"] == OK]
    refused = [request for request in requests if request["status"] in (429, 503)]
    names = good[0]["stages_ms"] if good else ()
    statuses = sorted({request["status"] for request in requests})
    return {
        "requests": len(requests),
        "per_status": {
            status: sum(request["status"] == status for request in requests) for status in statuses
        },
        "good_per_s": round(len(good) / told["seconds"], 2),
        "total_ms": percentiles([request["total_ms"] for request in good]),
        "refused_ms": percentiles([request["total_ms"] for request in refused]),
        "stages_ms": {
            name: percentiles([request["stages_ms"][name] for request in good]) for name in names
        },
        "overhead_ms": percentiles([overhead_ms(request) for request in good]),
        "cores_of_the_load_generator": round(told["cores_of_the_load_generator"], 3),
    }


def overhead_ms(request: dict[str, Any]) -> float:
    """All that is neither decoding nor the model, the client's own time included."""
    stages = request["stages_ms"]
    return float(request["total_ms"] - sum(stages.get(stage, 0.0) for stage in WORK))
