"""One attempt to post the records of a batch, and what its answer means."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from appliance.errors import ConfigError
from appliance.records import Record

_TIMEOUT_S = 30.0
_TOO_MANY = 429
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What became of an attempt.

    Attributes:
        failure: None if the batch was taken.
        may_succeed: Whether the same may be taken later.
        wait_s: How long the server asks to wait, seconds.
    """

    failure: str | None = None
    may_succeed: bool = False
    wait_s: float = 0.0


class Webhook:
    """An address that takes records: a POST of NDJSON a batch, one record a line.

    The header `Idempotency-Key` is the same for every attempt to send the same batch: who takes a batch and
    sees the key again has it already.

    Args:
        url: `http://` or `https://`.

    Raises:
        ConfigError: It is no such address, or holds a password.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                "The webhook is no web address", got=url, expected="http://... or https://..."
            )
        if "@" in parts.netloc:
            raise ConfigError(
                "The address of the webhook must not hold a password",
                got=parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
                hint="Put a proxy before it that adds what is secret",
            )
        self.url = url
        self._opener = urllib.request.build_opener(_NoRedirects)

    def post(self, batch_id: str, body: bytes) -> Answer:
        """Sends a batch once; never raises."""
        request = urllib.request.Request(  # noqa: S310 - the scheme was looked at
            self.url,
            data=body,
            headers={"Content-Type": "application/x-ndjson", "Idempotency-Key": batch_id},
            method="POST",
        )
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as response:
                response.read()
            return Answer()
        except urllib.error.HTTPError as error:
            with error:
                may_succeed = error.code == _TOO_MANY or error.code >= http.HTTPStatus(500)
                asked = error.headers.get("Retry-After", "") if may_succeed else ""
            wait_s = min(float(asked), _LONGEST_WAIT_S) if asked.isdecimal() else 0.0
            return Answer(f"HTTP status {error.code}", may_succeed, wait_s)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            return Answer(str(reason) or type(error).__name__, may_succeed=True)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would turn the POST into a GET."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Leaves the answer as it is, which is an error then."""


def to_ndjson(records: Sequence[Record]) -> bytes:
    """One record a line."""
    return b"".join(json.dumps(record.to_row()).encode() + b"\n" for record in records)
