"""Batches of decoded pictures, made ready by threads while the network is busy, in bounded memory.

    names -> fetch (threads) -> batches by count and bytes -> decode (threads) -> batch

Which pictures make a batch follows from the pictures alone, never from who was faster: the same part gives
the same batches, and so the same records to the bit, on every attempt.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from appliance.bulk.inputs.containers import Content, Fetch, Frame
from appliance.bulk.inputs.listing import PictureRef
from appliance.bulk.inputs.retries import unread, with_retries
from appliance.errors import ApplianceError, ImageError, StorageError
from appliance.images.decoding import decoded_bytes

T = TypeVar("T")

MEMORY_BYTES = 512 * 2**20
"""For decoded pictures that wait, of one worker. One picture may exceed it: then it is alone."""
_BATCHES_AHEAD = 2


class StageSeconds:
    """Seconds that threads spent in each stage, added up."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def measured(self, stage: str) -> Iterator[None]:
        """Adds the time of the block to a stage."""
        started_s = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[stage] += time.perf_counter() - started_s

    def taken(self) -> dict[str, float]:
        """The seconds so far, which start anew from 0."""
        with self._lock:
            seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds


@dataclass(frozen=True)
class _Fetched:
    ref: PictureRef
    content: Content | ApplianceError
    memory_bytes: int


class DecodeAhead(Generic[T]):
    """Reads and decodes in threads; give each part to `batches`.

    Args:
        decode: Makes of a picture, or of the error met on reading it, what a batch consists of. Called
            in threads; must not raise.
        min_shorter_side_px: As `decode` gives it to `decode_image`, to foresee how much memory that needs.
        threads: That decode; reading has its own.
        readers: Threads that read: more than `threads` where a network makes them wait.
        batch_size: Pictures of a batch at most.
        seconds: Told of the stages `read` and `decode`.
        memory_bytes: For decoded pictures; a batch has at most half of it.
    """

    def __init__(
        self,
        decode: Callable[[PictureRef, Content | ApplianceError], T],
        *,
        min_shorter_side_px: int,
        threads: int,
        readers: int,
        batch_size: int,
        seconds: StageSeconds,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._decode = decode
        self._min_shorter_side_px = min_shorter_side_px
        self._batch_size = batch_size
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._reading_at_once = readers
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="read")
        # Containers are gone through by one thread, which may decode a video, beside the network.
        self._in_order = ThreadPoolExecutor(1, thread_name_prefix="in-order")

    def batches(self, pictures: Iterator[tuple[PictureRef, Fetch]]) -> Iterator[list[T]]:
        """The pictures of a part, in their order.

        Args:
            pictures: Gone through in a thread of its own; must not raise.
        """
        groups = self._grouped(self._fetched(pictures))
        ahead: deque[tuple[int, list[Future[T]]]] = deque()
        group = next(groups, None)
        while group is not None or ahead:
            while group is not None and len(ahead) < _BATCHES_AHEAD:
                group_bytes = sum(fetched.memory_bytes for fetched in group)
                if ahead and sum(held for held, _ in ahead) + group_bytes > self._memory_bytes:
                    break
                ahead.append((group_bytes, [self._start(fetched) for fetched in group]))
                group = next(groups, None)
            _, decoding = ahead.popleft()
            yield [future.result() for future in decoding]

    def _fetched(self, pictures: Iterator[tuple[PictureRef, Fetch]]) -> Iterator[_Fetched]:
        reading: deque[Future[_Fetched | None]] = deque()
        while True:
            while len(reading) < self._batch_size + self._reading_at_once:
                advanced = self._in_order.submit(next, pictures, None)
                reading.append(self._readers.submit(self._fetch, advanced))
            fetched = reading.popleft().result()
            if fetched is None:
                return
            yield fetched

    def _fetch(self, advanced: Future[tuple[PictureRef, Fetch] | None]) -> _Fetched | None:
        with self._seconds.measured("read"):
            picture = advanced.result()
            if picture is None:
                return None
            ref, fetch = picture
            content: Content | ApplianceError
            try:
                content = with_retries(fetch)
            except ImageError as error:
                content = error
            except StorageError as error:
                content = unread(error)
        return _Fetched(ref, content, self._needed_bytes(content))

    def _needed_bytes(self, content: Content | ApplianceError) -> int:
        if isinstance(content, bytes):
            return decoded_bytes(content, self._min_shorter_side_px)
        return content.image.pixels.nbytes if isinstance(content, Frame) else 0

    def _grouped(self, pictures: Iterator[_Fetched]) -> Iterator[list[_Fetched]]:
        group: list[_Fetched] = []
        group_bytes = 0
        for fetched in pictures:
            too_many = group_bytes + fetched.memory_bytes > self._memory_bytes // 2
            if group and (len(group) == self._batch_size or too_many):
                yield group
                group, group_bytes = [], 0
            group.append(fetched)
            group_bytes += fetched.memory_bytes
        if group:
            yield group

    def _start(self, fetched: _Fetched) -> Future[T]:
        def decode() -> T:
            with self._seconds.measured("decode"):
                return self._decode(fetched.ref, fetched.content)

        return self._decoders.submit(decode)
