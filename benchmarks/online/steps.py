"""One step of a load: the requests at one rate for some time, and what is said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.online.latencies import Latencies

OK = 200
REFUSED = (429, 503)
_WINDOWS = 20
_MAX_CPU_SHARE = 0.85
MAX_LAG_MS = 10.0
_MAX_LAG_SHARE = 0.05
_MAX_LATE_SHARE = 0.01


@dataclass(frozen=True)
class Sample:
    """One request.

    Attributes:
        intended_s: When it was to be sent, from the start of its step.
        sent_s: When it was.
        answered_s: When its answer was there whole, or was given up.
        status: HTTP status; 0 where there was none.
        failure: Why it does not count as answered: status, connection, or a wrong answer; None if right.
    """

    intended_s: float
    sent_s: float
    answered_s: float
    status: int
    failure: str | None

    @property
    def latency_ms(self) -> float:
        """From when it was to be sent: who has to wait for a stalled service has waited."""
        return (self.answered_s - self.intended_s) * 1000

    @property
    def lag_ms(self) -> float:
        """How late the generator has sent it."""
        return (self.sent_s - self.intended_s) * 1000


@dataclass(frozen=True)
class Step:
    """All requests of a step.

    Attributes:
        rate_per_s: Asked for.
        seconds: How long requests were to be sent.
        objective_ms: A right answer within it is good.
        samples: In the order answered.
        cpu_shares: What the generator took of one core in each second.
        ended_early: Why not all of it was sent, or None.
        max_lag_ms: One in a hundred requests may be sent later than this and than a twentieth of the objective.
    """

    rate_per_s: float
    seconds: float
    objective_ms: float
    samples: Sequence[Sample]
    cpu_shares: Sequence[float] = field(default=(0.0,))
    ended_early: str | None = None
    max_lag_ms: float = MAX_LAG_MS

    @property
    def took_s(self) -> float:
        """Until the last right answer, and at least as long as requests were sent."""
        return max([self.seconds, *(s.answered_s for s in self.samples if s.failure is None)])

    @property
    def in_time(self) -> int:
        """Right answers within the objective."""
        return sum(self._in_time(sample) for sample in self.samples)

    @property
    def missed_share(self) -> float:
        """Of all requests, those without a right answer within the objective; 1 where there were none."""
        return 1 - self.in_time / len(self.samples) if self.samples else 1.0

    @property
    def goodput_per_s(self) -> float:
        """Right answers within the objective, a second."""
        return self.in_time / self.took_s

    @property
    def void(self) -> list[str]:
        """Why the figures say more of the generator than of the service; empty where they do not."""
        reasons = [] if self.ended_early is None else [self.ended_early]
        if not self.samples and not reasons:
            reasons.append("no request fell due in this time")
        busiest = float(np.percentile(self.cpu_shares, 95))
        if busiest > _MAX_CPU_SHARE:
            reasons.append(f"the generator took {busiest:.2f} of its one core")
        allowed_ms = max(self.max_lag_ms, _MAX_LAG_SHARE * self.objective_ms)
        late = sum(sample.lag_ms > allowed_ms for sample in self.samples)
        # Of a few dozen requests one that was late by chance is more than one in a hundred.
        if self.samples and wilson_interval(late, len(self.samples))[0] > _MAX_LATE_SHARE:
            reasons.append(
                f"the generator sent {late / len(self.samples):.0%} of the requests more than {allowed_ms:g} ms late"
            )
        return reasons

    def to_json(self) -> dict[str, Any]:
        """Figures, and the raw latencies as one histogram for each part of the time."""
        right = [sample for sample in self.samples if sample.failure is None]
        refused = [sample for sample in self.samples if sample.status in REFUSED]
        low, high = wilson_interval(len(self.samples) - self.in_time, len(self.samples))
        return {
            "rate_per_s": self.rate_per_s,
            "seconds": self.seconds,
            "objective_ms": self.objective_ms,
            "requests": len(self.samples),
            "right": len(right),
            "per_status": dict(sorted(Counter(str(s.status) for s in self.samples).items())),
            "failures": dict(Counter(s.failure for s in self.samples if s.failure is not None)),
            "answered_per_s": len(right) / self.took_s,
            "goodput_per_s": self.goodput_per_s,
            "missed_share": self.missed_share,
            "missed_share_95": [low, high],
            "latency_ms": Latencies(s.latency_ms for s in right).published(),
            "refused_ms": Latencies(s.latency_ms for s in refused).published(),
            "generator": {
                "cpu_share_mean": float(np.mean(self.cpu_shares)),
                "cpu_share_busiest_second": max(self.cpu_shares),
                "lag_ms": {
                    "p50": Latencies(s.lag_ms for s in self.samples).at(50),
                    "p99": Latencies(s.lag_ms for s in self.samples).at(99),
                },
            },
            "void": self.void,
            "windows": self._windows(),
        }

    def _windows(self) -> list[dict[str, Any]]:
        """Twentieths of the time: neighbours in time are alike, so noise is told by whole windows."""
        length_s = self.seconds / _WINDOWS
        parts: list[list[Sample]] = [[] for _ in range(_WINDOWS)]
        for sample in self.samples:
            parts[min(int(sample.intended_s / length_s), _WINDOWS - 1)].append(sample)
        return [
            {
                "seconds": length_s,
                "requests": len(part),
                "right": sum(s.failure is None for s in part),
                "in_time": sum(self._in_time(s) for s in part),
                "latencies": Latencies(s.latency_ms for s in part if s.failure is None).encoded(),
            }
            for part in parts
        ]

    def _in_time(self, sample: Sample) -> bool:
        return sample.failure is None and sample.latency_ms <= self.objective_ms


def wilson_interval(count: int, whole: int, z: float = 1.96) -> tuple[float, float]:
    """Where a share lies of which `count` of `whole` were seen, with 95 % confidence unless `z` is another."""
    if whole == 0:
        return 0.0, 1.0
    share = count / whole
    centre = (share + z * z / (2 * whole)) / (1 + z * z / whole)
    spread = z / (1 + z * z / whole) * np.sqrt(share * (1 - share) / whole + (z / (2 * whole)) ** 2)
    return max(0.0, float(centre - spread)), min(1.0, float(centre + spread))
