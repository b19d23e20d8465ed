"""Where the time of one request goes, by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = ("queue", "receive", "decode", "batch_wait", "model", "encode")
"""In the order a request passes them: waiting for a place, its body, bytes to pixels, waiting for the
model, the batch that the picture was in, record to answer."""


class Timings:
    """Seconds by stage; those of several pictures of one request are added up.

    Belongs to one request. Stages may be noted from any thread, one at a time each.
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(STAGES, 0.0)

    def add(self, stage: str, seconds: float) -> None:
        """Notes time that was measured elsewhere.

        Raises:
            KeyError: There is no such stage.
        """
        self._seconds[stage] += seconds

    @contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """Notes the time that the block takes, also when it fails."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start_s)

    def as_dict(self) -> dict[str, float]:
        """Seconds of every stage, in the order of `STAGES`."""
        return dict(self._seconds)
