"""Where the time of a training goes: the phases of a step, and the steps that count.

A GPU works on while Python goes ahead. What is timed here waits for it at two places only, before the first and
after the last step that counts; the phases between are read off events that the GPU itself has stamped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch


@dataclass
class Window:
    """The wall time of the steps after the first `warm_up_steps`.

    Attributes:
        steps: Of the whole training.
        warm_up_steps: Not timed.
        device: Where it computes.
    """

    steps: int
    warm_up_steps: int
    device: torch.device
    _began_s: float = field(default=0.0, init=False)
    _ended_s: float = field(default=0.0, init=False)

    def step_done(self, step: int) -> None:
        """Takes note that this step, counted from 1, has ended."""
        if step not in (self.warm_up_steps, self.steps):
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now_s = time.perf_counter()
        if step == self.warm_up_steps:
            self._began_s = now_s
        else:
            self._ended_s = now_s

    @property
    def step_s(self) -> float:
        """Mean wall seconds of a step that counts, with all that happens between two of them."""
        return (self._ended_s - self._began_s) / (self.steps - self.warm_up_steps)


class Phases:
    """The phases of each step, which follow each other without a gap.

    Args:
        names: In their order.
        device: Where they compute.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self._names = names
        self._device = device
        self._marks: list[list[float | torch.cuda.Event]] = []

    def begin_step(self) -> None:
        """Marks where the first phase of a step begins."""
        self._marks.append([self._now()])

    def end_phase(self) -> None:
        """Marks where one phase ends and the next begins."""
        self._marks[-1].append(self._now())

    def mean_s(self, warm_up_steps: int) -> dict[str, float]:
        """Phase -> mean seconds in a step, the first steps left out; call it when all is computed."""
        counted = self._marks[warm_up_steps:]
        return {
            name: fmean(_between_s(marks[at], marks[at + 1]) for marks in counted)
            for at, name in enumerate(self._names)
        }

    def _now(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between_s(first: float | torch.cuda.Event, second: float | torch.cuda.Event) -> float:
    if isinstance(first, float) or isinstance(second, float):
        assert isinstance(first, float)
        assert isinstance(second, float)
        return second - first
    return float(first.elapsed_time(second)) / 1000
