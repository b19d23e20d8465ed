"""Where a stream writes: one Parquet file a micro-batch, in a folder for each day, as a data set that grows.

    OUTPUT/
      parts/date=YYYY-MM-DD/part-00000000-RUN.parquet ...   the records; RUN is the ledger they belong to
      _ledger.sqlite                                        what has been scored; of a local output
      _summary.json                                         counts and speed, now and then
      _dead_letters.jsonl                                   batches that the webhook did not take

`pandas.read_parquet(OUTPUT)`, pyarrow datasets (both skip names that begin with an underscore) and DuckDB on
`OUTPUT/parts/**/*.parquet` read it at any time: a part appears whole, and never changes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from appliance import storage
from appliance.bulk.scores.manifest import SUMMARY
from appliance.bulk.scores.part_file import PartCounts, read_counts, write_part
from appliance.bulk.stream.ledger import Batch
from appliance.errors import StorageError
from appliance.records import Record, table_to_records
from appliance.storage import folders
from appliance.storage.failures import explained
from appliance.storage.ownership import LEASE, LOCK

PARTS = "parts"
LEDGER = "_ledger.sqlite"
DEAD_LETTERS = "_dead_letters"


class StreamOutput:
    """An output. Whoever changes it must hold it by `ownership.owned`.

    Args:
        uri: A folder, which need not exist, or a prefix of an object store; absolute.

    Attributes:
        uri: Without a slash at its end.
        run: Which ledger it belongs to; stands in the names of its parts.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/") or uri
        self.run = ""
        self._synced_days: set[str] = set()

    @property
    def is_remote(self) -> bool:
        """Whether it is in an object store."""
        return storage.is_remote(self.uri)

    def default_ledger_path(self) -> Path:
        """Where its ledger lies: in it, or for an object store, which cannot hold one, among the user's state."""
        if not self.is_remote:
            return storage.local_path(self.uri) / LEDGER
        state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        digest = hashlib.sha256(self.uri.encode()).hexdigest()[:12]
        stem = re.sub(r"[^\w.-]+", "_", self.uri.partition("?")[0].rpartition("/")[2])[-40:]
        return Path(state) / "detection-appliance" / "streams" / f"{stem}-{digest}.sqlite"

    def prepare(self) -> None:
        """Makes a local folder, and refuses one that holds what is not of a stream.

        Raises:
            StorageError: There is something else, or the folder cannot be written.
        """
        if not self.is_remote:
            with explained("Cannot write to the output folder", self.uri):
                storage.local_path(self.uri).mkdir(parents=True, exist_ok=True)
        ours = {PARTS, SUMMARY, LOCK, DEAD_LETTERS, f"{DEAD_LETTERS}.jsonl"}
        foreign = [
            name
            for name in folders.entries(self.uri)
            if name and name not in ours and not name.startswith((LEDGER, LEASE, "."))
        ]
        if foreign:
            raise StorageError(
                "The output folder holds other files",
                where=self.uri,
                got=", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else ""),
                hint="Name a new folder",
            )

    def holds_parts(self) -> bool:
        """Whether records lie in it.

        Raises:
            StorageError: It cannot be looked into.
        """
        return bool(folders.entries(storage.join(self.uri, PARTS)))

    def clear(self) -> None:
        """Removes what a killed process had not written to its end, apart from parts.

        Raises:
            StorageError: It cannot be removed.
        """
        for name in folders.entries(self.uri):
            if name.startswith(f".{SUMMARY}."):
                folders.remove_file(storage.join(self.uri, name))

    def batch_id(self, batch: Batch) -> str:
        """What a batch is known by outside, unique to it."""
        return f"{self.run}-{batch.number:08d}"

    def write(self, batch: Batch, records: Sequence[Record], model_version: str) -> PartCounts:
        """Writes the part of a batch; it is there when this returns, also if the power fails then.

        Raises:
            StorageError: It cannot be written.
        """
        counts = write_part(self._part_uri(batch), batch.number, records, model_version)
        if not self.is_remote:
            folder = storage.local_path(self._day_uri(batch.day))
            above = [] if batch.day in self._synced_days else [folder.parent, folder.parent.parent]
            with explained("Cannot write to the output folder", folder):
                for path in (folder, *above):
                    _sync(path)
            self._synced_days.add(batch.day)
        return counts

    def has_part(self, batch: Batch, rows: int) -> bool:
        """Whether the part of a batch is there; what is damaged, or was being written, is removed.

        Raises:
            StorageError: It cannot be looked for.
        """
        name = _part_name(batch, self.run)
        day = self._day_uri(batch.day)
        sizes = folders.sizes_bytes(day)
        for other in sizes:
            if other.startswith(f".{name}."):
                folders.remove_file(storage.join(day, other))
        if name not in sizes:
            return False
        counts = read_counts(self._part_uri(batch), sizes[name])
        if counts is not None and counts.rows == rows:
            return True
        folders.remove_file(self._part_uri(batch))
        return False

    def read(self, batch: Batch) -> list[Record]:
        """The records of a batch.

        Raises:
            StorageError: Its part is gone or cannot be read.
        """
        import pyarrow as pa
        import pyarrow.parquet

        uri = self._part_uri(batch)
        data = storage.read_bytes(uri)
        try:
            # From bytes, since from a path the day would become a column.
            return table_to_records(pyarrow.parquet.read_table(pa.BufferReader(data)))
        except (OSError, pa.ArrowException) as error:
            raise StorageError("The part cannot be read", where=uri, got=error) from None

    def _day_uri(self, day: str) -> str:
        return storage.join(self.uri, PARTS, f"date={day}")

    def _part_uri(self, batch: Batch) -> str:
        return storage.join(self._day_uri(batch.day), _part_name(batch, self.run))


def _part_name(batch: Batch, run: str) -> str:
    return f"part-{batch.number:08d}-{run}.parquet"


def _sync(folder: Path) -> None:
    """Makes sure that the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
