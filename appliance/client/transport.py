"""One attempt over the wire, with aiohttp, and what becomes of it in plain words."""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
from yarl import URL

from appliance.client.access import Address, Key, without_secrets
from appliance.client.answers import Answer
from appliance.client.pictures import MAX_PICTURE_BYTES
from appliance.client.requests import Request
from appliance.client.retries import Deadline
from appliance.errors import (
    ForeignAnswerError,
    ImageError,
    ServiceCallError,
    ServiceTimeoutError,
    ServiceUnreachableError,
)

_CONNECT_TIMEOUT_S = 10.0
_MAX_ANSWER_BYTES = 256 * 2**20
_LARGE_BODY_BYTES = 2**20
_REDIRECTS = 5
_START = "Start one with `appliance serve MODEL`, or check host and port"


class Transport:
    """Connections to one service. Belongs to the event loop in which it is made.

    Args:
        address: Of the service.
        key: Sent to the service, and to nobody else.
        ssl_context: Which authorities to trust; None takes the system's.
    """

    def __init__(self, address: Address, key: Key, ssl_context: ssl.SSLContext | None) -> None:
        self._address = address
        self._key = key
        self._session = aiohttp.ClientSession(
            # How many there are at once is the business of the caller.
            connector=aiohttp.TCPConnector(limit=0, ssl=ssl_context or True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Ends all connections."""
        await self._session.close()

    async def send(self, request: Request, deadline: Deadline) -> Answer:
        """One attempt.

        Args:
            request: What to ask.
            deadline: The service is told what is left.

        Raises:
            ServiceCallError: No answer came, or none that is HTTP.
        """
        body: Any = request.body or None
        if len(request.body) > _LARGE_BODY_BYTES:
            body = io.BytesIO(
                request.body
            )  # goes out in pieces, between which others have their turn
        url = self._address.url_of(request.path)
        left_s = deadline.left_s
        with self._explained(request.what, deadline.timeout_s):
            async with (
                asyncio.timeout(left_s),
                self._session.request(
                    request.method,
                    URL(url, encoded=True),
                    data=body,
                    headers={
                        **request.headers,
                        **self._key.headers,
                        "X-Request-Timeout-Ms": str(max(1, int(1000 * left_s))),
                    },
                    allow_redirects=False,  # a POST would become a GET, and the key go elsewhere
                ) as response,
            ):
                _end_with_connection(response)
                try:
                    received = await self._received(response, _MAX_ANSWER_BYTES)
                except (aiohttp.ClientError, ConnectionError) as error:
                    raise ServiceUnreachableError(
                        "The connection was cut within an answer",
                        where=self._address.base_url,
                        got=_reason(error),
                    ) from None
        if received is None:
            raise ForeignAnswerError(
                "The answer is larger than any of the appliance", where=self._address.base_url
            )
        return Answer(response.status, response.headers, received, url)

    @contextlib.asynccontextmanager
    async def open_stream(
        self, path: str, lines: AsyncIterator[bytes], content_type: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A request whose body goes out while its answer comes in.

        Raises:
            ServiceCallError: In the block, as `send`.
        """
        with self._explained("a stream", math.inf):
            async with self._session.post(
                URL(self._address.url_of(path), encoded=True),
                data=lines,
                headers={"Content-Type": content_type, **self._key.headers},
                allow_redirects=False,
            ) as response:
                _end_with_connection(response)
                yield response

    async def fetch(self, url: str, timeout_s: float) -> bytes:
        """A picture of the web, without the key.

        Raises:
            ImageError: It cannot be fetched, or is too large.
        """
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.get(url, max_redirects=_REDIRECTS) as response,
            ):
                data = await self._received(response, MAX_PICTURE_BYTES)
        except (aiohttp.ClientError, OSError, ValueError, ssl.SSLError) as error:
            # TimeoutError is an OSError; ValueError: an address that leads to none.
            raise _not_fetched(url, "unreachable", got=_reason(error)) from None
        if response.status != 200:
            raise _not_fetched(url, "unreachable", got=f"status {response.status}")
        if data is None:
            raise _not_fetched(url, "too_large", expected=f"at most {MAX_PICTURE_BYTES:,} bytes")
        return data

    async def _received(self, response: aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
        """The body, or None if it is larger."""
        chunks, length = [], 0
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            length += len(chunk)
            if length > max_bytes:
                response.close()
                return None
        return b"".join(chunks)

    @contextlib.contextmanager
    def _explained(self, what: str, timeout_s: float) -> Iterator[None]:
        where = self._address.base_url
        try:
            yield
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            raise _no_connection(error, where) from None
        except TimeoutError:
            raise ServiceTimeoutError(
                "The service has not answered in time",
                where=what,
                expected=f"an answer within {timeout_s:.3g} s",
                hint="Give it more time with timeout_s, or send smaller pictures",
            ) from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            raise ServiceUnreachableError(
                "The service has cut the connection",
                where=where,
                got=_reason(error),
                hint="See the log of the service, or of what stands in between",
                transient=True,
            ) from None
        except aiohttp.ClientError as error:
            raise ForeignAnswerError(
                "It is not the appliance that answers",
                where=where,
                got=f"no HTTP: {_reason(error)}",
                hint="Check host and port, and whether the address begins with https://",
            ) from None


def _no_connection(error: Exception, where: str) -> ServiceCallError:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return ServiceUnreachableError(
            "The service's certificate is not trusted",
            where=where,
            got=getattr(error.certificate_error, "verify_message", "") or _reason(error),
            hint="Name its authority in SSL_CERT_FILE, or give an ssl_context that trusts it",
        )
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return ServiceUnreachableError(
            "There is no TLS at the address of the service",
            where=where,
            got=_reason(error),
            hint="Check the port, and whether the address begins with http://",
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ServiceUnreachableError(
            "There is no host of this name", where=where, hint="Check the address of the service"
        )
    return ServiceUnreachableError(
        "The service does not answer", where=where, got=_reason(error), hint=_START, transient=True
    )


def _not_fetched(url: str, kind: str, **facts: Any) -> ImageError:
    return ImageError(
        "The picture cannot be fetched", where=without_secrets(url), kind=kind, **facts
    )


def _end_with_connection(response: aiohttp.ClientResponse) -> None:
    """Sees to it that whoever reads the answer hears of the end of its connection.

    Where a connection breaks just as the end of a body is written, aiohttp 3.14 closes it and forgets to tell the
    reader, which would wait for ever.
    """

    def tell() -> None:
        if not response.content.is_eof():
            response.content.set_exception(aiohttp.ServerDisconnectedError())

    connection = response.connection
    if connection is None or connection.protocol is None:
        tell()
    else:
        connection.add_callback(tell)


def _reason(error: Exception) -> str:
    """In words without the address, which stands beside."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    inner = getattr(error, "os_error", None) or error
    if isinstance(inner, OSError) and not isinstance(inner, ssl.SSLError) and inner.errno:
        return os.strerror(inner.errno)
    return " ".join(str(inner).split())[:200] or type(error).__name__
