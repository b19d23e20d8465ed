"""Parquet tables with a picture a row: its address, or its bytes, as data sets of Hugging Face have them."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, BinaryIO

from appliance import storage
from appliance.bulk.inputs.containers import Fetch
from appliance.bulk.inputs.listing import Listing, PictureRef
from appliance.bulk.inputs.patterns import no_pictures
from appliance.bulk.inputs.picture_columns import (
    addresses,
    find_column,
    is_bytes,
    is_text,
    no_such_row,
    picture_bytes,
    row_refs,
    unreadable_row,
)
from appliance.errors import ConfigError, ImageError, StorageError
from appliance.storage.failures import transient

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

EXTENSIONS = (".parquet",)
_ROWS_AT_ONCE = 16
_READ_BYTES = 2**20
_TABLES_AT_ONCE = 16


@dataclass(frozen=True)
class _Contents:
    """What a table says of its pictures: addresses of files, or how many rows hold bytes in a column."""

    uri: str
    rows: int
    column: str
    addresses: list[str] | None


def list_tables(uris: Sequence[str], column: str | None = None, *, source: str = "") -> Listing:
    """The pictures in tables of the same kind, in the order of their rows.

    Args:
        uris: Addresses of the tables. Addresses in them are relative to their folders.
        column: Which column, as of `find_column`.
        source: What the user named, for errors; by default the first table.

    Raises:
        ConfigError: It is not clear which column, there is no such, or it differs between the tables.
        StorageError: A table cannot be read, a row names no picture, or there is none.
    """
    with ThreadPoolExecutor(_TABLES_AT_ONCE) as pool:
        tables = list(pool.map(lambda uri: _contents(uri, column), uris))
    first = tables[0]
    for table in tables:
        same_kind = (table.addresses is None) == (first.addresses is None)
        if table.column != first.column or not same_kind:
            raise ConfigError(
                "The pictures are not in the same column of all tables",
                where=table.uri,
                got=f"column {table.column!r}",
                expected=f"column {first.column!r} as in {first.uri}",
                hint="Name one with --column, or score the tables one by one",
            )
    if not any(table.rows for table in tables):
        raise no_pictures("the table", source or first.uri)
    if first.addresses is None:
        return Listing("table", (ref for t in tables for ref in row_refs(t.uri, t.column, t.rows)))
    return Listing.of_files([uri for table in tables for uri in table.addresses or ()])


class Table(AbstractContextManager["Table"]):
    """A table to read bytes of pictures from, row after row.

    Rows can only be reached through those before them in their group of rows, so a table is read fastest in
    its order, also over several calls of `read`.

    Args:
        uri: The table.

    Raises:
        StorageError: It is no Parquet file.
    """

    def __init__(self, uri: str) -> None:
        with ExitStack() as stack:
            stream = stack.enter_context(storage.open_input(uri))
            self._file = _opened(uri, stream)
            self._closing = stack.pop_all()
        groups = self._file.metadata.num_row_groups
        sizes = (self._file.metadata.row_group(index).num_rows for index in range(groups))
        self._starts = list(accumulate(sizes, initial=0))
        self._reader: _GroupReader | None = None

    def __exit__(self, *exc: object) -> None:
        self._reader = None
        self._file.close()
        self._closing.close()

    def read(self, refs: Sequence[PictureRef]) -> Iterator[Fetch]:
        """One `Fetch` a picture, in the order given.

        Raises:
            StorageError: The store of the table fails.
        """
        for ref in refs:
            yield functools.partial(picture_bytes, ref, self._value(ref))

    def _value(self, ref: PictureRef) -> bytes | ImageError | None:
        known = ref.member in self._file.schema_arrow.names
        if not known or not 0 <= ref.position < self._starts[-1]:
            return no_such_row(ref)
        group = bisect_right(self._starts, ref.position) - 1
        row = ref.position - self._starts[group]
        reader = self._reader
        if reader is None or not reader.leads_to(group, ref.member, row):
            reader = self._reader = _GroupReader(self._file, group, ref.member)
        try:
            return reader.value(row)
        except _errors() as error:
            return unreadable_row(ref, str(error).partition("\n")[0])


class _GroupReader:
    """Goes forward through a column in a group of rows, a few rows in memory at a time."""

    def __init__(self, file: ParquetFile, group: int, column: str) -> None:
        field = file.schema_arrow.field(column)
        self._group, self._column = group, column
        self._batches = file.iter_batches(
            batch_size=_ROWS_AT_ONCE,
            row_groups=[group],
            columns=[column if is_bytes(field.type) else f"{column}.bytes"],
            use_threads=False,
        )
        self._begin = 0
        self._values: pa.Array | tuple[()] = ()

    def leads_to(self, group: int, column: str, row: int) -> bool:
        """Whether a row comes here, or later on."""
        return (self._group, self._column) == (group, column) and self._begin <= row

    def value(self, row: int) -> bytes | None:
        while row >= self._begin + len(self._values):
            self._begin += len(self._values)
            self._values = ()  # not two batches at a time
            batch = next(self._batches, None)
            if batch is None:
                raise OSError("fewer rows than the table says")
            self._values = batch.column(self._column)
        value: Any = self._values[row - self._begin].as_py()
        picture: bytes | None = value["bytes"] if isinstance(value, dict) else value
        return picture


def _contents(uri: str, wanted: str | None) -> _Contents:
    with storage.open_input(uri) as stream:
        file = _opened(uri, stream)
        schema, rows = file.schema_arrow, file.metadata.num_rows
        column = find_column(uri, schema, wanted)
        if not is_text(schema.field(column).type):
            return _Contents(uri, rows, column, None)
        with _failures(uri):
            names = file.read(columns=[column]).column(column).to_pylist()
    return _Contents(uri, rows, column, addresses(uri, names))


def _opened(uri: str, stream: BinaryIO) -> ParquetFile:
    from pyarrow.parquet import ParquetFile

    with _failures(uri):
        # Read piece by piece: by default all of a column in a group of rows is fetched at once.
        return ParquetFile(stream, buffer_size=_READ_BYTES, pre_buffer=False)


@contextmanager
def _failures(uri: str) -> Iterator[None]:
    try:
        yield
    except _errors() as error:
        raise StorageError(
            "The table cannot be read",
            where=uri,
            got=str(error).partition("\n")[0],
            expected="a Parquet file",
            transient=transient(error),
        ) from None


def _errors() -> tuple[Any, ...]:
    import pyarrow as pa

    return (OSError, pa.ArrowException)
