"""Numbers of many processes on one machine that add up, and outlive the process that counted.

Each process writes to a file of its own, mapped into its memory: counting is an addition in memory, and
the others see it at once, also after `kill -9`. Whoever reads adds up all files of the folder. A process
holds a lock on its file for as long as it lives, which the kernel takes back however the process ends.
Counters of the dead are moved into one file, so that replicas that come and go for years do not fill the
folder; their gauges are dropped.

(`prometheus_client` has a multi-process mode. A variable switches it on for a whole Python process before
the library is first imported; it never moves what the dead left behind, knows them only by numbers that
the system hands out again, and a full disk kills whoever counts.)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import mmap
import os
import secrets
import shutil
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

logger = logging.getLogger(__name__)

Key = tuple[str, ...]
"""What a number is of: the name of a metric and the values of its labels."""

_SUFFIX = ".counts"
_DEAD_FILE = "dead.json"
_LOCK_FILE = "lock"
_START_BYTES = 1 << 16
_WORD_BYTES = 8
_WORD = struct.Struct("=Q")
_NUMBER = struct.Struct("=d")


class SharedCounts:
    """The numbers of this process, and the sums of all that share its folder. Safe for threads.

    A file is a word that says how many bytes are in use, then entries: the length of a text, the text (a
    JSON list: whether it is a gauge, then the key; padded to whole words), the number.

    Args:
        folder: Where the processes of one service on this machine meet; made when it is missing, for its
            owner alone. None keeps the numbers in memory. So does a folder that cannot be used, with a
            warning: a service does not fail because it cannot be watched.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._mutex = threading.Lock()
        # Key -> where its number lies, in words from the start; never 0.
        self._counters: dict[Key, int] = {}
        self._gauges: dict[Key, int] = {}
        self._name = secrets.token_hex(8) + _SUFFIX
        self._file: int | None = None
        self.folder: Path | None = None
        if folder is not None:
            try:
                self._file = self._open(folder)
                self.folder = folder
            except OSError as error:
                logger.warning("counts are kept for this process alone: %s", error)
        self._map(-1 if self._file is None else self._file, _START_BYTES)
        self._used_bytes = _WORD_BYTES
        self._words[0] = self._used_bytes

    def add(self, key: Key, amount: float = 1.0) -> None:
        """Adds to a counter, which never falls."""
        self.add_all(((key, amount),))

    def add_all(self, amounts: Iterable[tuple[Key, float]]) -> None:
        """Adds to several counters."""
        places = self._counters
        with self._mutex:
            for key, amount in amounts:
                place = places.get(key) or self._new_place(places, key)
                self._numbers[place] += amount

    def add_to_gauge(self, key: Key, amount: float) -> None:
        """Adds to a number that ends with its process."""
        with self._mutex:
            place = self._gauges.get(key) or self._new_place(self._gauges, key)
            self._numbers[place] += amount

    def set_gauge(self, key: Key, value: float) -> None:
        """Sets a number that ends with its process."""
        with self._mutex:
            place = self._gauges.get(key) or self._new_place(self._gauges, key)
            self._numbers[place] = value

    def totals(self) -> dict[Key, float]:
        """Sums over all processes that share the folder; of the dead, counters only."""
        sums: dict[Key, float] = {}
        with self._mutex:
            _add_up(sums, self._bytes[: self._used_bytes], with_gauges=True)
        if self.folder is not None:
            try:
                self._add_others(self.folder, sums)
            except OSError as error:
                logger.warning("counts of other processes cannot be read: %s", error)
        return sums

    def close(self) -> None:
        """Leaves the numbers to the others, as the end of the process would; counting goes on unseen."""
        with self._mutex:
            used = self._bytes[: self._used_bytes]
            self._map(-1, len(self._bytes))
            self._bytes[: len(used)] = used
            if self._file is not None:
                os.close(self._file)
            self._file = self.folder = None

    def _open(self, folder: Path) -> int:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "The folder belongs to somebody else", str(folder))
        with _alone_in(
            folder
        ):  # before it is locked, a reader would take it for that of a dead process
            file = os.open(folder / self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                # Room is taken before it is used: on a full disk a write to memory ends the process.
                os.posix_fallocate(file, 0, _START_BYTES)
            except OSError:
                os.close(file)
                raise
        return file

    def _map(self, file: int, size_bytes: int) -> None:
        self._bytes = mmap.mmap(file, size_bytes)
        self._words = memoryview(self._bytes).cast("Q")
        self._numbers = memoryview(self._bytes).cast("d")

    def _new_place(self, places: dict[Key, int], key: Key) -> int:
        """Where the number of `key` lies from now on, in words from the start; may replace `_numbers`."""
        text = json.dumps([places is self._gauges, *key]).encode()
        text += b" " * (-len(text) % _WORD_BYTES)
        start = self._used_bytes
        end = start + len(text) + 2 * _WORD_BYTES
        if end > len(self._bytes):
            self._grow()
        self._words[start // _WORD_BYTES] = len(text)
        self._bytes[start + _WORD_BYTES : end - _WORD_BYTES] = text
        self._used_bytes = end
        self._words[0] = end  # last, so that nobody reads half an entry
        place = end // _WORD_BYTES - 1
        places[key] = place
        return place

    def _grow(self) -> None:
        used, size_bytes = self._bytes[: self._used_bytes], 2 * len(self._bytes)
        try:
            if self._file is not None:
                os.posix_fallocate(self._file, 0, size_bytes)
            self._map(-1 if self._file is None else self._file, size_bytes)
        except OSError as error:
            logger.warning("from here on, counts are kept for this process alone: %s", error)
            self._map(-1, size_bytes)
        self._bytes[: len(used)] = used

    def _add_others(self, folder: Path, sums: dict[Key, float]) -> None:
        with _alone_in(folder):
            dead = _Dead.read(folder)
            moved: list[Path] = []
            for path in folder.glob(f"*{_SUFFIX}"):
                if (
                    path.name in dead.moved
                ):  # whoever moved them was killed before removing the file
                    path.unlink()
                elif path.name != self._name and _is_of_the_dead(path):
                    _add_up(dead.sums, path.read_bytes(), with_gauges=False)
                    moved.append(path)
                elif path.name != self._name:
                    _add_up(sums, path.read_bytes(), with_gauges=True)
            for key, value in dead.sums.items():
                sums[key] = sums.get(key, 0.0) + value
            if moved:
                _Dead(dead.sums, [path.name for path in moved]).write(folder)
                for path in moved:
                    path.unlink()


def remove_abandoned(base: Path, older_than_s: float) -> None:
    """Removes folders of counts below `base` that nobody has and that have been left alone for so long.

    Raises:
        OSError: There is no such folder, or something in it cannot be removed.
    """
    newest_s = time.time() - older_than_s
    for folder in base.iterdir():
        with _alone_in(folder):
            files = list(folder.iterdir())
            if all(path.stat().st_mtime < newest_s for path in files) and all(
                _is_of_the_dead(path) for path in files if path.suffix == _SUFFIX
            ):
                shutil.rmtree(folder)


@dataclass
class _Dead:
    """What processes counted that are no more.

    Attributes:
        sums: All their counters.
        moved: Files that are contained in `sums`, should they still be there.
    """

    sums: dict[Key, float] = field(default_factory=dict)
    moved: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> _Dead:
        try:
            content = json.loads((folder / _DEAD_FILE).read_bytes())
        except FileNotFoundError:
            return cls()
        return cls({tuple(key): value for key, value in content["sums"]}, content["moved"])

    def write(self, folder: Path) -> None:
        content = {"sums": [[key, value] for key, value in self.sums.items()], "moved": self.moved}
        unfinished = folder / f"{_DEAD_FILE}.unfinished"
        unfinished.write_text(json.dumps(content))
        unfinished.replace(folder / _DEAD_FILE)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Holds the lock of the folder; the kernel opens it again should this process be killed."""
    file = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _is_of_the_dead(path: Path) -> bool:
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def _add_up(sums: dict[Key, float], content: bytes, *, with_gauges: bool) -> None:
    """Adds the entries of a file to `sums`."""
    used_bytes = _WORD.unpack_from(content)[0] if content else 0
    at = _WORD_BYTES
    while at < used_bytes:
        number_at = at + _WORD_BYTES + _WORD.unpack_from(content, at)[0]
        is_gauge, *parts = json.loads(content[at + _WORD_BYTES : number_at])
        if with_gauges or not is_gauge:
            key = tuple(parts)
            sums[key] = sums.get(key, 0.0) + _NUMBER.unpack_from(content, number_at)[0]
        at = number_at + _WORD_BYTES
