"""An event loop in a thread of its own, for callers that have none, or have one that must not be held up."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from appliance.errors import ServiceError

Result = TypeVar("Result")


class EventLoopThread:
    """Runs coroutines for any number of threads."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: a program that forgets to close its client ends all the same.
        self._thread = threading.Thread(target=self._run, name="appliance-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def submit(self, coroutine: Coroutine[Any, Any, Result]) -> concurrent.futures.Future[Result]:
        """Starts a coroutine; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancels what still runs, runs a last coroutine, and ends the thread."""
        ended = self.submit(_end(last))
        # Also when it has ended already, and the callback runs in this thread.
        ended.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._loop.stop))
        # The collector of garbage may come by in any thread, also in this one, which cannot wait for itself.
        if threading.current_thread() is not self._thread:
            self._thread.join()


def result_of(future: concurrent.futures.Future[Result]) -> Result:
    """Waits for a result.

    Raises:
        ServiceError: The client was closed meanwhile.
        KeyboardInterrupt: Ctrl-C; the work is cancelled.
    """
    try:
        return future.result()
    except concurrent.futures.CancelledError:
        raise ServiceError("The client was closed before the answer came") from None
    finally:
        future.cancel()


async def _end(last: Coroutine[Any, Any, None]) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await last
    await asyncio.get_running_loop().shutdown_default_executor()
