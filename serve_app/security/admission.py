"""No more requests come in than a replica can answer in time."""

from __future__ import annotations

import asyncio

from serve_app.errors import RequestError

RETRY_AFTER_S = 1


class Gate:
    """Lets `max_ongoing` requests work and `max_queued` wait; whoever comes then is told at once.

    It stands before the body is read, so that waiting requests cost no memory.
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
        if self._inside >= self._max_inside:
            raise RequestError(
                503,
                "overloaded",
                "Too many requests wait already",
                hint="Try again after the seconds in Retry-After, or add replicas",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
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
