"""One writer at a time in a folder: the second is refused, and a dead one never stands in the way.

On a disk the kernel holds the lock of a process and drops it at its death, whatever way that comes. An
object store has no locks. There every writer keeps a lease, an object that it writes anew every few seconds:
who finds a lease of somebody else watches it for a while, gives way if it changes, and takes the place of
its owner if it does not. No clocks are compared. Of two that come in the same seconds, both may give way;
never do both go on.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from appliance import storage
from appliance.errors import InUseError, ServiceError, StorageError
from appliance.storage import folders
from appliance.storage.failures import reason

logger = logging.getLogger(__name__)

LOCK = "_lock"
LEASE = "_lease-"
BEAT_S = 5.0
PATIENCE_S = 20.0


@dataclass(frozen=True)
class Wording:
    """How sentences call those who write and where.

    Attributes:
        writer: Who holds the place.
        place: What is held.
        folder: The folder of it on a disk.
        when_refused: Next step of who comes second.
        when_lost: Next step of who was taken for dead.
    """

    writer: str = "job"
    place: str = "output"
    folder: str = "output folder"
    when_refused: str = "Wait for its end, or name another folder"
    when_lost: str = "See which of them is wanted"


class Ownership:
    """What an owner can ask before it does what cannot be undone."""

    def check(self) -> None:
        """Returns while the place is ours.

        Raises:
            ServiceError: Another writer took it over, since we had been silent for long.
        """


@contextmanager
def owned(
    folder_uri: str,
    *,
    beat_s: float = BEAT_S,
    patience_s: float = PATIENCE_S,
    wording: Wording = Wording(),
) -> Iterator[Ownership]:
    """Holds a folder for the length of a block.

    Args:
        folder_uri: The folder or prefix; a local folder must exist.
        beat_s: In a store, how often the lease is renewed.
        patience_s: In a store, how long a lease must not change until its owner counts as dead.
        wording: For sentences.

    Raises:
        InUseError: Another writer holds it.
        StorageError: It cannot be written.
    """
    if storage.is_remote(folder_uri):
        lease = _Lease(folder_uri, beat_s, wording)
        lease.take(patience_s)
        try:
            yield lease
        finally:
            lease.give_back()
        return
    path = storage.local_path(folder_uri) / LOCK
    descriptor = _lock(path, wording)
    try:
        yield Ownership()
    finally:
        path.unlink(missing_ok=True)  # before it is unlocked, so that nobody locks a file that goes
        os.close(descriptor)


def _me() -> dict[str, Any]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def _refused(folder_uri: object, owner: str, wording: Wording) -> InUseError:
    try:
        told = json.loads(owner)
        got = f"process {told['pid']} on {told['host']}, since {told['since']}"
    except (ValueError, KeyError, TypeError):
        got = "another process"
    return InUseError(
        f"Another {wording.writer} writes to this {wording.place}",
        where=folder_uri,
        got=got,
        hint=wording.when_refused,
    )


def _lock(path: Path, wording: Wording) -> int:
    """An open descriptor that holds the lock of the file, which it makes."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StorageError(
                f"Cannot write to the {wording.folder}",
                where=path.parent,
                got=reason(error),
                hint="Check the permissions, or choose another folder",
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 4096, 0).decode(errors="replace")
            os.close(descriptor)
            raise _refused(path.parent, owner, wording) from None
        except OSError as error:
            os.close(descriptor)
            raise StorageError(
                f"The file system of the {wording.place} cannot lock files",
                where=path.parent,
                got=reason(error),
                hint="Write to another file system, or to an object store",
            ) from None
        if _is_same_file(descriptor, path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_me()).encode(), 0)
            return descriptor
        os.close(descriptor)  # its owner had removed it before it let go


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


class _Lease(Ownership):
    def __init__(self, folder_uri: str, beat_s: float, wording: Wording) -> None:
        self._folder_uri = folder_uri
        self._wording = wording
        self._name = f"{LEASE}{uuid.uuid4().hex}.json"
        self._uri = storage.join(folder_uri, self._name)
        self._beat_s = beat_s
        self._beats = 0
        self._me = _me()
        self._ended = threading.Event()
        self._lost = False
        self._beating = threading.Thread(target=self._beat, name="lease", daemon=True)

    def take(self, patience_s: float) -> None:
        self._write()
        self._beating.start()
        try:
            found = self._others()
            if found:
                logger.info(
                    "waiting up to %.0f s to see whether another %s on %s is alive",
                    patience_s,
                    self._wording.writer,
                    self._folder_uri,
                )
            end_s = time.monotonic() + patience_s
            while found and time.monotonic() < end_s:
                self._ended.wait(min(1.0, self._beat_s))
                now = self._others()
                for name, text in now.items():
                    if text != found.get(name):
                        raise _refused(self._folder_uri, text, self._wording)
                found = now
            for name in found:
                folders.remove_file(storage.join(self._folder_uri, name))
        except BaseException:
            self.give_back()
            raise

    def check(self) -> None:
        if self._lost or not folders.exists(self._uri):
            raise ServiceError(
                f"Another {self._wording.writer} has taken over the {self._wording.place}",
                where=self._folder_uri,
                got="no sign of life from this one for long",
                hint=self._wording.when_lost,
            )

    def give_back(self) -> None:
        self._ended.set()
        self._beating.join()
        try:
            folders.remove_file(self._uri)
        except StorageError as error:
            logger.warning("%s", error.message)

    def _others(self) -> dict[str, str]:
        found = {}
        for name in folders.entries(self._folder_uri):
            if name.startswith(LEASE) and name != self._name:
                uri = storage.join(self._folder_uri, name)
                try:
                    found[name] = storage.read_bytes(uri).decode()
                except StorageError:
                    # It was given back since; some stores fail in other ways where that comes amid the reading.
                    if folders.exists(uri):
                        raise
        return found

    def _write(self) -> None:
        self._beats += 1
        storage.write_bytes(self._uri, json.dumps({**self._me, "beat": self._beats}).encode())

    def _beat(self) -> None:
        while not self._ended.wait(self._beat_s):
            try:
                if not folders.exists(self._uri):
                    self._lost = True
                    return
                self._write()
            except StorageError as error:
                place = self._wording.place
                logger.warning("cannot renew the hold on the %s: %s", place, error.message)
