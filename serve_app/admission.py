"""Who may come in: keys, and no more requests than a replica can answer in time."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from serve_app.errors import RequestError

RETRY_AFTER_S = 1


class Gate:
    """Lets `max_ongoing` requests work and `max_queued` wait; whoever comes then is told at once.

    It stands before the body is read, so that waiting requests cost no memory.
    """

    def __init__(self, max_ongoing: int, max_queued: int) -> None:
        self._places = asyncio.Semaphore(max_ongoing)
        self._inside = 0
        self._max_inside = max_ongoing + max_queued

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Holds a place while the request is worked on.

        Raises:
            RequestError: 503, all places are taken and too many wait.
        """
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
            async with self._places:
                yield
        finally:
            self._inside -= 1


class KeyRing:
    """The Bearer keys that open scoring; an empty ring leaves it open."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def check(self, authorization: str | None) -> None:
        """Looks at an Authorization header.

        Raises:
            RequestError: 401, keys are on and this is none of them.
        """
        if not self._keys:
            return
        scheme, _, given = (authorization or "").partition(" ")
        given_bytes = given.strip().encode("utf-8", "replace")
        # All keys are compared, each in constant time, so that the answer's time tells nothing.
        matches = [hmac.compare_digest(given_bytes, key) for key in self._keys]
        if scheme.lower() != "bearer" or not any(matches):
            raise RequestError(
                401,
                "unauthorized",
                "The service asks for a key and this is none of its keys"
                if authorization
                else "The service asks for a key",
                hint="Send the header Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )
