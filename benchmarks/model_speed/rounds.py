"""Times both sides in turn on the same pictures: reference, ours, reference, ours, ...

Whatever else the machine does meets both alike, and a ratio is taken within a round.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from appliance.detections import Detections
from appliance.images.decoding import DecodedImage
from benchmarks.model_speed.memory import peak_memory
from benchmarks.model_speed.sides import Predict

FEWEST_FOR_P99 = 100
"""Below so many samples the 99th percentile is the slowest one, and says nothing."""

WARM_UP = 3
"""Calls on a GPU, pictures at least on a CPU."""


@dataclass(frozen=True, eq=False)
class Round:
    """One side over the pictures of one round.

    Attributes:
        wall_s: From the first call to the end of the last.
        cpu_s: Of all threads of this process meanwhile.
        latencies_s: Of each call.
        detections: Index of a picture -> what was found on it.
    """

    wall_s: float
    cpu_s: float
    latencies_s: tuple[float, ...]
    detections: dict[int, Detections]


@dataclass(frozen=True, eq=False)
class SideTimes:
    """One side over all rounds.

    Attributes:
        rounds: In the order they ran.
        pictures_per_round: In each.
        warm_up_s: The calls before the first round.
        peak_memory_mib: By which memory grew in them, None if unknown; see `memory.peak_memory`.
    """

    rounds: tuple[Round, ...]
    pictures_per_round: int
    warm_up_s: float
    peak_memory_mib: float | None

    @property
    def images_per_s(self) -> float:
        """Pictures a second in the median round."""
        return self.pictures_per_round / statistics.median(one.wall_s for one in self.rounds)

    @property
    def cpu_ms_per_image(self) -> float:
        """Processor time of a picture in the median round, milliseconds."""
        cpu_s = statistics.median(one.cpu_s for one in self.rounds)
        return 1000 * cpu_s / self.pictures_per_round

    @property
    def latency_ms(self) -> dict[str, float | int | None]:
        """p50 and p99 of a call in milliseconds, and of how many; p99 is None where they are too few."""
        calls_ms = 1000 * np.array([s for one in self.rounds for s in one.latencies_s])
        enough = len(calls_ms) >= FEWEST_FOR_P99
        return {
            "p50": float(np.percentile(calls_ms, 50)),
            "p99": float(np.percentile(calls_ms, 99)) if enough else None,
            "n": len(calls_ms),
        }

    @property
    def detections(self) -> dict[int, Detections]:
        """Index of a picture -> what was found on it, for all pictures of all rounds."""
        return {index: found for one in self.rounds for index, found in one.detections.items()}


def alternate(
    reference: Predict,
    ours: Predict,
    pictures: Sequence[DecodedImage],
    *,
    device: torch.device,
    batch: int,
    pictures_per_round: int,
    rounds: int,
) -> tuple[SideTimes, SideTimes]:
    """Runs both sides in turn.

    Args:
        reference: Takes at most `batch` pictures.
        ours: Likewise.
        pictures: All there are; rounds take them in turn.
        device: Where both compute.
        batch: Pictures a call.
        pictures_per_round: A multiple of `batch`.
        rounds: How many.

    Returns:
        The times of the reference, and ours.
    """
    sides = (reference, ours)
    warm_ups = [_warm_up(side, pictures, batch, device) for side in sides]
    done: tuple[list[Round], list[Round]] = ([], [])
    for number in range(rounds):
        first = number * pictures_per_round
        indices = [(first + offset) % len(pictures) for offset in range(pictures_per_round)]
        calls = [indices[start : start + batch] for start in range(0, len(indices), batch)]
        for side, side_rounds in zip(sides, done, strict=True):
            side_rounds.append(_round(side, pictures, calls))
        wall_s = [side_rounds[-1].wall_s for side_rounds in done]
        print(
            f"batch {batch}, round {number + 1} of {rounds}: torchvision {wall_s[0]:.2f} s,"
            f" ours {wall_s[1]:.2f} s",
            file=sys.stderr,
        )
    times = [
        SideTimes(tuple(side_rounds), pictures_per_round, *warm_up)
        for side_rounds, warm_up in zip(done, warm_ups, strict=True)
    ]
    return times[0], times[1]


def _warm_up(
    side: Predict, pictures: Sequence[DecodedImage], batch: int, device: torch.device
) -> tuple[float, float | None]:
    """The first calls, which allocate and compile; their seconds and by how much memory grew."""
    images = [pictures[index % len(pictures)] for index in range(batch)]
    # Compilers look at a few calls before they settle; on a CPU at a few pictures, as each takes long.
    calls = WARM_UP if device.type == "cuda" else -(-WARM_UP // batch)
    started_s = time.perf_counter()
    with peak_memory(device) as memory:
        for _ in range(calls):
            side(images)
    return time.perf_counter() - started_s, memory.growth_mib


def _round(
    side: Predict, pictures: Sequence[DecodedImage], calls: Sequence[Sequence[int]]
) -> Round:
    latencies_s: list[float] = []
    detections: dict[int, Detections] = {}
    cpu_started_s, started_s = time.process_time(), time.perf_counter()
    for indices in calls:
        call_started_s = time.perf_counter()
        found = side([pictures[index] for index in indices])
        latencies_s.append(time.perf_counter() - call_started_s)
        detections.update(zip(indices, found, strict=True))
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_started_s
    return Round(wall_s, cpu_s, tuple(latencies_s), detections)
