"""Open files that containers read from: several at once at any place, or one from front to back."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from appliance import storage

_SEQUENTIAL_BYTES = 2**20


class StreamPool:
    """Streams of one file, as many as threads read from it at once; each request goes its own way.

    Args:
        uri: The file.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._idle: list[BinaryIO] = []

    @contextmanager
    def stream(self) -> Iterator[BinaryIO]:
        """A stream for one thread, at any position.

        Raises:
            StorageError: It cannot be opened, or its store fails.
        """
        try:
            stream = self._idle.pop()
        except IndexError:
            stream = storage.open_input(self._uri)
        try:
            yield stream
        finally:
            self._idle.append(stream)

    def close(self) -> None:
        """Closes those that nobody uses."""
        while self._idle:
            self._idle.pop().close()


def open_sequential(uri: str) -> BinaryIO:
    """Opens a file that is read from front to back; a remote one is fetched in ranges of 1 MiB.

    Raises:
        StorageError: It is not there or cannot be opened.
    """
    return io.BufferedReader(cast(io.RawIOBase, storage.open_input(uri)), _SEQUENTIAL_BYTES)
