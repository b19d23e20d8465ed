"""Where the time of a prediction goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

STAGES = ("resize", "trunk", "rpn", "roi", "post")
"""In the order of the path; `trunk` is backbone, pyramid and RPN head."""


class StageTimes:
    """Sums the seconds of each stage. Measuring waits for the device after each stage.

    Attributes:
        seconds: Stage -> seconds since this was made.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Adds the time of its block to `stage`."""
        started_s = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[stage] += time.perf_counter() - started_s


def measured(times: StageTimes | None, stage: str) -> AbstractContextManager[None]:
    """Measures its block where there is something to measure with."""
    return nullcontext() if times is None else times.measure(stage)
