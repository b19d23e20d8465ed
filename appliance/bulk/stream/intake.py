"""Reads and decodes what comes, in threads, beside the network: bounded by number and by bytes.

    source (a thread) -> waiting to be read -> read and decode (threads) -> ready

When enough is under way the source is not asked for more, so whatever waits, waits where it came from.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Literal

from appliance.bulk.stream.reading import PictureReader, Ready
from appliance.bulk.stream.sources.arrivals import Arrival, NotYet, Source

_END_S = 2.0


class Intake:
    """Pictures that are ready, in the order in which they became so.

    Args:
        source: What they come from.
        reader: Reads and decodes them.
        threads: That do so.
        max_pictures: So many may be under way at once, from the source to `take`.
        memory_bytes: Of all that have been read and not released. One picture may exceed it alone.

    Attributes:
        passed: Why pictures were not made ready, counted: `known`, or a `NotYet`.
    """

    def __init__(
        self,
        source: Source,
        reader: PictureReader,
        *,
        threads: int,
        max_pictures: int,
        memory_bytes: int,
    ) -> None:
        self.passed: Counter[str] = Counter()
        self._source, self._reader = source, reader
        self._max_pictures, self._memory_bytes = max_pictures, memory_bytes
        self._changed = threading.Condition()
        # One thread at a time waits for memory, so that a large picture is not overtaken for ever.
        self._turn = threading.Lock()
        self._unread: deque[Arrival] = deque()
        self._ready: deque[Ready] = deque()
        self._being_read = 0
        self._held_bytes = 0
        self._has_ended = self._is_stopped = self._gives_up = False
        self._stopped_s = 0.0
        self._failure: BaseException | None = None
        runs = [self._feed, *[self._work] * threads]
        # As daemons: a store that does not answer must not hold up the end.
        self._threads = [
            threading.Thread(target=self._guarded, args=(run,), daemon=True) for run in runs
        ]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def take(self, timeout_s: float) -> Ready | None:
        """The next picture that is ready, if there is one in time.

        Raises:
            BaseException: What a thread met.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._ready or self._failure or self._is_exhausted(), timeout_s
            )
            if self._failure is not None:
                raise self._failure
            if not self._ready:
                return None
            ready = self._ready.popleft()
            self._changed.notify_all()
            return ready

    def release(self, memory_bytes: int) -> None:
        """Gives back what was held for pictures."""
        with self._changed:
            self._held_bytes -= memory_bytes
            self._changed.notify_all()

    @property
    def is_exhausted(self) -> bool:
        """Whether there will be no more."""
        with self._changed:
            return self._is_exhausted()

    def stop(self) -> None:
        """Takes no more. What was taken from a source that does not last is made ready still."""
        self._source.stop()
        with self._changed:
            self._is_stopped = True
            self._stopped_s = time.monotonic()
            if self._source.is_lasting:
                self._unread.clear()
                self._gives_up = True
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the threads."""
        self._source.stop()
        with self._changed:
            self._is_stopped = self._gives_up = True
            self._unread.clear()
            self._changed.notify_all()
        end_s = time.monotonic() + _END_S
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, end_s - time.monotonic()))

    def _is_exhausted(self) -> bool:
        if self._unread or self._ready:
            return False
        if self._gives_up:
            # A store that does not answer now must not hold up the end.
            return not self._being_read or time.monotonic() > self._stopped_s + _END_S
        return self._has_ended and not self._being_read

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - it is raised where pictures are taken
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()

    def _feed(self) -> None:
        for arrival in self._source.arrivals():
            with self._changed:
                self._changed.wait_for(lambda: self._is_stopped or self._has_room())
                if self._is_stopped and self._source.is_lasting:
                    break
                self._unread.append(arrival)
                self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return len(self._unread) + self._being_read + len(self._ready) < self._max_pictures

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._unread or self._gives_up or (self._has_ended and not self._unread)
                )
                if not self._unread:
                    return
                arrival = self._unread.popleft()
                self._being_read += 1
            ready = self._read(arrival)
            with self._changed:
                self._being_read -= 1
                if ready is not None:
                    self._ready.append(ready)
                self._changed.notify_all()

    def _read(self, arrival: Arrival) -> Ready | None:
        fetched = self._reader.fetch(arrival)
        if isinstance(fetched, str):
            self._pass_by(arrival, fetched)
            return None
        if not self._hold(fetched.memory_bytes):
            return None
        decoded = self._reader.decode(fetched)
        if isinstance(decoded, str):
            self.release(fetched.memory_bytes)
            self._pass_by(arrival, decoded)
            return None
        return decoded

    def _hold(self, memory_bytes: int) -> bool:
        with self._turn, self._changed:
            self._changed.wait_for(
                lambda: (
                    self._gives_up
                    or not self._held_bytes
                    or self._held_bytes + memory_bytes <= self._memory_bytes
                )
            )
            if self._gives_up:
                return False
            self._held_bytes += memory_bytes
            return True

    def _pass_by(self, arrival: Arrival, why: NotYet | Literal["known"]) -> None:
        with self._changed:
            self.passed[why] += 1
        if why == "known":
            self._source.done(arrival)
        else:
            self._source.put_back(arrival, why)
