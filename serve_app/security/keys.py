"""The Bearer keys that open scoring."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from serve_app.errors import RequestError


class KeyRing:
    """The Bearer keys that open scoring; an empty ring leaves it open."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = [key.encode() for key in keys]

    @property
    def required(self) -> bool:
        """Whether keys are on."""
        return bool(self._keys)

    def identify(self, authorization: str | None) -> str | None:
        """Looks at an Authorization header; the name of its key, or None when keys are off.

        Raises:
            RequestError: 401, keys are on and this is none of them.
        """
        if not self._keys:
            return None
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
        return f"key-{matches.index(True) + 1}"
