"""What has been scored, and what is under way: the memory of a stream, which outlives any kill.

    reserve (the keys of a batch)  ->  its part is written under the name of its number  ->  finish

Each step is one transaction that is on the disk when it returns. After a kill a batch that is reserved and not
finished is looked for: if its part is there it is finished now, and if not it is forgotten, so that its
pictures come anew. So each picture is in exactly one part. That a batch has to be posted, and that it was, is
written in the same file.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from appliance.errors import StorageError

_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE batches (
    number INTEGER PRIMARY KEY, day TEXT NOT NULL, finished INTEGER NOT NULL DEFAULT 0,
    rows INTEGER NOT NULL DEFAULT 0, post TEXT, failure TEXT
);
CREATE INDEX posts ON batches (post, number) WHERE post IS NOT NULL;
CREATE TABLE reserved (number INTEGER NOT NULL, key BLOB NOT NULL);
CREATE TABLE scored (key BLOB PRIMARY KEY) WITHOUT ROWID;
"""
_KEYS_AT_ONCE = 500

PostState = Literal["waiting", "delivered", "dead", "dead_written"]


@dataclass(frozen=True)
class Batch:
    """A micro-batch.

    Attributes:
        number: From 0; stands in the name of its part.
        day: `YYYY-MM-DD` in UTC of its reservation, by the clock of this machine; only for the name.
    """

    number: int
    day: str


@dataclass(frozen=True)
class Reservation:
    """A batch that was reserved.

    Attributes:
        batch: It.
        fresh: Which of the pictures given are in it, by their places; the others were scored before.
    """

    batch: Batch
    fresh: tuple[int, ...]


def key_of(image_uri: str, identity: str) -> bytes:
    """What the ledger knows a picture by."""
    text = f"{identity}\0{image_uri}".encode(errors="surrogateescape")
    return hashlib.blake2b(text, digest_size=16).digest()


