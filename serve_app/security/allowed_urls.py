"""Which URLs may be fetched: https, a host on the operator's list, its port, no credentials."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import SplitResult, quote, urlsplit

from yarl import URL

from serve_app.errors import RequestError

_MAX_CHARACTERS = 8192  # a URL that is signed may have some thousands
_HTTPS_PORT = 443
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# At least two labels, and the last begins with a letter: 127.1, 0x7f.1 or 2130706433 are no host names.
_HOST = re.compile(rf"(?:{_LABEL}\.)+(?=[a-z]){_LABEL}")
_NEVER_IN_A_URL = re.compile(r"[\x00-\x20\x7f\\\u0080-\u009f\u2028\u2029\ud800-\udfff]")


class AllowedUrls:
    """The list of hosts that pictures may be fetched from.

    Args:
        hosts: `pictures.example.com`, `*.example.com` (all below it, not itself), either with `:8443` for
            another port than 443. Addresses are no host names.

    Raises:
        ValueError: An entry is none of these.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        self._entries = frozenset(_parse_entry(entry) for entry in hosts)

    def check(self, url: str) -> URL:
        """The URL as it may be asked for: host in ASCII without a dot at its end, no fragment.

        It is put together anew from the parts that have been checked, so that whoever sends the request cannot
        read it in another way.

        Raises:
            RequestError: 422, it is no URL; 403, it may not be fetched.
        """
        parts, port = _split(url)
        if parts.scheme != "https":
            raise _refused("Pictures are fetched from https URLs only")
        if "@" in parts.netloc:
            raise _refused("A URL with a user name or password is not fetched")
        host = _ascii_host(parts.hostname or "")
        if host is None:
            raise _refused("The host of the URL is not a full host name")
        if not self._allows(host, port):
            where = host if port == _HTTPS_PORT else f"{host}:{port}"
            raise _refused(f"The service does not fetch pictures from {where}")
        return URL.build(
            scheme="https",
            host=host,
            port=port,
            path=_quoted(parts.path) or "/",
            query_string=_quoted(parts.query),
            encoded=True,
        )

    def _allows(self, host: str, port: int) -> bool:
        if (host, port) in self._entries:
            return True
        labels = host.split(".")
        return any(
            (".".join(["*", *labels[count:]]), port) in self._entries
            for count in range(1, len(labels) - 1)
        )


def _parse_entry(entry: str) -> tuple[str, int]:
    name, mark, port_text = entry.strip().partition(":")
    wildcard = "*." if name.startswith("*.") else ""
    host = _ascii_host(name.removeprefix("*."))
    port = int(port_text) if re.fullmatch(r"[0-9]{1,5}", port_text) else 0
    if host is None or (mark and not 1 <= port <= 65535):
        raise ValueError(
            f"{entry!r} is no host: expected a name as pictures.example.com, *.example.com"
        )
    return wildcard + host, port if mark else _HTTPS_PORT


def _split(url: str) -> tuple[SplitResult, int]:
    try:
        if len(url) > _MAX_CHARACTERS or _NEVER_IN_A_URL.search(url):
            raise ValueError
        parts = urlsplit(url)
        if not parts.scheme or not parts.netloc:
            raise ValueError
        return parts, _HTTPS_PORT if parts.port is None else parts.port
    except ValueError:
        raise RequestError(
            422,
            "invalid_url",
            f"That is no URL (expected at most {_MAX_CHARACTERS:,} characters as https://host/path)",
            hint="Send a full URL without spaces, or the picture itself",
        ) from None


def _ascii_host(host: str) -> str | None:
    """A host name as DNS has it, or None for anything else, numeric addresses among it."""
    try:
        name = (URL.build(scheme="https", host=host.removesuffix(".")).raw_host or "").lower()
    except ValueError:
        return None
    return name if len(name) <= 253 and _HOST.fullmatch(name) else None


def _quoted(text: str) -> str:
    """Leaves what is encoded as it is: signatures of stores count each character."""
    return quote(text, safe="%/:?@!$&'()*+,;=~-._")


def _refused(message: str) -> RequestError:
    return RequestError(
        403,
        "url_not_allowed",
        message,
        hint="Send the picture itself, or have the operator add its host to url_hosts",
    )
