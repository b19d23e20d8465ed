"""A service as requests see it: pictures made ready, answers after as many attempts as they may take."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from appliance.client.access import Address, Key
from appliance.client.answers import Answer, accepted
from appliance.client.pictures import (
    Picture,
    ReadyPicture,
    default_name,
    is_web_address,
    ready_picture,
)
from appliance.client.requests import Request
from appliance.client.retries import Deadline, RetryPolicy
from appliance.errors import (
    ForeignAnswerError,
    ServiceCallError,
    ServiceError,
    ServiceTimeoutError,
)

if TYPE_CHECKING:
    from appliance.client.transport import Transport

_READY = Request("", "/readyz")
_POLL_S = (0.05, 1.0)
"""How long to wait between two looks whether a service is ready: at first, and at most."""


class ServiceConnection:
    """Asks one service, from one event loop.

    Args:
        address: Of the service.
        key: That opens it.
        timeout_s: For each picture, unless another is given.
        policy: When to try again.
        ssl_context: Which authorities to trust; None takes the system's.

    Raises:
        ConfigError: `timeout_s` is not above 0.
    """

    def __init__(
        self,
        address: Address,
        key: Key,
        timeout_s: float,
        policy: RetryPolicy,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self.address = address
        self.policy = policy
        self.closed = False
        self._key = key
        self._timeout_s = Deadline(timeout_s).timeout_s
        self._ssl_context = ssl_context
        self._transport: Transport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def deadline(self, timeout_s: float | None) -> Deadline:
        """The time that a request has from now on.

        Raises:
            ConfigError: `timeout_s` is not above 0.
        """
        return Deadline(self._timeout_s if timeout_s is None else timeout_s)

    def transport(self) -> Transport:
        """The connections, made when they are first asked for.

        Raises:
            ServiceError: They are closed, or belong to another event loop.
        """
        if self.closed:
            raise ServiceError("The client is closed", where=self.address.base_url)
        loop = asyncio.get_running_loop()
        if self._transport is None:
            from appliance.client.transport import Transport  # aiohttp takes its time to import

            self._transport = Transport(self.address, self._key, self._ssl_context)
            self._loop = loop
        if self._loop is not loop:
            raise ServiceError(
                "An AsyncClient belongs to the event loop that used it first",
                hint="Make one in each loop, or use Client",
            )
        return self._transport

    async def close(self) -> None:
        """Ends all connections."""
        self.closed = True
        if self._transport is not None:
            await self._transport.close()

    async def ready_picture(
        self, picture: Picture, name: str | None, deadline: Deadline
    ) -> ReadyPicture:
        """Reads, encodes or fetches a picture.

        Raises:
            InputError: It cannot be.
        """
        name = default_name(picture) if name is None else name
        if is_web_address(picture):
            return ReadyPicture(name, await self.transport().fetch(str(picture), deadline.left_s))
        return await asyncio.to_thread(ready_picture, picture, name)

    async def answer(self, request: Request, deadline: Deadline) -> Answer:
        """The answer to a request, tried again as the policy has it.

        Raises:
            ServiceCallError: That of the last attempt.
        """
        attempt = 1
        while True:
            try:
                return await self._attempt(request, deadline)
            except ServiceCallError as error:
                error.attempts = attempt
                wait_s = self.policy.wait_s(error, attempt, deadline.left_s)
                if wait_s is None:
                    raise
            await asyncio.sleep(wait_s)
            attempt += 1

    async def answer_once(self, request: Request, deadline: Deadline) -> Answer:
        """The answer to a request that must not come twice: one attempt.

        Raises:
            ServiceCallError: What came of it.
        """
        return await self._attempt(request, deadline)

    async def is_ready(self, deadline: Deadline) -> bool:
        """Whether the service answers and its model does; asks once.

        Raises:
            ServiceCallError: What never passes.
        """
        try:
            await self._attempt(_READY, deadline)
        except ServiceTimeoutError:
            return False
        except ServiceCallError as error:
            if not error.transient:
                raise
            return False
        return True

    async def wait_until_ready(self, timeout_s: float) -> None:
        """Asks again and again until the service is ready.

        Raises:
            ServiceTimeoutError: It is not in that time.
            ServiceCallError: What never passes.
        """
        deadline = Deadline(timeout_s)
        wait_s, longest_s = _POLL_S
        while True:
            try:
                await self._attempt(_READY, deadline)
            except ServiceCallError as error:
                # What stands in front of a service answers before it does.
                may_come = error.transient or isinstance(
                    error, ForeignAnswerError | ServiceTimeoutError
                )
                if not may_come:
                    raise
                if deadline.left_s <= wait_s:
                    raise ServiceTimeoutError(
                        "The service is not ready",
                        where=self.address.base_url,
                        got=error.message,
                        expected=f"that it answers within {timeout_s:g} s",
                    ) from None
            else:
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, longest_s)

    async def _attempt(self, request: Request, deadline: Deadline) -> Answer:
        return accepted(await self.transport().send(request, deadline), request.what)
