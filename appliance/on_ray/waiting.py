"""Items that come from elsewhere, with a limit to how long each may take."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from concurrent.futures import Future, wait
from contextlib import closing
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


class StandstillError(TimeoutError):
    """An item did not come in time; not to be confused with what the items themselves time out with."""


def each_within(items: Generator[T, None, None], timeout_s: float) -> Generator[T, None, None]:
    """Yields the items, each fetched in another thread, so that one that never comes can be given up.

    One is fetched when it is asked for, none ahead. Who stops asking closes `items` by that, as if there were no
    thread between; only when an item was given up nobody closes them, and the thread waits on until the process ends.

    Args:
        items: Where they come from.
        timeout_s: How long to wait for each.

    Raises:
        StandstillError: One did not come in time.
        BaseException: What `items` raises.
    """
    asked: queue.SimpleQueue[Future[list[T]] | None] = queue.SimpleQueue()

    def fetch() -> None:
        with closing(items):
            while (wish := asked.get()) is not None:
                try:
                    wish.set_result(list(islice(items, 1)))
                except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for it
                    wish.set_exception(error)

    # A daemon: one that hangs must not keep the process from ending.
    thread = threading.Thread(target=fetch, name="each-within", daemon=True)
    thread.start()
    try:
        while True:
            wish: Future[list[T]] = Future()
            asked.put(wish)
            if not wait([wish], timeout_s).done:
                raise StandstillError(f"nothing came in {timeout_s:.0f} s")
            item = wish.result()
            if not item:
                return
            yield item[0]
    except GeneratorExit:
        asked.put(None)
        thread.join(timeout_s)
        raise
    finally:
        asked.put(None)
