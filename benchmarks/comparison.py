"""What two results can be compared by: figures with the samples behind them, and the noise that those tell.

Noise is told by bootstrap: the samples of each side are drawn again with replacement, many times, and what the
ratio of the two sides does then is how far it may be chance. What is drawn are whole rounds, and of an open load
whole twentieths of a step, since requests that are neighbours in time are slow together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.report.rounds_charts import speeds_of

FEWEST_ROUNDS = 5
"""Of three and three rounds one order in ten separates them by chance, of five and five one in a hundred."""
_DRAWS = 4000
_NOTHING = 1e-12
_LOWER_IS_BETTER = ("_ms", "_s", "_mib", "_share")

Floats = npt.NDArray[np.float64]
Verdict = Literal["better", "worse", "no change beyond noise", "too few rounds", "gone"]


class Samples(Protocol):
    """What was measured of one figure on one side."""

    def value(self) -> float:
        """The figure itself."""

    def drawn(self, rng: np.random.Generator, draws: int) -> Floats:
        """The figure of `draws` samples drawn with replacement."""

    def enough(self) -> bool:
        """Whether there are so many that noise can be told."""


@dataclass(frozen=True)
class Rounds:
    """One number a round; the figure is their median."""

    values: Sequence[float]

    def value(self) -> float:
        """The median."""
        return float(np.median(self.values))

    def drawn(self, rng: np.random.Generator, draws: int) -> Floats:
        """Medians of rounds drawn again."""
        chosen = rng.integers(len(self.values), size=(draws, len(self.values)))
        return np.median(np.asarray(self.values, np.float64)[chosen], axis=1)

    def enough(self) -> bool:
        """Five of them."""
        return len(self.values) >= FEWEST_ROUNDS


@dataclass(frozen=True)
class Goodput:
    """Right answers in time, a second, over the windows of a step."""

    windows: Sequence[Mapping[str, Any]]

    def value(self) -> float:
        """Over all of them."""
        return float(self._counts().sum() / self._seconds())

    def drawn(self, rng: np.random.Generator, draws: int) -> Floats:
        """Over windows drawn again."""
        times = _times_drawn(rng, draws, len(self.windows))
        goodput: Floats = times @ self._counts() / self._seconds()
        return goodput

    def enough(self) -> bool:
        """There always are."""
        return len(self.windows) >= FEWEST_ROUNDS

    def _counts(self) -> Floats:
        return np.array([window["in_time"] for window in self.windows], np.float64)

    def _seconds(self) -> float:
        return float(sum(window["seconds"] for window in self.windows))


@dataclass(frozen=True)
class Percentile:
    """A percentile of the latencies in the windows of a step, in ms.

    Attributes:
        windows_ms: The latencies of each.
        percentile: From 0 to 100.
    """

    windows_ms: Sequence[Floats]
    percentile: float

    def value(self) -> float:
        """Of all of them."""
        return float(np.percentile(np.concatenate(self.windows_ms), self.percentile))

    def drawn(self, rng: np.random.Generator, draws: int) -> Floats:
        """Of windows drawn again."""
        # Histograms hold few distinct values: what counts is how often each is in each window.
        values_ms, bins = np.unique(np.concatenate(self.windows_ms), return_inverse=True)
        windows = len(self.windows_ms)
        window = np.repeat(np.arange(windows), [len(one) for one in self.windows_ms])
        counts = np.zeros((windows, len(values_ms)))
        np.add.at(counts, (window, bins), 1.0)
        parts = []
        for times in np.array_split(_times_drawn(rng, draws, windows), max(1, draws // 200)):
            reached = np.cumsum(times @ counts, axis=1)
            places = (reached < self.percentile / 100 * reached[:, -1:]).sum(axis=1)
            parts.append(values_ms[np.minimum(places, len(values_ms) - 1)])
        return np.concatenate(parts)

    def enough(self) -> bool:
        """As many windows as rounds are needed."""
        return len(self.windows_ms) >= FEWEST_ROUNDS


@dataclass(frozen=True)
class Change:
    """One figure on both sides.

    Attributes:
        name: Of the figure.
        old: Its value in the old result.
        new: Its value in the new one; None where it is gone.
        ratio_interval: Where new / old lies but for noise; None where there are too few rounds.
        verdict: What that means.
    """

    name: str
    old: float
    new: float | None
    ratio_interval: tuple[float, float] | None
    verdict: Verdict


def compare(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    *,
    confidence: float,
    tolerance: float,
    seed: int = 0,
) -> list[Change]:
    """Every figure that the old result has; one that the new one lacks is gone.

    Args:
        old: A result as `write_result` writes it.
        new: Another one of the same benchmark.
        confidence: With which all verdicts together are right; each figure gets its part (Bonferroni).
        tolerance: Smallest change that counts, as a share: 0.02 is 2 %.
        seed: Of the draws.
    """
    before, after = dict(figures_of(old)), dict(figures_of(new))
    judged = [
        name for name in before if name in after and before[name].enough() and after[name].enough()
    ]
    tail = (1 - confidence) / 2 / max(1, len(judged))
    rng = np.random.default_rng(seed)
    changes = []
    for name in before:
        if name not in after:
            changes.append(Change(name, before[name].value(), None, None, "gone"))
            continue
        values = before[name].value(), after[name].value()
        if name not in judged:
            changes.append(Change(name, *values, None, "too few rounds"))
            continue
        draws = before[name].drawn(rng, _DRAWS), after[name].drawn(rng, _DRAWS)
        # Nothing on both sides is no change, and nothing on one of them is a large one.
        ratios = (draws[1] + _NOTHING) / (draws[0] + _NOTHING)
        low, high = (float(one) for one in np.quantile(ratios, (tail, 1 - tail)))
        changes.append(Change(name, *values, (low, high), _verdict(name, low, high, tolerance)))
    return changes


def figures_of(result: Mapping[str, Any]) -> Iterator[tuple[str, Samples]]:
    """Name and samples of each figure that a result has."""
    for side, speeds in speeds_of(result).items():
        yield f"{side}: images_per_s", Rounds(speeds)
    runs = result.get("runs", ())
    for name, value in runs[0].items() if runs else ():
        if isinstance(value, float):
            yield name, Rounds([run[name] for run in runs])
    for step in result.get("steps", ()):
        # The search goes its own way every time, and curves lie around what it has found.
        if step["name"] in ("search", "curve") or step["void"]:
            continue
        yield f"{step['name']}: goodput_per_s", Goodput(step["windows"])
        if step["name"] == "fixed rate":
            name = f"at {step['rate_per_s']:g} a second"
            windows_ms = _latencies_ms(step["windows"])
            for percentile, value in step["latency_ms"].items():
                if percentile != "max" and value is not None:
                    figure = Percentile(windows_ms, float(percentile[1:]))
                    yield f"{name}: {percentile}_ms", figure


def _latencies_ms(windows: Sequence[Mapping[str, Any]]) -> list[Floats]:
    # Only who measures has this package.
    from benchmarks.online.latencies import Latencies

    return [Latencies.decoded(window["latencies"]).values_ms() for window in windows]


def _times_drawn(rng: np.random.Generator, draws: int, windows: int) -> Floats:
    """How often each window is drawn, `[draws, windows]`."""
    return rng.multinomial(windows, np.full(windows, 1 / windows), size=draws).astype(np.float64)


def _verdict(name: str, low: float, high: float, tolerance: float) -> Verdict:
    if low <= 1 + tolerance and high >= 1 - tolerance:
        return "no change beyond noise"
    # ... "_per_s" is a speed, all other seconds are costs.
    lower_is_better = name.endswith(_LOWER_IS_BETTER) and not name.endswith("_per_s")
    return "better" if (low > 1) != lower_is_better else "worse"
