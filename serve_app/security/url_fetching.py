"""Fetches pictures from URLs that clients send, without becoming a way into the operator's own networks."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from serve_app.errors import RequestError
from serve_app.security.addresses import is_public
from serve_app.security.allowed_urls import AllowedUrls

if TYPE_CHECKING:
    from serve_app.settings import ServiceSettings

Resolve = Callable[[str], Awaitable[list[str]]]
"""From a host name to its numeric addresses; raises OSError when there are none."""

_MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_CONNECTIONS = 64
_MAX_CONNECTIONS_PER_HOST = 16  # one slow host must not keep all the others waiting
_CHUNK_BYTES = 64 * 2**10
_DNS_THREADS = 4
_HEADERS = {
    "Accept": "image/*",
    # Pictures are packed already, and what unpacks to more than its limit cannot come.
    "Accept-Encoding": "identity",
    "User-Agent": "detection-appliance",
}


class UrlFetcher:
    """Fetches what lies at URLs of the hosts on a list. Belongs to one event loop.

    The name of a host is looked up once for each connection, all its addresses must be public, and the
    connection goes to what was looked at. Redirects are followed only to what could have been asked for itself.
    There are no cookies, no credentials, no proxies from the environment, no compressed answers.

    Args:
        hosts: See `AllowedUrls`.
        max_bytes: Largest answer.
        timeout_s: Longest time for one picture, redirects included.
        resolve: Looks names up; by default the system does.
        also_allowed: Networks that are no public ones and may be connected to all the same.
        ssl_context: Whose certificates are believed; by default those of the system.

    Raises:
        ValueError: An entry of `hosts` is no host.
    """

    def __init__(
        self,
        hosts: Iterable[str],
        max_bytes: int = 16 * 2**20,
        timeout_s: float = 10,
        *,
        resolve: Resolve | None = None,
        also_allowed: Iterable[IPv4Network | IPv6Network] = (),
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._urls = AllowedUrls(hosts)
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._ssl_context = ssl_context or ssl.create_default_context()
        self._session: aiohttp.ClientSession | None = None
        self._resolver = _CheckedResolver(resolve, tuple(also_allowed))

    @classmethod
    def of(cls, settings: ServiceSettings) -> UrlFetcher | None:
        """The fetcher of a service, or None where its settings switch fetching off."""
        if not settings.url_hosts:
            return None
        return cls(settings.url_hosts, settings.max_url_bytes, settings.url_timeout_s)

    async def fetch(self, url: str, take: Callable[[int], None] | None = None) -> bytes:
        """The bytes at `url`.

        Args:
            url: As the client has sent it.
            take: Told how many bytes have come, again and again; may end it by a RequestError of its own, so that
                many URLs in one request are no way around limits for bodies.

        Raises:
            RequestError: 422 `invalid_url`; 403 `url_not_allowed`; 413 `url_too_large`; 424 `url_unreachable`,
                `url_timeout` and `url_bad_answer`. The last three are no 5xx, because the fault is neither the
                service's nor a gateway's: balancers would take replicas out whose clients send dead links.
        """
        allowed = self._urls.check(url)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._follow(allowed, take)
        except TimeoutError:
            raise RequestError(
                424,
                "url_timeout",
                f"The picture did not come from its URL within {self._timeout_s:g} seconds",
                hint="Send the picture itself, or try again later",
            ) from None
        except aiohttp.ClientConnectionError as error:
            # Its text has addresses.
            started = isinstance(error, aiohttp.ServerDisconnectedError)
            raise (_bad_answer("the connection broke off") if started else _unreachable()) from None
        except aiohttp.ClientPayloadError:
            raise _bad_answer("the connection broke off") from None
        except aiohttp.ClientError:
            raise _bad_answer("that is not HTTP") from None

    async def close(self) -> None:
        """Closes the connections; nothing is fetched after that."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        await self._resolver.close()  # aiohttp closes only its own

    async def _follow(self, url: URL, take: Callable[[int], None] | None) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            async with self._open_session().get(url, allow_redirects=False) as answer:
                if answer.status not in _REDIRECTS:
                    return await self._content(answer, take)
                location = answer.headers.get("Location", "")
            url = self._redirected(url, location)
        raise _bad_answer(f"more than {_MAX_REDIRECTS} redirects")

    def _redirected(self, url: URL, location: str) -> URL:
        try:
            return self._urls.check(urljoin(str(url), location))
        except (RequestError, ValueError):
            # Where it leads to is not for whoever sent the URL to learn.
            raise RequestError(
                403,
                "url_not_allowed",
                "The URL redirects to a place that the service does not fetch pictures from",
                hint="Send the picture itself",
            ) from None

    async def _content(
        self, answer: aiohttp.ClientResponse, take: Callable[[int], None] | None
    ) -> bytes:
        if answer.status != 200:
            raise _bad_answer(f"status {answer.status}")
        if answer.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise _bad_answer("a compressed answer, which was not asked for")
        if (answer.content_length or 0) > self._max_bytes:
            raise _too_large(self._max_bytes)
        content = bytearray()
        async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
            content += chunk
            if len(content) > self._max_bytes:
                raise _too_large(self._max_bytes)
            if take is not None:
                take(len(chunk))
        return bytes(content)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=self._resolver,
                use_dns_cache=False,
                ssl=self._ssl_context,
                limit=_MAX_CONNECTIONS,
                limit_per_host=_MAX_CONNECTIONS_PER_HOST,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers=_HEADERS,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None),  # that of `fetch` counts
            )
        return self._session


class _CheckedResolver(AbstractResolver):
    """Gives aiohttp the addresses to connect to, and none that is not allowed.

    aiohttp asks nobody about numeric hosts; `AllowedUrls` lets none of them come so far.
    """

    def __init__(
        self, resolve: Resolve | None, also_allowed: tuple[IPv4Network | IPv6Network, ...]
    ) -> None:
        # Threads of its own: name servers that do not answer must not hold up the decoding of pictures.
        self._threads = ThreadPoolExecutor(_DNS_THREADS, thread_name_prefix="names")
        self._look_up = resolve or self._ask_system
        self._also_allowed = also_allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await self._look_up(host)
        if not addresses:
            raise OSError("no addresses")
        if not all(self._is_allowed(address) for address in addresses):
            # A public name with a private address among its own is no mistake that one works around.
            raise RequestError(
                403,
                "url_not_allowed",
                "The host of the URL is not on the public internet",
                hint="Send the picture itself",
            )
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": socket.IPPROTO_TCP,
                "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            }
            for address in addresses
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _is_allowed(self, address: str) -> bool:
        if is_public(address):
            return True
        parsed = ip_address(address)
        return any(parsed in network for network in self._also_allowed)

    async def _ask_system(self, host: str) -> list[str]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads,
            lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM),
        )
        return [str(address[0]) for *_, address in found]


def _unreachable() -> RequestError:
    return RequestError(
        424,
        "url_unreachable",
        "The host of the URL cannot be reached, or its certificate is not valid",
        hint="Check the URL, or send the picture itself",
    )


def _bad_answer(what: str) -> RequestError:
    return RequestError(
        424,
        "url_bad_answer",
        f"The URL did not answer with a picture (got {what})",
        hint="Check the URL, or send the picture itself",
    )


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(
        413,
        "url_too_large",
        f"What lies at the URL is larger than {max_bytes:,} bytes",
        hint="Use a smaller picture, or fewer of them",
    )
