"""What all routes share, and the way every scoring request goes.

    key -> rate -> place in the gate -> body (limited while it streams) -> work -> answer

all within one deadline. Limits, time-outs and overload are ours, because Serve's can be switched off by
a header and do not answer in JSON. Nobody works for a client that has hung up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from fastapi import Request

from appliance.records import Record
from serve_app.errors import RequestError
from serve_app.scoring.models import ModelPool
from serve_app.scoring.timings import Timings
from serve_app.security.admission import Gate
from serve_app.security.keys import KeyRing
from serve_app.settings import ServiceSettings

_HUNG_UP = "http.disconnect"


class ScoringRequest:
    """One request that has a place in the gate.

    Attributes:
        timings: Where its time goes; also `request.state.timings`, for whoever wraps the application.
        timeout_s: How long it may take in all.
    """

    def __init__(self, request: Request, max_body_bytes: int, timeout: asyncio.Timeout) -> None:
        self.timings: Timings = request.state.timings
        self.have_body = False
        self.hung_up = False
        self._request = request
        self._max_body_bytes = max_body_bytes
        self._timeout = timeout
        self._watcher: asyncio.Task[None] | None = None

    async def body(self) -> bytes:
        """The whole body; from then on, the work ends when the client hangs up.

        Raises:
            RequestError: 413, refused as soon as it is known to be too large; 400, there is none.
        """
        with self.timings.stage("receive"):
            body = await _read_body(self._request, self._max_body_bytes)
        self.have_body = True
        self._watcher = asyncio.create_task(self._watch())
        return body

    def note(self, *records: Record) -> None:
        """Tells whoever counts and logs what has been answered."""
        self._request.state.records.extend(records)

    def close(self) -> None:
        """Stops watching the client."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != _HUNG_UP:
            pass
        self.hung_up = True
        self._timeout.reschedule(asyncio.get_running_loop().time())


class Fetcher(Protocol):
    """Fetches pictures for clients; see `serve_app.security.url_fetching`."""

    async def fetch(self, url: str) -> bytes:
        """The bytes at `url`, or a RequestError."""
        ...

    async def close(self) -> None:
        """Closes its connections."""
        ...


@dataclass(frozen=True)
class Service:
    """The parts of one replica that its routes use.

    Attributes:
        settings: Limits.
        pool: The models.
        gate: Places for pictures in work.
        streams: Places for open streams, each of whose pictures takes a place of `gate` besides.
        keys: Who may come in.
        urls: Fetches pictures, or None where that is off.
    """

    settings: ServiceSettings
    pool: ModelPool
    gate: Gate
    streams: Gate
    keys: KeyRing
    urls: Fetcher | None = None

    def identify(self, request: Request) -> None:
        """A dependency of routes: whose request it is, as `request.state.key_name`.

        Raises:
            RequestError: 401, the service asks for a key and this is none of its keys.
        """
        request.state.key_name = self.keys.identify(request.headers.get("authorization"))

    @asynccontextmanager
    async def scoring_request(self, request: Request) -> AsyncIterator[ScoringRequest]:
        """A place in the gate and a deadline for the time of the block.

        Raises:
            RequestError: 503 when too many wait, 408 and 504 when it takes too long, 499 when the client
                has hung up (nobody reads that answer; logs do).
        """
        request.state.timings = Timings()
        request.state.records = []
        timeout_s = self.timeout_s(request)
        scope = None
        try:
            async with asyncio.timeout(timeout_s) as timeout:
                scope = ScoringRequest(request, self.settings.max_body_bytes, timeout)
                with scope.timings.stage("queue"):
                    await self.gate.enter()
                try:
                    yield scope
                finally:
                    self.gate.leave()
        except TimeoutError:
            raise _too_late(scope, timeout_s) from None
        finally:
            if scope is not None:
                scope.close()

    def timeout_s(self, request: Request) -> float:
        """The service's own deadline, or an earlier one that the client asks for.

        Raises:
            RequestError: 400, the header is no number from 1.
        """
        asked = request.headers.get("x-request-timeout-ms")
        if asked is None:
            return self.settings.request_timeout_s
        try:
            timeout_ms = float(asked)
        except ValueError:
            timeout_ms = float("nan")
        if not timeout_ms >= 1:
            raise RequestError(
                400,
                "invalid_header",
                f"X-Request-Timeout-Ms must be a number of milliseconds from 1, got {asked[:40]}",
                hint="Leave it out, or send a number such as 2000",
            )
        return min(self.settings.request_timeout_s, timeout_ms / 1000)


async def _read_body(request: Request, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise body_too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise body_too_large(max_bytes)
        chunks.append(chunk)
    if size == 0:
        raise RequestError(
            400, "empty_body", "The request has no body", hint="Send the picture as the body"
        )
    return b"".join(chunks)


def body_too_large(max_bytes: int) -> RequestError:
    """The error for a body, or a line of a stream, beyond the limit."""
    return RequestError(
        413,
        "body_too_large",
        f"The body is larger than {max_bytes:,} bytes",
        hint="Send a smaller picture, or fewer of them",
    )


def _too_late(scope: ScoringRequest | None, timeout_s: float) -> RequestError:
    if scope is not None and scope.hung_up:
        return RequestError(499, "client_gone", "The client has hung up", hint="Nobody reads this")
    if scope is None or scope.have_body:
        return RequestError(
            504,
            "deadline_exceeded",
            f"No answer within {timeout_s:g} seconds",
            hint="Send fewer or smaller pictures at once, or try again when there is less load",
        )
    return RequestError(
        408,
        "body_too_slow",
        f"The body was not complete within {timeout_s:g} seconds",
        hint="Send a smaller picture, or use a faster connection",
    )
