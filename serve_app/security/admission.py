"""No more requests come in than a replica can answer in time."""

from __future__ import annotations

import asyncio

from serve_app.errors import RequestError

RETRY_AFTER_S = 1


class Gate:
    """Lets `max_ongoing` requests work and `max_queued` wait; whoever comes then is told at once.

    Whoever is refused is refused before its body is read.
    """

    def __init__(self, max_ongoing: int, max_queued: int) -> None:
        self._places = asyncio.Semaphore(max_ongoing)
        self._inside = 0
        self._max_ongoing = max_ongoing
        self._max_inside = max_ongoing + max_queued

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return max(0, self._inside - self._max_ongoing)

    def check(self) -> None:
        """Looks whether one more may come.

        Raises:
            RequestError: 503, all places are taken and too many wait.
        """
        if self._inside >= self._max_inside:
            raise _overloaded("Too many requests wait already")

    async def enter(self, *, patient: bool = False) -> None:
        """Takes a place, which `leave` gives back.

        Args:
            patient: Wait however many wait already: for streams, which are slowed down, not refused.

        Raises:
            RequestError: 503, all places are taken and too many wait.
        """
        if patient:
            await self._places.acquire()
            self._inside += 1
            return
        self.check()
        self._inside += 1
        try:
            await self._places.acquire()
        except BaseException:
            self._inside -= 1
            raise

    def leave(self) -> None:
        """Gives the place to the next that waits."""
        self._inside -= 1
        self._places.release()


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
