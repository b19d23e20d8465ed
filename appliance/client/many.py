"""Many pictures, a few at once: results in order or as they come, pictures asked for as there is room."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from typing import Any, TypeVar

from appliance.client.event_loop import result_of
from appliance.errors import ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")
_END: Any = object()


def window_of(concurrency: int, *, ordered: bool) -> int:
    """How many pictures may be taken whose results have not been given back yet.

    In order, one slow picture holds back the results of those behind it, which are to go on meanwhile.

    Raises:
        ConfigError: `concurrency` is below 1.
    """
    if concurrency < 1:
        raise ConfigError("concurrency is out of range", got=concurrency, expected="1 or more")
    return 2 * concurrency if ordered else concurrency


async def results_async(
    items: AsyncIterable[Item] | Iterable[Item],
    work: Callable[[int, Item], Coroutine[Any, Any, Result]],
    *,
    window: int,
    ordered: bool,
) -> AsyncGenerator[Result]:
    """One result an item, at most `window` items being taken and not given back.

    What is in work when the iteration ends early is cancelled.

    Args:
        items: A plain iterable is asked in the event loop.
        work: Makes the result of an item and its index.
        window: From 1.
        ordered: In the order of the items, or as they are ready.
    """
    source = aiter(asynchronous(items))
    tasks: deque[asyncio.Task[Result]] = deque()
    pull: asyncio.Task[Item] | None = None
    ended, count = False, 0
    try:
        while True:
            if pull is None and not ended and len(tasks) < window:
                pull = asyncio.create_task(_next(source))
            if pull is None and not tasks:
                return
            awaited = [tasks[0]] if ordered and tasks else list(tasks)
            waited: set[asyncio.Future[Any]] = {*awaited, *([] if pull is None else [pull])}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if pull is not None and pull.done():
                item, pull = pull.result(), None
                if item is _END:
                    ended = True
                else:
                    tasks.append(asyncio.create_task(work(count, item)))
                    count += 1
            for task in _ready(tasks, ordered=ordered):
                yield task.result()
    finally:
        unfinished = [task for task in (*tasks, pull) if task is not None]
        for unwanted in unfinished:
            unwanted.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)


def results_sync(
    items: Iterable[Item],
    submit: Callable[[int, Item], concurrent.futures.Future[Result]],
    *,
    window: int,
    ordered: bool,
) -> Iterator[Result]:
    """The same for a caller without an event loop, in whose thread the items are asked for.

    Args:
        items: Any iterable.
        submit: Starts the work on an item with its index.
        window: From 1.
        ordered: In the order of the items, or as they are ready.
    """
    futures: deque[concurrent.futures.Future[Result]] = deque()
    try:
        for index, item in enumerate(items):
            futures.append(submit(index, item))
            for future in _ready(futures, ordered=ordered):
                yield result_of(future)
            if len(futures) >= window:
                yield result_of(_first(futures, ordered=ordered))
        while futures:
            yield result_of(_first(futures, ordered=ordered))
    finally:
        for future in futures:
            future.cancel()


async def _next(source: AsyncIterator[Item]) -> Item:
    return await anext(source, _END)


async def asynchronous(items: AsyncIterable[Item] | Iterable[Item]) -> AsyncGenerator[Item]:
    """Any iterable as an asynchronous one."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def _ready(futures: deque[Any], *, ordered: bool) -> Iterator[Any]:
    """Takes out what is done: all of it, or what is at the front."""
    if ordered:
        while futures and futures[0].done():
            yield futures.popleft()
        return
    for future in [one for one in futures if one.done()]:
        futures.remove(future)
        yield future


def _first(
    futures: deque[concurrent.futures.Future[Result]], *, ordered: bool
) -> concurrent.futures.Future[Result]:
    """Takes out the one whose turn is next, done or not; out of order, one that is done."""
    if ordered:
        return futures.popleft()
    done, _ = concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_COMPLETED)
    future = done.pop()
    futures.remove(future)
    return future
