"""Reads again what a network or a store did not give, a little later each time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from appliance.errors import ImageError, StorageError

T = TypeVar("T")

DELAYS_S = (0.5, 2.0, 8.0)
"""Before the second, third and fourth attempt; each is stretched by up to a half, by chance, so that
thousands of readers do not come back in the same moment. pyarrow's own attempts come on top."""


def with_retries(fetch: Callable[[], T], delays_s: tuple[float, ...] = DELAYS_S) -> T:
    """What `fetch` gives, sooner or later.

    Raises:
        StorageError: It failed for good, or again after the last delay.
    """
    for delay_s in delays_s:
        try:
            return fetch()
        except StorageError as error:
            if not error.transient:
                raise
        time.sleep(delay_s * random.uniform(1.0, 1.5))
    return fetch()


def unread(error: StorageError) -> ImageError:
    """The error of a picture that could not be had."""
    kind = "unreachable" if error.transient else "missing"
    return ImageError(error.what, kind=kind, where=error.where, got=error.got)