class Ledger:
    """One file, held by one process; its threads may share it.

    Args:
        path: The file; made if there is none.

    Raises:
        StorageError: It cannot be used, is no ledger, or another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        with self._failures():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False
            )
        try:
            with self._failures():
                self._open()
        except BaseException:
            self._database.close()
            raise

    def _open(self) -> None:
        # One process alone: the index of the log then lies in memory, which also serves network disks.
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        with self._transaction():
            if not self._rows("SELECT name FROM sqlite_master WHERE name = 'batches'"):
                for statement in _TABLES.strip().split(";\n"):
                    self._database.execute(statement)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._database.close()

    def about(self) -> dict[str, Any] | None:
        """What `begin` was told; None before.

        Raises:
            StorageError: The file cannot be read.
        """
        with self._failures():
            found = self._rows("SELECT name, value FROM about")
        return {name: json.loads(value) for name, value in found} or None

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Writes down what the stream is.

        Raises:
            StorageError: The file cannot be written.
        """
        rows = [(name, json.dumps(value)) for name, value in facts.items()]
        with self._failures(), self._transaction():
            self._database.executemany("INSERT INTO about VALUES (?, ?)", rows)

    def scored(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of the keys that have been scored.

        Raises:
            StorageError: The file cannot be read.
        """
        found: set[bytes] = set()
        with self._failures():
            for first in range(0, len(keys), _KEYS_AT_ONCE):
                some = keys[first : first + _KEYS_AT_ONCE]
                marks = ",".join("?" * len(some))
                query = f"SELECT key FROM scored WHERE key IN ({marks})"  # noqa: S608 - marks only
                found.update(key for (key,) in self._rows(query, some))
        return found

    def reserve(self, keys: Sequence[bytes], day: str) -> Reservation | None:
        """Begins a batch of those pictures that have not been scored, each once; None if all have been.

        Raises:
            StorageError: The file cannot be written.
        """
        with self._failures(), self._transaction():
            known = self.scored(keys)
            fresh: dict[bytes, int] = {}
            for place, key in enumerate(keys):
                if key not in known:
                    fresh.setdefault(key, place)
            if not fresh:
                return None
            ((number,),) = self._rows("SELECT COALESCE(MAX(number) + 1, 0) FROM batches")
            self._database.execute("INSERT INTO batches (number, day) VALUES (?, ?)", (number, day))
            self._database.executemany(
                "INSERT INTO reserved VALUES (?, ?)", [(number, key) for key in fresh]
            )
        return Reservation(Batch(number, day), tuple(fresh.values()))

    def unfinished(self) -> list[Batch]:
        """Batches that were reserved and not finished.

        Raises:
            StorageError: The file cannot be read.
        """
        with self._failures():
            found = self._rows("SELECT number, day FROM batches WHERE NOT finished")
        return [Batch(*row) for row in found]

    def reserved_rows(self, number: int) -> int:
        """Pictures of a batch that is not finished.

        Raises:
            StorageError: The file cannot be read.
        """
        with self._failures():
            ((rows,),) = self._rows("SELECT COUNT(*) FROM reserved WHERE number = ?", (number,))
        return int(rows)

    def finish(self, number: int, *, to_post: bool, remember: bool = True) -> None:
        """The part of a batch is there.

        Args:
            number: Of the batch.
            to_post: Whether it has to be posted.
            remember: Whether its pictures may come again.

        Raises:
            StorageError: The file cannot be written.
        """
        of_batch = (number,)
        with self._failures(), self._transaction():
            if remember:
                self._database.execute(
                    "INSERT OR IGNORE INTO scored SELECT key FROM reserved WHERE number = ?",
                    of_batch,
                )
            self._database.execute(
                "UPDATE batches SET finished = 1, post = ?,"
                " rows = (SELECT COUNT(*) FROM reserved WHERE reserved.number = batches.number)"
                " WHERE number = ?",
                ("waiting" if to_post else None, number),
            )
            self._database.execute("DELETE FROM reserved WHERE number = ?", of_batch)

    def forget(self, number: int) -> None:
        """A batch that was reserved has no part.

        Raises:
            StorageError: The file cannot be written.
        """
        with self._failures(), self._transaction():
            self._database.execute("DELETE FROM reserved WHERE number = ?", (number,))
            self._database.execute("DELETE FROM batches WHERE number = ?", (number,))

    def first(self, state: PostState) -> tuple[Batch, str | None] | None:
        """The first batch in such a state of its posting, and why it failed if it did.

        Raises:
            StorageError: The file cannot be read.
        """
        with self._failures():
            found = self._rows(
                "SELECT number, day, failure FROM batches WHERE post = ? ORDER BY number LIMIT 1",
                (state,),
            )
        return (Batch(*found[0][:2]), found[0][2]) if found else None

    def set_post(self, number: int, state: PostState, failure: str | None = None) -> None:
        """Writes down what became of the posting of a batch.

        Raises:
            StorageError: The file cannot be written.
        """
        with self._failures(), self._transaction():
            self._database.execute(
                "UPDATE batches SET post = ?, failure = ? WHERE number = ?",
                (state, failure, number),
            )

    def posts(self, state: PostState) -> int:
        """Batches in such a state of their posting.

        Raises:
            StorageError: The file cannot be read.
        """
        with self._failures():
            ((count,),) = self._rows("SELECT COUNT(*) FROM batches WHERE post = ?", (state,))
        return int(count)

    def rows(self) -> int:
        """Records of all finished batches.

        Raises:
            StorageError: The file cannot be read.
        """
        with self._failures():
            ((rows,),) = self._rows("SELECT COALESCE(SUM(rows), 0) FROM batches")
        return int(rows)

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            held = "locked" in str(error)
            raise StorageError(
                "The ledger of the stream cannot be used",
                where=self.path,
                got="another process that holds it" if held else str(error),
                hint="End that process"
                if held
                else "See whether the disk is full or the file damaged",
            ) from None
