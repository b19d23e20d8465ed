"""No key is used more often than its limit allows.

The limit holds in each replica: replicas share nothing, so N of them let N times as much through.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from appliance.access_keys import RateLimit
from serve_app.errors import RequestError

_ROUNDING = 1e-6  # of a token, so that who comes after exactly Retry-After is let in


class RateLimits:
    """A token bucket for each key: a request takes a token, time brings them back. Belongs to one event loop.

    Args:
        rate_of: The limit of a key by its name, or None for as often as one likes; asked at every request, so
            that a new key file counts at once. A key whose limit changes begins with a full bucket.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        rate_of: Callable[[str], RateLimit | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate_of = rate_of
        self._clock = clock
        # When the bucket of a key would be full again: one number says all of it, and a refusal changes nothing.
        self._full_at_s: dict[tuple[str, RateLimit], float] = {}

    def take(self, key_name: str | None) -> None:
        """Counts one request, whatever the number of its pictures.

        Args:
            key_name: Whose; None, when keys are off, is never refused.

        Raises:
            RequestError: 429, the key has been used too often; Retry-After says when the next one passes.
        """
        limit = None if key_name is None else self._rate_of(key_name)
        if key_name is None or limit is None:
            return
        now_s = self._clock()
        full_at_s = max(now_s, self._full_at_s.get((key_name, limit), now_s))
        beyond = (full_at_s - now_s) * limit.per_s - (limit.burst - 1)
        if beyond > _ROUNDING:
            raise RequestError(
                429,
                "rate_limited",
                f"The key {key_name} may be used {limit.text} (at once: {limit.burst})",
                hint="Try again after the seconds in Retry-After, or ask for a higher limit",
                headers={"Retry-After": str(math.ceil(beyond / limit.per_s))},
            )
        self._full_at_s[key_name, limit] = full_at_s + 1 / limit.per_s
