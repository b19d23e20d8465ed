"""No more requests come in than a replica can answer in time."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from serve_app.errors import RequestError

RETRY_AFTER_S = 1
_SURE_PART = 0.7
"""Of the time a request has: what it takes varies."""
_MEMORY_S = 5.0
"""How long what an answer took is remembered, roughly."""


class Gate:
    """Lets `max_ongoing` requests work and `max_queued` wait; whoever comes then is told at once.

    So is whoever would not be answered in the time it has, going by how long those before have taken: it
    would wait for nothing, and work for it would be lost to others. Whoever is refused is refused before its
    body is read.

    Args:
        max_ongoing: Requests that have a place.
        max_queued: Further requests that may wait.
        clock_s: Seconds that never go back.
    """

    def __init__(
        self, max_ongoing: int, max_queued: int, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._places = asyncio.Semaphore(max_ongoing)
        self._inside = 0
        self._patient = 0
        self._max_ongoing = max_ongoing
        self._max_inside = max_ongoing + max_queued
        self._clock_s = clock_s
        self._last_s = clock_s()
        # Answers, and seconds in which there was work, those of long ago counting less and less.
        self._answers = 0.0
        self._working_s = 0.0

    @property
    def expected_s(self) -> float:
        """When one more would be answered; 0 when nobody is inside, so that one at least always tries."""
        if not self._inside:
            return 0.0
        # The one in work has no end yet; should it hang, that says more and more.
        since_s = self._clock_s() - self._last_s
        part = math.exp(-since_s / _MEMORY_S)
        s_per_answer = (part * self._working_s + since_s) / (part * self._answers + 1)
        return (self._inside + 1) * s_per_answer if self._answers else 0.0

    def check(self, timeout_s: float = math.inf) -> None:
        """Looks whether one more may come.

        Args:
            timeout_s: The time it has.

        Raises:
            RequestError: 503, all places are taken and too many wait, or too long.
        """
        # Those that wait patiently would keep everybody else out: there may be any number of them.
        if self._inside - self._patient >= self._max_inside:
            raise _overloaded("Too many requests wait already")
        if self.expected_s > _SURE_PART * timeout_s:
            raise _overloaded("Those before would take longer than this request may")

    async def enter(self, timeout_s: float = math.inf, *, patient: bool = False) -> None:
        """Takes a place, which `leave` gives back.

        Args:
            timeout_s: The time that is left.
            patient: Wait however many wait already, in turn with the others: for streams, which are slowed down,
                not refused.

        Raises:
            RequestError: 503, all places are taken and too many wait, or too long.
        """
        if not patient:
            self.check(timeout_s)
        if not self._inside:
            self._last_s = self._clock_s()
        self._inside += 1
        self._patient += patient
        try:
            await self._places.acquire()
        except BaseException:
            self._inside -= 1
            raise
        finally:
            self._patient -= patient

    def leave(self, *, answered: bool = True) -> None:
        """Gives the place to the next that waits.

        Args:
            answered: Whether it got what it came for. What was given up says nothing of how long that takes.
        """
        self._inside -= 1
        self._places.release()
        if answered:
            now_s = self._clock_s()
            took_s, self._last_s = now_s - self._last_s, now_s
            part = math.exp(-took_s / _MEMORY_S)
            self._working_s = part * self._working_s + took_s
            self._answers = part * self._answers + 1


class ByteBudget:
    """Memory that the bodies of all requests share, those still on their way included.

    Args:
        max_bytes: Of all together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._free = max_bytes

    def take(self, count: int) -> None:
        """Takes so many bytes.

        Raises:
            RequestError: 503, there are not so many left.
        """
        if count > self._free:
            raise _overloaded("Too many large requests are on their way already")
        self._free -= count

    def give_back(self, count: int) -> None:
        """Gives so many bytes back."""
        self._free += count


def _overloaded(message: str) -> RequestError:
    return RequestError(
        503,
        "overloaded",
        message,
        hint="Try again after the seconds in Retry-After, or add replicas",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
