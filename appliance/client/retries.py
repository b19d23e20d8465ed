"""When a request is made again, and after how long.

Only what may pass is tried again: 429, 503, and connections that end before an answer has begun. Clients that
were refused together must not come back together, nor ever more often: each waits a random time out of a range
that doubles, never less than the service asks for, a limited number of times, and only while the picture's own
time lasts. Whoever waits keeps its place among those that the caller allows at once, so that retries replace
requests and do not come on top.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from appliance.errors import ConfigError, ServiceCallError


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and after how long.

    Attributes:
        max_attempts: From 1, which is never again.
        first_wait_s: The first wait is at most so long.
        longest_wait_s: No wait is longer, unless the service asks for it.
        uniform: Draws a number between two.
    """

    max_attempts: int = 5
    first_wait_s: float = 0.25
    longest_wait_s: float = 8.0
    uniform: Callable[[float, float], float] = field(default=random.uniform, repr=False)

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigError(
                "max_attempts is out of range", got=self.max_attempts, expected="1 or more"
            )

    def wait_s(self, error: ServiceCallError, attempt: int, left_s: float) -> float | None:
        """How long to wait before the next attempt, or None when there is to be none.

        Args:
            error: What became of the last.
            attempt: Its number, from 1.
            left_s: The time that is left for all of it.
        """
        if not error.transient or attempt >= self.max_attempts:
            return None
        longest_s = min(self.longest_wait_s, self.first_wait_s * 2.0 ** (attempt - 1))
        wait_s = (error.retry_after_s or 0.0) + self.uniform(0.0, longest_s)
        return wait_s if wait_s < left_s else None


class Deadline:
    """The time that a request has, all attempts together.

    Args:
        timeout_s: Above 0.

    Raises:
        ConfigError: It is not.
    """

    def __init__(self, timeout_s: float) -> None:
        if not timeout_s > 0:
            raise ConfigError("timeout_s is out of range", got=timeout_s, expected="above 0")
        self.timeout_s = timeout_s
        self._end_s = time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        """What is left of it, at least 0."""
        return max(0.0, self._end_s - time.monotonic())


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What the header Retry-After asks for, in seconds; None when there is none that can be read.

    A date is one of the server's clock, which the header Date tells.

    Args:
        headers: Of an answer, by names in any case.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    at, now = _date(text), _date(headers.get("Date", "")) or datetime.now(UTC)
    return None if at is None else max(0.0, (at - now).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
