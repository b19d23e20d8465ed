"""Where a service is, and the key that opens it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from appliance.errors import ConfigError, ServiceError

KEY_VARIABLE = "APPLIANCE_KEY"
_CONTRACT_END = "/score"


@dataclass(frozen=True)
class Address:
    """The address of a service.

    Attributes:
        base_url: Without a slash at its end.
    """

    base_url: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Reads an address; that of its `/score` names the same service.

        Raises:
            ServiceError: It is no http or https address of a service.
            ConfigError: It holds a password.
        """
        try:
            parts = urlsplit(url)
            _ = parts.port  # raises for what is no number
        except ValueError:
            raise _no_address(url) from None
        if "@" in parts.netloc:
            raise ConfigError(
                "The address of a service must not hold a password",
                got=_shown(parts),
                hint=f"Give the key as `key`, or in {KEY_VARIABLE}",
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise _no_address(url)
        if parts.query or parts.fragment:
            raise _no_address(_shown(parts), "without ? and #")
        return cls(url.rstrip("/").removesuffix(_CONTRACT_END).rstrip("/"))

    def url_of(self, path: str) -> str:
        """The address of a route, such as `/readyz`."""
        return self.base_url + path


def without_secrets(url: str) -> str:
    """An address as it may be shown and logged: queries may be signed, and hosts may have passwords."""
    return _shown(urlsplit(url))


def _shown(parts: SplitResult) -> str:
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _no_address(url: str, more: str = "") -> ServiceError:
    return ServiceError(
        "Not the address of a service",
        got=url,
        expected=f"such as http://127.0.0.1:8000{more and ', '}{more}",
    )


class Key:
    """A key that no text of an error, log or debugger shows.

    Args:
        text: The key; None takes the variable `APPLIANCE_KEY`, and empty means none.

    Raises:
        ConfigError: It holds what no key has: blanks, line breaks, other than ASCII.
    """

    def __init__(self, text: str | None) -> None:
        self._text = (os.environ.get(KEY_VARIABLE, "") if text is None else text).strip()
        if any(not "!" <= character <= "~" for character in self._text):
            raise ConfigError(
                "The key holds characters that no key has",
                expected="letters, digits and marks of ASCII, as `appliance keys new` prints it",
            )

    def __repr__(self) -> str:
        return "Key('...')" if self._text else "Key('')"

    @property
    def headers(self) -> dict[str, str]:
        """What a request carries."""
        return {"Authorization": f"Bearer {self._text}"} if self._text else {}
