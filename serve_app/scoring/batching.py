"""Dynamic batching: single items in, batches to a worker thread, single results out.

Knows nothing of pictures, models, HTTP or Ray, so that it can be tested with `2 * x + 1`.

Why not `@serve.batch`: it waits its full time-out also when nobody else is on the way (at one
connection that is pure latency), an exception fails a whole batch, requests whose client has gone stay
in it, and it cannot run without Serve. Here a batch leaves at once when it is full, when its oldest
item has waited long enough, or when the owner says that nothing more is coming; and while as many batches
run as may, the next one gathers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

from appliance.errors import ServiceError
from serve_app.scoring.timings import Timings

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Entry(Generic[Item, Result]):
    item: Item
    answer: asyncio.Future[Result]
    since_s: float
    timings: Timings | None


class Batcher(Generic[Item, Result]):
    """Gathers items of concurrent callers into batches; all methods belong to one event loop.

    Args:
        process: Runs in `executor` with 1 to `max_batch_size` items and returns as many results, in
            order. When it raises for several items, it is called again with each alone, so that an
            error reaches only the item that causes it.
        executor: Where `process` runs; it has a thread for each of `max_running`. The caller owns it.
        max_batch_size: Most items of a batch.
        max_running: Most batches at a time.
        wait_timeout_s: Longest time an item waits for company while the worker is idle.
        expects_more: Says whether further items are on the way; when not, nothing waits.
    """

    def __init__(
        self,
        process: Callable[[Sequence[Item]], Sequence[Result]],
        executor: Executor,
        *,
        max_batch_size: int,
        wait_timeout_s: float,
        max_running: int = 1,
        expects_more: Callable[[], bool] = lambda: True,
    ) -> None:
        self._process = process
        self._executor = executor
        self._max_batch_size = max_batch_size
        self._max_running = max_running
        self._wait_timeout_s = wait_timeout_s
        self._expects_more = expects_more
        self._queue: deque[_Entry[Item, Result]] = deque()
        self._changed = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def waiting(self) -> int:
        """Items that wait for a batch, those of the running one not counted."""
        return len(self._queue)

    @property
    def healthy(self) -> bool:
        """Whether items given now would be worked on."""
        return not self._closing and (self._worker is None or not self._worker.done())

    async def submit(self, item: Item, timings: Timings | None = None) -> Result:
        """Waits for the result of `item`; cancelling the caller takes it out of the queue.

        Args:
            item: What to work on.
            timings: Where to note how long it waited, and how long its batch took.

        Raises:
            ServiceError: The batcher has been closed.
            Exception: What `process` raised for this item.
        """
        if self._closing:
            raise ServiceError("The service is shutting down", hint="Try again in a moment")
        loop = asyncio.get_running_loop()
        if self._worker is None:
            self._worker = loop.create_task(self._work(), name="batcher")
        entry = _Entry[Item, Result](item, loop.create_future(), time.perf_counter(), timings)
        self._queue.append(entry)
        self._changed.set()
        try:
            return await entry.answer
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):  # its batch may be running already
                self._queue.remove(entry)
            raise

    async def close(self) -> None:
        """Refuses new items and returns when all that were accepted have their answer."""
        self._closing = True
        self._changed.set()
        if self._worker is not None:
            await self._worker

    async def _work(self) -> None:
        running: set[asyncio.Task[None]] = set()
        while True:
            if len(running) == self._max_running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            await self._gather()
            if not self._queue:
                break
            size = min(len(self._queue), self._max_batch_size)
            batch = [self._queue.popleft() for _ in range(size)]
            running.add(asyncio.create_task(self._run(batch), name="batch"))
        await asyncio.gather(*running)

    async def _gather(self) -> None:
        """Returns when a batch should leave, or with an empty queue when closed."""
        loop = asyncio.get_running_loop()
        while not self._closing and len(self._queue) < self._max_batch_size:
            if not self._queue:
                remaining_s = None
            elif self._expects_more():
                remaining_s = self._queue[0].since_s + self._wait_timeout_s - time.perf_counter()
            else:
                return
            if remaining_s is not None and remaining_s <= 0:
                return
            self._changed.clear()
            alarm = None if remaining_s is None else loop.call_later(remaining_s, self._changed.set)
            await self._changed.wait()
            if alarm is not None:
                alarm.cancel()

    async def _run(self, batch: list[_Entry[Item, Result]]) -> None:
        items = [entry.item for entry in batch]
        loop = asyncio.get_running_loop()
        start_s = time.perf_counter()  # the time of uvloop counts in milliseconds
        try:
            results = await loop.run_in_executor(self._executor, self._processed, items)
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to the caller
            if len(batch) == 1:
                if not batch[0].answer.done():
                    batch[0].answer.set_exception(error)
                return
            for entry in batch:
                await self._run([entry])
            return
        took_s = time.perf_counter() - start_s
        for entry, result in zip(batch, results, strict=True):
            if entry.timings is not None:
                entry.timings.add("batch_wait", start_s - entry.since_s)
                entry.timings.add("model", took_s)
            if not entry.answer.done():  # done means that its caller was cancelled meanwhile
                entry.answer.set_result(result)

    def _processed(self, items: list[Item]) -> Sequence[Result]:
        results = self._process(items)
        if len(results) != len(items):
            raise RuntimeError(f"{len(items)} items gave {len(results)} results")
        return results
