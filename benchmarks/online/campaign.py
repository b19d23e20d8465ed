"""The steps of one run in their order: one rate, or the search for the highest, the curve and the overload."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.online.search import OVERLOAD, Search, highest_rate
from benchmarks.online.steps import Step
from benchmarks.online.tables import step_line

if TYPE_CHECKING:
    from benchmarks.online.open_loop import OpenLoop

_ENOUGH, _QUICK_ENOUGH = 100, 20
"""Requests that a step has at least, as far as it may be longer than others for that."""
_LONGEST = 4.0
_CONFIRM = 2.0
"""How much longer the step is that confirms what the search has found."""


class Campaign:
    """Runs steps, shows each when it is done, and keeps what it tells.

    Args:
        loop: Sends the requests.
        options: `seconds`, `objective_ms`, `deadline_ms`, `max_lag_ms`, `resolution`, `seed` and `quick`, as on
            the command line.
        after: Called after every step.

    Attributes:
        told: What is said of each step, with its name.
        void: Why the figures say more of the generator than of the service; empty where they do not.
    """

    def __init__(
        self, loop: OpenLoop, options: argparse.Namespace, after: Callable[[Campaign], None]
    ) -> None:
        self.told: list[dict[str, Any]] = []
        self.void: list[str] = []
        self._loop = loop
        self._options = options
        self._after = after

    def step(
        self, name: str, rate_per_s: float, longer: float = 1.0, deadline_ms: float | None = None
    ) -> Step:
        """One step.

        Args:
            name: In table and file.
            rate_per_s: Requests a second.
            longer: How many times as long as others.
            deadline_ms: Told to the service; None tells that of the options.
        """
        # One in a hundred is not told by a dozen; but a rate of one a minute is not worth waiting for.
        enough_s = (_QUICK_ENOUGH if self._options.quick else _ENOUGH) / rate_per_s
        seconds = min(max(self._options.seconds, enough_s), _LONGEST * self._options.seconds)
        step = self._loop.run(
            rate_per_s,
            longer * seconds,
            objective_ms=self._options.objective_ms,
            # Another schedule for each step: one that is lucky at one rate is at the next.
            seed=self._options.seed + len(self.told),
            deadline_ms=deadline_ms or self._options.deadline_ms,
            max_lag_ms=self._options.max_lag_ms,
        )
        self.told.append({"name": name, **step.to_json()})
        print(step_line(name, self.told[-1]), flush=True)
        self._after(self)
        return step

    def find_limits(self, start_per_s: float, curve: Sequence[float]) -> dict[str, float | None]:
        """Searches, goes through the curve, and overloads.

        Args:
            start_per_s: Where the search begins.
            curve: Rates as shares of the highest.

        Returns:
            What came of it, by name; None where the service does not take any rate that was tried.
        """

        def confirm(name: str, rate_per_s: float) -> Step:
            return self.step(name, rate_per_s, longer=_CONFIRM)

        search = highest_rate(
            self.step, confirm, start_per_s=start_per_s, resolution=self._options.resolution
        )
        self.void = search.void
        if search.highest_per_s is None:
            return dict.fromkeys(_FIGURES)
        around = [self.step("curve", share * search.highest_per_s) for share in curve]
        overload = self.step(
            "overload", OVERLOAD * search.highest_per_s, deadline_ms=self._options.objective_ms
        )
        return figures_of(search, around, overload)


_FIGURES = (
    "highest_rate_per_s",
    "missed_share_there",
    "peak_goodput_per_s",
    "overload_goodput_per_s",
    "overload_to_peak",
    "overload_refused_p90_ms",
)


def figures_of(search: Search, curve: Sequence[Step], overload: Step) -> dict[str, float | None]:
    """What is said of a whole run; figures of void steps are none.

    Args:
        search: That has found a rate.
        curve: Steps around it.
        overload: That at twice the rate.
    """
    confirmed = search.confirmed
    assert confirmed is not None, "a rate that was found was confirmed"
    steps = [step for step in (*curve, confirmed, overload) if not step.void]
    peak = max(step.goodput_per_s for step in steps)
    over = None if overload.void else overload.goodput_per_s
    refused_ms = overload.to_json()["refused_ms"]["p90"]
    values = (
        search.highest_per_s,
        confirmed.missed_share,
        peak,
        over,
        None if over is None else over / peak,
        None if overload.void else refused_ms,
    )
    return dict(zip(_FIGURES, values, strict=True))
