"""Reading many small files at once, in order, with a bar once it takes long.

Thousands of pictures in a bucket answer one by one in minutes, thirty at a time in seconds. At most a few
results wait to be taken, however many there are.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from appliance import storage

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
R = TypeVar("R")

PATIENCE_S = 2.0
_WORKERS_LOCAL = 4
_WORKERS_REMOTE = 32


def read_in_order(read: Callable[[T], R], items: Sequence[T], *, root: str) -> Iterator[R]:
    """Calls `read` for every item in a few threads; yields the results in the order of `items`.

    Args:
        read: Reads one. What it raises is raised here, for the first item that fails.
        items: What to read.
        root: Where it lies: a bucket is asked by more threads than a disk.
    """
    workers = _WORKERS_REMOTE if storage.is_remote(root) else _WORKERS_LOCAL
    pool = ThreadPoolExecutor(workers, "annotations")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def with_bar(
    items: Iterable[T],
    *,
    total: int,
    what: str,
    patience_s: float = PATIENCE_S,
    console: Console | None = None,
) -> Iterator[T]:
    """Passes `items` on; shows a bar on stderr once that has taken longer than `patience_s`.

    Args:
        items: What is waited for.
        total: How many they will be.
        what: What is being done, for people.
        patience_s: How long to wait before the bar appears, seconds.
        console: Where it appears; by default stderr, if a person looks at it.
    """
    started = time.monotonic()
    iterator = iter(items)
    done = 0
    for item in iterator:
        done += 1
        yield item
        if time.monotonic() - started >= patience_s:
            break
    else:
        return
    from rich.console import Console
    from rich.progress import Progress

    console = console or Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, completed=done)
        for item in iterator:
            bar.advance(task)
            yield item
