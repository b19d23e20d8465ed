"""Which pictures a job scores: the listing, one row a picture, written once and read in parts by workers.

A listing is fixed when a job begins. It lies as a Parquet file beside the output, one row group a part, so
that a job that goes on after a kill scores the pictures it set out to score, and a worker reads its own
slice of a million names and no more.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from appliance import storage
from appliance.errors import StorageError

if TYPE_CHECKING:
    import pyarrow as pa

InputKind = Literal["files", "zip", "tar", "table", "lance", "video"]


@dataclass(frozen=True)
class PictureRef:
    """Where one picture is.

    Attributes:
        image_uri: Its name in the scores; unique within a listing.
        container: Address of the archive, table or video it lies in, with the version where it has such;
            empty for a file of its own.
        member: Name of the member of an archive, or of the column of a table.
        position: Where in the container: first byte in a tar, row of a table, frame of a video, from 0.
        size_bytes: Of a member of a tar; elsewhere 0.
    """

    image_uri: str
    container: str = ""
    member: str = ""
    position: int = 0
    size_bytes: int = 0


class Listing:
    """The pictures of a job, in the order of their rows.

    A picture that is named twice is listed once, where it came first.

    Args:
        kind: How its containers are read.
        refs: The pictures.

    Attributes:
        kind: As given.
        table: One row a picture, of `listing_schema()`.
        repeated: Names that were left out because they had come before.
    """

    def __init__(self, kind: InputKind, refs: Iterable[PictureRef]) -> None:
        import pyarrow as pa

        schema = listing_schema()
        batches = []
        for chunk in _chunks(refs):
            columns = {name: [getattr(ref, name) for ref in chunk] for name in schema.names}
            batches.append(pa.RecordBatch.from_pydict(columns, schema=schema))
        table = pa.Table.from_batches(batches, schema=schema)
        self.kind = kind
        self.table = _first_of_each(table)
        self.repeated = table.num_rows - self.table.num_rows

    @classmethod
    def of_files(cls, uris: Sequence[str]) -> Listing:
        """Pictures that are files of their own."""
        import numpy as np
        import pyarrow as pa

        files = cls("files", ())
        empty, zero = pa.scalar("", pa.string()), np.zeros(len(uris), np.int64)
        columns = [
            pa.array(uris, pa.string()),
            pa.repeat(empty, len(uris)),
            pa.repeat(empty, len(uris)),
            pa.array(zero),
            pa.array(zero),
        ]
        table = pa.Table.from_arrays(columns, schema=listing_schema())
        files.table = _first_of_each(table)
        files.repeated = table.num_rows - files.table.num_rows
        return files

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def without(self, image_uris: pa.ChunkedArray) -> Listing:
        """The pictures that are not among those named."""
        import pyarrow.compute as pc

        known = image_uris.combine_chunks()
        rest = Listing(self.kind, ())
        rest.repeated = self.repeated
        rest.table = self.table.filter(pc.invert(pc.is_in(self.table["image_uri"], known)))
        return rest

    def sha256(self) -> str:
        """A digest of all that it says, in its order."""
        digest = hashlib.sha256(self.kind.encode())
        for batch in self.table.to_batches():
            for column in batch.columns:
                for value in column.to_pylist():
                    digest.update(f"\n{value}".encode())
        return digest.hexdigest()


def listing_schema() -> pa.Schema:
    """The columns of a listing: the fields of `PictureRef`."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("image_uri", pa.string(), nullable=False),
            pa.field("container", pa.string(), nullable=False),
            pa.field("member", pa.string(), nullable=False),
            pa.field("position", pa.int64(), nullable=False),
            pa.field("size_bytes", pa.int64(), nullable=False),
        ]
    )


def write_listing(uri: str, listing: Listing, images_per_part: int) -> int:
    """Writes a listing, a row group for each part; returns the number of parts.

    Raises:
        StorageError: It cannot be written.
    """
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(
        listing.table, buffer, row_group_size=images_per_part, compression="zstd"
    )
    storage.write_bytes(uri, buffer.getvalue())
    return math.ceil(len(listing) / images_per_part)


def read_part(uri: str, index: int) -> list[PictureRef]:
    """The pictures of one part of a listing.

    Raises:
        StorageError: The listing cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet

    with storage.open_input(uri) as stream:
        try:
            rows = pyarrow.parquet.ParquetFile(stream).read_row_group(index).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise StorageError(
                "The listing of the job cannot be read",
                where=uri,
                got=str(error),
                hint="Name a new output folder",
            ) from None
    return [PictureRef(**row) for row in rows]


def _first_of_each(table: pa.Table) -> pa.Table:
    """The rows whose picture did not come before."""
    import numpy as np

    codes = table["image_uri"].combine_chunks().dictionary_encode().indices
    _, first = np.unique(codes.to_numpy(), return_index=True)
    return table if len(first) == table.num_rows else table.take(np.sort(first))


def _chunks(refs: Iterable[PictureRef], size: int = 65_536) -> Iterator[list[PictureRef]]:
    chunk: list[PictureRef] = []
    for ref in refs:
        chunk.append(ref)
        if len(chunk) == size:
            yield chunk
            chunk = []
    yield chunk
