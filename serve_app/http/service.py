"""What all routes share, and the way every scoring request goes.

    key -> rate -> body (limited while it streams) -> place in the gate -> work -> answer

all within one deadline. Whoever sends slowly holds no place, only memory for what has come of the body, out
of a budget. Limits, time-outs and overload are ours, because Serve's can be switched off by a header and do
not answer in JSON. Nobody works for a client that has hung up.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Request
from starlette.requests import ClientDisconnect

from appliance.errors import ServiceError
from serve_app.errors import RequestError
from serve_app.scoring.models import ModelPool
from serve_app.security.admission import ByteBudget, Gate
from serve_app.security.keys import KeyRing
from serve_app.security.rate_limits import RateLimits
from serve_app.security.url_fetching import UrlFetcher
from serve_app.settings import ServiceSettings
from serve_app.telemetry.metrics import Metrics
from serve_app.telemetry.notes import RequestNotes
from serve_app.telemetry.replicas import NodeCounts

_HUNG_UP = "http.disconnect"


class ScoringRequest:
    """One request on its way through the service.

    Attributes:
        notes: What is told of it to whoever counts and logs.
        timings: Where its time goes.
        answered: Whether it got what it came for.
    """

    def __init__(self, request: Request, service: Service, timeout: asyncio.Timeout) -> None:
        self.notes: RequestNotes = request.state.notes
        self.timings = self.notes.timings
        self.have_body = False
        self.hung_up = False
        self.answered = False
        self._request = request
        self._service = service
        self._timeout = timeout
        self._held_bytes = 0
        self._has_place = False
        self._watcher: asyncio.Task[None] | None = None

    async def body(self) -> bytes:
        """The whole body, and with it a place in the gate; from then on, the work ends when the client hangs up.

        Raises:
            RequestError: 413, refused as soon as it is known to be too large; 400, there is none; 503, too
                many wait, or too many bodies are on their way; 499, the client has hung up.
        """
        with self.timings.stage("receive"):
            try:
                body = await self._read()
            except ClientDisconnect:
                raise _client_gone() from None
        self.have_body = True
        self._watcher = asyncio.create_task(self._watch())
        with self.timings.stage("queue"):
            await self._service.gate.enter(self.left_s)
        self._has_place = True
        return body

    def hold(self, count: int) -> None:
        """Counts bytes that the request holds: of its body, and of pictures fetched for it.

        Raises:
            RequestError: 413, they are too many for one request; 503, for all together.
        """
        max_bytes = self._service.settings.max_body_bytes
        if self._held_bytes + count > max_bytes:
            raise body_too_large(max_bytes)
        self._service.bodies.take(count)
        self._held_bytes += count

    @property
    def left_s(self) -> float:
        """The time until its deadline."""
        end_s = self._timeout.when()
        return math.inf if end_s is None else end_s - asyncio.get_running_loop().time()

    def close(self) -> None:
        """Gives back what it held, and stops watching the client."""
        if self._has_place:
            self._service.gate.leave(answered=self.answered)
        self._service.bodies.give_back(self._held_bytes)
        if self._watcher is not None:
            self._watcher.cancel()

    async def _read(self) -> bytes:
        max_bytes = self._service.settings.max_body_bytes
        announced = self._request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > max_bytes:
            raise body_too_large(max_bytes)
        chunks: list[bytes] = []
        async for chunk in self._request.stream():
            self.hold(len(chunk))
            chunks.append(chunk)
        if self._held_bytes == 0:
            raise RequestError(
                400, "empty_body", "The request has no body", hint="Send the picture as the body"
            )
        return b"".join(chunks)

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != _HUNG_UP:
            pass
        self.hung_up = True
        self._timeout.reschedule(asyncio.get_running_loop().time())


@dataclass(frozen=True)
class Service:
    """The parts of one replica that its routes use.

    Attributes:
        settings: Limits.
        pool: The models.
        gate: Places for requests in work.
        bodies: Memory for bodies.
        streams: Places for open streams, each of whose pictures takes a place of `gate` besides.
        keys: Who may come in.
        rates: How often.
        metrics: Where this replica counts.
        counts: Those of all replicas.
        urls: Fetches pictures, or None where that is off.
    """

    settings: ServiceSettings
    pool: ModelPool
    gate: Gate
    bodies: ByteBudget
    streams: Gate
    keys: KeyRing
    rates: RateLimits
    metrics: Metrics
    counts: NodeCounts
    urls: UrlFetcher | None = None

    async def identify(self, request: Request) -> None:
        """A dependency of routes: whose request it is, as noted for the log.

        A coroutine, so that it runs in the event loop, which the keys belong to.

        Raises:
            RequestError: 401, the service asks for a key and this is none of its keys; 429, the key is used
                too often.
        """
        self.admit(request.headers.get("authorization"), request.state.notes)

    def admit(self, authorization: str | None, notes: RequestNotes) -> None:
        """Checks whose request it is, and whether that key may make one more.

        Raises:
            RequestError: As `identify`.
        """
        notes.key_name = self.keys.identify(authorization)
        try:
            self.rates.take(notes.key_name)
        except RequestError:
            self.metrics.count_rate_limited(str(notes.key_name))
            raise

    async def identify_admin(self, request: Request, *, enabled: bool) -> None:
        """As `identify`, for what changes the service.

        Args:
            request: It.
            enabled: Whether there is what it asks for.

        Raises:
            RequestError: As `identify`; 404, it is switched off; 403, the key is no admin key.
        """
        await self.identify(request)
        if not enabled:
            raise RequestError(
                404,
                "trainer_off",
                "This service does not train",
                hint="Start it with `appliance serve --trainer`, and an admin key",
            )
        key = self.keys.find(request.headers.get("authorization"))
        if key is None or not key.admin:
            raise RequestError(
                403,
                "forbidden",
                "This key may not train",
                hint="Ask with a key of `appliance keys new NAME --admin`",
            )

    async def require_ready(self) -> None:
        """Returns when the models answer.

        Raises:
            RequestError: 503, one of them does not.
        """
        try:
            await self.pool.check_health()
        except ServiceError as error:
            raise RequestError(
                503,
                "not_ready",
                error.message,
                hint="Try again in a moment",
                headers={"Retry-After": "1"},
            ) from None

    @asynccontextmanager
    async def scoring_request(self, request: Request) -> AsyncIterator[ScoringRequest]:
        """A deadline for the time of the block, in which its `body` comes and gets a place in the gate.

        Raises:
            RequestError: 503 when too many wait, 408 and 504 when it takes too long, 499 when the client
                has hung up (nobody reads that answer; logs do).
        """
        timeout_s = self.timeout_s(request)
        scope = None
        try:
            async with asyncio.timeout(timeout_s) as timeout:
                scope = ScoringRequest(request, self, timeout)
                self.gate.check(timeout_s)
                yield scope
                scope.answered = True
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


def body_too_large(max_bytes: int) -> RequestError:
    """The error for a body, or a line of a stream, beyond the limit."""
    return RequestError(
        413,
        "body_too_large",
        f"The body is larger than {max_bytes:,} bytes",
        hint="Send a smaller picture, or fewer of them",
    )


def _client_gone() -> RequestError:
    return RequestError(499, "client_gone", "The client has hung up", hint="Nobody reads this")


def _too_late(scope: ScoringRequest | None, timeout_s: float) -> RequestError:
    if scope is not None and scope.hung_up:
        return _client_gone()
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
