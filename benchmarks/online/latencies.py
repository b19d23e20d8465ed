"""Latencies as HDR histograms: three significant digits from a microsecond to an hour, and which percentiles count.

A percentile is published when enough samples lie beyond it: ten for p90 and p95, a hundred for p99 and p99.9.
So p90 needs 100 samples, p95 200, p99 10,000 and p99.9 100,000; the median and the largest are always told.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram

NEEDED = {"p50": 1, "p90": 100, "p95": 200, "p99": 10_000, "p99.9": 100_000}
"""Samples from which on a percentile is published."""
_US_PER_MS = 1000
_LARGEST_US = 3_600_000_000
_DIGITS = 3


class Latencies:
    """So many latencies of each size.

    Args:
        values_ms: The first of them in milliseconds.
    """

    def __init__(self, values_ms: Iterable[float] = ()) -> None:
        self._histogram = HdrHistogram(1, _LARGEST_US, _DIGITS)
        for value_ms in values_ms:
            us = min(max(1, round(value_ms * _US_PER_MS)), _LARGEST_US)
            self._histogram.record_value(us)

    @classmethod
    def decoded(cls, text: str) -> Latencies:
        """From what `encoded` gave, here or by any other HDR histogram."""
        latencies = cls()
        latencies._histogram = HdrHistogram.decode(text)
        return latencies

    def encoded(self) -> str:
        """As the text of HDR histograms: base64 of the compressed form, version 2."""
        text: str = self._histogram.encode().decode("ascii")
        return text

    def add(self, other: Latencies) -> None:
        """Adds those of another."""
        self._histogram.add(other._histogram)

    def __len__(self) -> int:
        return int(self._histogram.get_total_count())

    def at(self, percentile: float) -> float:
        """The latency in ms that `percentile` of a hundred do not exceed; 0 where there is none."""
        if not len(self):
            return 0.0
        # As HDR histograms have it, but not place by place in Python.
        target = max(1, int(percentile / 100 * len(self) + 0.5))
        place = int(np.searchsorted(np.cumsum(self._counts), target))
        value = self._histogram.get_value_from_index(place)
        return float(self._histogram.get_highest_equivalent_value(value)) / _US_PER_MS

    @property
    def _counts(self) -> npt.NDArray[np.int64]:
        return np.ctypeslib.as_array(self._histogram.counts).astype(np.int64)

    def values_ms(self) -> npt.NDArray[np.float64]:
        """Each of them, ascending, to three digits."""
        counts = self._counts
        places = np.flatnonzero(counts)
        values = [self._histogram.get_value_from_index(int(place)) for place in places]
        return np.repeat(np.array(values, np.float64) / _US_PER_MS, counts[places])

    def published(self) -> dict[str, float | None]:
        """What may be told: percentiles in ms, None for those of too few samples, and the largest."""
        figures: dict[str, float | None] = {
            name: round(self.at(float(name[1:])), 3) if len(self) >= needed else None
            for name, needed in NEEDED.items()
        }
        largest = round(self._histogram.get_max_value() / _US_PER_MS, 3)
        return {**figures, "max": largest if len(self) else None}
