"""How a load changes with time, by the peak of `--users` and the time of `--run-time`.

| shape | what it does |
|---|---|
| `steps` | five steps of equal length up to the peak |
| `spike` | a fifth of the peak; all of it in the middle fifth of the time; a fifth again |
| `soak` | the peak all the time, reached within the first twentieth of it |
| `saturation` | a twentieth of the peak more every ten seconds, until answers no longer become more |
"""

from __future__ import annotations

import argparse
import math
import os
import sys

from locust import LoadTestShape

_DEFAULT_USERS = 20
_DEFAULT_RUN_TIME_S = 300.0
_STEPS = 5
_STEP_S = 10.0
_BETTER = 1.05
"""So many times the answers of the best step before it, or a step of `saturation` has brought nothing."""


def asked_shape() -> str | None:
    """The shape that the command line or LOCUST_SHAPE names, or None.

    Locust looks for classes of shapes before it parses options.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--shape", default=os.environ.get("LOCUST_SHAPE"))
    asked: str | None = parser.parse_known_args(sys.argv[1:])[0].shape
    return asked if asked in SHAPES else None


class _Shape(LoadTestShape):
    abstract = True
    use_common_options = True

    @property
    def peak(self) -> int:
        """Most users."""
        return self._options.num_users or _DEFAULT_USERS

    @property
    def run_time_s(self) -> float:
        """How long all of it takes; locust itself ends it then."""
        return self._options.run_time or _DEFAULT_RUN_TIME_S

    @property
    def _options(self) -> argparse.Namespace:
        return self.runner.environment.parsed_options

    def tick(self) -> tuple[int, float] | None:
        """Users now, and how many begin a second; None ends the load."""
        share = self.get_run_time() / self.run_time_s
        if share >= 1:
            return None
        users = max(1, math.ceil(self.share_of_peak(share) * self.peak))
        return users, float(self._options.spawn_rate or self.peak)

    def share_of_peak(self, time_share: float) -> float:
        """The users as a share of the peak, at a share of the time from 0 to 1."""
        raise NotImplementedError


class Steps(_Shape):
    """Five steps of equal length up to the peak."""

    def share_of_peak(self, time_share: float) -> float:
        """Of the step."""
        return (math.floor(time_share * _STEPS) + 1) / _STEPS


class Spike(_Shape):
    """A fifth of the peak, with all of it in the middle."""

    def share_of_peak(self, time_share: float) -> float:
        """All of it in the middle fifth."""
        return 1.0 if 0.4 <= time_share < 0.6 else 0.2


class Soak(_Shape):
    """The peak all the time."""

    def share_of_peak(self, time_share: float) -> float:
        """All of it but for the beginning."""
        return min(1.0, (math.floor(time_share * 100) + 1) / 5)


class Saturation(_Shape):
    """A little more every ten seconds, until it brings nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._step = 1
        self._step_began_s = 0.0
        self._answers_before = 0
        self._best_per_s = 0.0
        self._in_vain = 0

    def tick(self) -> tuple[int, float] | None:
        """Users now; None once two steps after another have brought nothing, or at the peak."""
        now_s = self.get_run_time()
        took_s = now_s - self._step_began_s
        if took_s >= _STEP_S:
            total = self.runner.stats.total
            answers = total.num_requests - total.num_failures
            per_s = (answers - self._answers_before) / took_s
            self._in_vain = 0 if per_s > _BETTER * self._best_per_s else self._in_vain + 1
            self._best_per_s = max(self._best_per_s, per_s)
            self._step += 1
            self._step_began_s, self._answers_before = now_s, answers
        users = math.ceil(self._step * self.peak / 20)
        if self._in_vain == 2 or users > self.peak or now_s >= self.run_time_s:
            return None
        return users, float(self._options.spawn_rate or self.peak)


SHAPES = {"steps": Steps, "spike": Spike, "soak": Soak, "saturation": Saturation}
