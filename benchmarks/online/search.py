"""The highest rate that a service takes within an objective, found by trying; and what it does around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.online.steps import Step

MISSED_ALLOWED = 0.01
"""A p99 of at most the objective: one in a hundred may miss it."""
CURVE = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5)
"""Rates of the saturation curve, as shares of the highest that the service takes."""
OVERLOAD = 2.0
_MAX_DOUBLINGS = 12

TryRate = Callable[[str, float], Step]
"""Runs a step of that name at that rate."""


@dataclass(frozen=True)
class Search:
    """What was tried and found.

    Attributes:
        highest_per_s: The highest rate that was held in a step and in a longer one; None where the lowest rate
            that was tried was not.
        tried: All rates with whether they were held, in the order tried.
        confirmed: The longer step at the highest rate.
        void: Why the generator may have been the limit, not the service; empty where it was not.
    """

    highest_per_s: float | None
    tried: list[tuple[float, bool]] = field(default_factory=list)
    confirmed: Step | None = None
    void: list[str] = field(default_factory=list)


def holds(step: Step) -> bool:
    """Whether at most one in a hundred requests has missed the objective; a void step tells nothing good."""
    return step.missed_share <= MISSED_ALLOWED and not step.void


def highest_rate(
    try_rate: TryRate, confirm: TryRate, *, start_per_s: float, resolution: float
) -> Search:
    """Doubles or halves a rate until it is too high or is held, then divides what lies between.

    Args:
        try_rate: Runs a step.
        confirm: Runs a longer one: near its limit a short step may be lucky.
        start_per_s: The first rate.
        resolution: Ends when what was held and what was not are so near, as a share: 0.05 is 5 %.
    """
    tried: list[tuple[float, bool]] = []
    void: list[str] = []

    def held(rate_per_s: float) -> bool:
        step = try_rate("search", rate_per_s)
        void.extend(step.void)
        tried.append((rate_per_s, holds(step)))
        return tried[-1][1]

    rate = start_per_s
    factor = 2.0 if held(rate) else 0.5
    for _ in range(_MAX_DOUBLINGS):
        rate *= factor
        if held(rate) != (factor > 1):
            break
    good = [rate for rate, was_held in tried if was_held]
    bad = [rate for rate, was_held in tried if not was_held]
    if not good:
        return Search(None, tried, None, void)
    low, high = max(good), min(bad, default=max(good))
    while high > low * (1 + resolution):
        middle = (low * high) ** 0.5
        if held(middle):
            low = middle
        else:
            high = middle
    while low >= min(good) * 0.5:
        confirmed = confirm("confirmed", low)
        void.extend(confirmed.void)
        if holds(confirmed):
            return Search(low, tried, confirmed, void)
        low /= 1 + resolution
    return Search(None, tried, None, void)
