"""Writing what is too large to hold: piece by piece, and still there whole or not at all.

A local file grows beside its target and takes its name at the end. An object store could take the pieces as
they come, but Arrow cannot abandon an upload: to close one, or even to forget it, publishes what was sent so
far. So what goes to a store is gathered in a temporary file first, and is uploaded when it is complete.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import BinaryIO

from appliance import storage
from appliance.errors import StorageError
from appliance.storage.failures import explained, reason

_PIECE_BYTES = 8 * 2**20
_UNSENT_BYTES = 32 * 2**20
_AZURE = ("az://", "abfs://", "abfss://")


class Output:
    """Takes the pieces of a file, in their order."""

    def __init__(
        self, file: BinaryIO, failures: Callable[[], contextlib.AbstractContextManager[None]]
    ) -> None:
        self._file = file
        self._failures = failures

    def write(self, data: bytes) -> None:
        """Adds a piece.

        Raises:
            StorageError: It cannot be written.
        """
        with self._failures():
            self._file.write(data)


class Spool(Output):
    """A temporary file without a name: written first, then read; gone when its block ends."""

    def pieces(self) -> Iterator[bytes]:
        """All that was written, from its beginning, some megabytes at a time.

        Raises:
            StorageError: What was buffered cannot be written, or it cannot be read.
        """
        with self._failures():
            self._file.seek(0)
            piece = self._file.read(_PIECE_BYTES)
        while piece:
            yield piece
            with self._failures():
                piece = self._file.read(_PIECE_BYTES)


@contextlib.contextmanager
def open_spool(uri: str | os.PathLike[str]) -> Iterator[Spool]:
    """A temporary file on the disk that `uri` will be on; for an object store in the folder of `TMPDIR`.

    Raises:
        StorageError: No file can be made there.
    """
    remote = storage.is_remote(uri)
    folder = tempfile.gettempdir() if remote else str(storage.local_path(uri).parent)
    failures = functools.partial(_spool_failures, folder)
    with contextlib.ExitStack() as stack:
        with failures():
            os.makedirs(folder, exist_ok=True)
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by the stack
        stack.callback(_close_quietly, file)
        yield Spool(file, failures)


@contextlib.contextmanager
def open_output(uri: str | os.PathLike[str]) -> Iterator[Output]:
    """Opens a file to be written in pieces. It appears, or replaces what was there, when the block ends.

    Where the block raises, nothing appears. An upload that breaks off may show for a moment; it is removed.

    Raises:
        StorageError: It cannot be written.
    """
    if storage.is_remote(uri):
        with open_spool(uri) as spool:
            yield spool
            _upload(spool, str(uri))
        return
    path = storage.local_path(uri)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    failures = functools.partial(explained, "Cannot write the file", uri)
    with contextlib.ExitStack() as stack:
        with failures():
            storage.refuse_odd_target(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            file = temporary.open("xb")
        stack.callback(temporary.unlink, missing_ok=True)
        stack.callback(_close_quietly, file)
        yield Output(file, failures)
        with failures():
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)


def _upload(spool: Spool, uri: str) -> None:
    with explained("Cannot write the file", uri):
        filesystem, path = storage.open_store(uri)
        stream = filesystem.open_output_stream(path)
        unsent = 0
        try:
            for piece in spool.pieces():
                stream.write(piece)
                unsent += len(piece)
                # Arrow sends in the background and lets any amount wait in memory, until it is told to
                # flush. Not in Azure, where a flush would show what has been sent so far.
                if unsent >= _UNSENT_BYTES and not uri.startswith(_AZURE):
                    stream.flush()
                    unsent = 0
            stream.close()
        except BaseException:
            with contextlib.suppress(StorageError), explained("Cannot remove the file", uri):
                stream.close()
                filesystem.delete_file(path)
            raise


def _close_quietly(file: BinaryIO) -> None:
    # What is still buffered when a disk is full fails once more.
    with contextlib.suppress(OSError):
        file.close()


@contextlib.contextmanager
def _spool_failures(folder: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise StorageError(
            "Cannot use a temporary file",
            where=folder,
            got=reason(error),
            hint="Free space there; TMPDIR names the folder for what goes to an object store",
        ) from None
