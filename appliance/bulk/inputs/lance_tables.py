"""Lance tables, through the extra `lance`: like Parquet's, but every row is reached by itself.

A Lance table has versions. Those who list it tell the version with its address, so that a job that goes on
later finds the rows it set out to score, whatever was added or deleted since.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from appliance import storage
from appliance.bulk.inputs.containers import Fetch, too_large
from appliance.bulk.inputs.listing import Listing, PictureRef
from appliance.bulk.inputs.patterns import no_pictures
from appliance.bulk.inputs.picture_columns import (
    addresses,
    find_column,
    is_text,
    no_such_row,
    picture_bytes,
    row_refs,
    unreadable_row,
)
from appliance.errors import ConfigError, ImageError, StorageError
from appliance.images.decoding import ImageLimits
from appliance.storage.failures import explained
from appliance.storage.storage_options import storage_options

if TYPE_CHECKING:
    import pyarrow as pa

# Lookups fail where damaged files make other columns than they should.
_ERRORS = (OSError, ValueError, RuntimeError, LookupError, TypeError)
EXTENSIONS = (".lance",)
_VERSION = "#version="
_ROWS_AT_ONCE = 16
# Of what Lance knows of its files; its own bound is a gigabyte, in every worker.
_METADATA_BYTES = 256 * 2**20


def list_lance(uri: str, column: str | None = None) -> Listing:
    """The pictures in a Lance table, in the order of its rows; `container` tells the version as well.

    Args:
        uri: A folder that Lance has written. Addresses in the table are relative to the folder it lies in.
        column: Which column, as of `find_column`.

    Raises:
        ConfigError: It is not clear which column, there is no such, or Lance is not installed.
        StorageError: The table cannot be read, a row names no picture, or there is none.
    """
    dataset = _opened(uri)
    with _explained(uri):
        schema, rows = _schema(dataset), dataset.count_rows()
    name = find_column(uri, schema, column)
    if not rows:
        raise no_pictures("the table", uri)
    if is_text(schema.field(name).type):
        with _explained(uri):
            names = dataset.to_table(columns=[name]).column(name).to_pylist()
        return Listing.of_files(addresses(uri, names))
    return Listing("lance", row_refs(uri, name, rows, f"{uri}{_VERSION}{dataset.version}"))


class LanceTable(AbstractContextManager["LanceTable"]):
    """A version of a Lance table to read bytes of pictures from, a few rows in memory at a time.

    Args:
        container: Address and version, as `list_lance` gives them.
        limits: `max_bytes` is the most that is read of a blob.

    Raises:
        ConfigError: Lance is not installed.
        StorageError: The table cannot be read, or has no such version any more.
    """

    def __init__(self, container: str, limits: ImageLimits) -> None:
        self._uri, _, version = container.rpartition(_VERSION)
        self._max_bytes = limits.max_bytes
        self._dataset = _opened(self._uri, int(version))
        with _explained(self._uri):
            self._rows = self._dataset.count_rows()

    def __exit__(self, *exc: object) -> None:
        self._dataset = None

    def read(self, refs: Sequence[PictureRef]) -> Iterator[Fetch]:
        """One `Fetch` a picture, in the order given; all are of one column.

        Raises:
            StorageError: The store of the table fails.
        """
        for begin in range(0, len(refs), _ROWS_AT_ONCE):
            few = refs[begin : begin + _ROWS_AT_ONCE]
            for ref, value in zip(few, self._values(few), strict=True):
                yield functools.partial(self._picture, ref, value)

    def _values(self, refs: Sequence[PictureRef]) -> list[Any]:
        """What each row holds: bytes, a blob, None, or an error of it alone."""
        try:
            with _explained(self._uri):
                return self._taken(refs[0].member, [ref.position for ref in refs])
        except StorageError as error:
            if error.transient:
                raise
            if len(refs) > 1:
                return [value for ref in refs for value in self._values([ref])]
            (ref,) = refs
            has_column = ref.member in self._dataset.schema.names
            is_there = has_column and 0 <= ref.position < self._rows
            return [unreadable_row(ref, error.got) if is_there else no_such_row(ref)]

    def _taken(self, column: str, rows: list[int]) -> list[Any]:
        field = self._dataset.schema.field(column)
        inner = field.type.field("bytes") if _is_struct(field) else field
        path = column if inner is field else f"{column}.bytes"
        if _is_blob(inner):
            return list(self._dataset.take_blobs(path, indices=rows))
        values = self._dataset.take(rows, columns=[path]).column(column).to_pylist()
        return [value["bytes"] if isinstance(value, dict) else value for value in values]

    def _picture(self, ref: PictureRef, value: Any) -> bytes:
        if value is None or isinstance(value, bytes | ImageError):
            return picture_bytes(ref, value)
        with _explained(self._uri):
            if value.size() > self._max_bytes:
                raise too_large(ref.image_uri, self._max_bytes)
            return bytes(value.readall())


def _opened(uri: str, version: int | None = None) -> Any:
    lance = _import_lance()
    place, options = storage_options(uri) if storage.is_remote(uri) else (uri, None)
    try:
        with _explained(uri):
            return lance.dataset(
                place,
                version=version,
                storage_options=options,
                metadata_cache_size_bytes=_METADATA_BYTES,
            )
    except StorageError as error:
        if version is None or error.got != "nothing":
            raise
        raise StorageError(
            "The version of the table that was listed is not there any more",
            where=uri,
            got="nothing",
            expected=f"version {version}",
            hint="Keep versions until they are scored, or name a new output folder",
        ) from None


def _schema(dataset: Any) -> pa.Schema:
    """The columns of a table, blobs as the bytes that they are read as."""
    import pyarrow as pa

    return pa.schema([_as_read(field) for field in dataset.schema])


def _as_read(field: pa.Field) -> pa.Field:
    import pyarrow as pa

    if _is_blob(field):
        return field.with_type(pa.large_binary())
    if _is_struct(field):
        return field.with_type(pa.struct([_as_read(inner) for inner in field.type]))
    return field


def _is_struct(field: pa.Field) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(field.type))


def _is_blob(field: pa.Field) -> bool:
    """Whether values lie outside of the rows, which only point at them."""
    is_second = getattr(field.type, "extension_name", "") == "lance.blob.v2"
    return is_second or (field.metadata or {}).get(b"lance-encoding:blob") == b"true"


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """As of the stores; files that are damaged may also let Lance panic, which is no `Exception`."""
    with explained("The table cannot be read", uri):
        try:
            yield
        except (StorageError, ImageError):
            raise
        except BaseException as error:
            is_panic = type(error).__name__ == "PanicException"
            if not is_panic and not isinstance(error, _ERRORS):
                raise
            text = str(error)
            if re.match("Dataset at path .* was not found", text):
                raise FileNotFoundError(text) from None
            raise OSError(_gist(text)) from None


def _gist(text: str) -> str:
    """What Lance says, without places in its source and what addresses hold behind a question mark."""
    line = re.sub(r",? ?/\S+\.rs:\d+:\d+", "", " ".join(text.split()))
    return re.sub(r"\?\S+", "", line).replace("LanceError(IO): ", "")


def _import_lance() -> Any:
    try:
        import lance
    except ImportError as error:
        raise ConfigError(
            "Reading Lance tables needs Lance",
            got=str(error),
            hint="Install the extra lance: pip install 'detection-appliance[lance]'",
        ) from None
    # Ray forks only to start another program in the child.
    warnings.filterwarnings("ignore", "lance is not fork-safe")
    return lance
