"""What tables of all kinds share: which column has the pictures, by address or by bytes, and what its rows mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from appliance.bulk.inputs.addresses import folder_of, resolve
from appliance.bulk.inputs.listing import PictureRef
from appliance.bulk.inputs.lists import URI_COLUMNS, column_error
from appliance.errors import ImageError, StorageError

if TYPE_CHECKING:
    import pyarrow as pa


def find_column(uri: str, schema: pa.Schema, wanted: str | None) -> str:
    """The name of the column with the pictures.

    Args:
        uri: The table, for errors.
        schema: Its columns.
        wanted: Which column; None takes the only one of bytes, or the only one of text whose name is
            among `URI_COLUMNS`.

    Raises:
        ConfigError: It is not clear which column, or there is no such.
    """
    pictures: list[str] = [field.name for field in schema if _holds_pictures(field.type)]
    addresses: list[str] = [field.name for field in schema if is_text(field.type)]
    if wanted is not None:
        found = [name for name in (*pictures, *addresses) if name == wanted]
    elif len(pictures) == 1:
        found = pictures
    else:
        found = [name for name in addresses if name.lower() in URI_COLUMNS]
    if len(found) != 1:
        raise column_error(uri, [f"{field.name} ({field.type})" for field in schema], wanted)
    return found[0]


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values are plain bytes, rather than a struct that has them as `bytes`."""
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether values are addresses."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def addresses(uri: str, names: Sequence[str | None]) -> list[str]:
    """The pictures that the rows of a table name; paths are relative to the folder that it lies in.

    Raises:
        StorageError: A row names none.
    """
    for row, name in enumerate(names):
        if not name:
            raise StorageError("A row of the table names no picture", where=f"{uri}, row {row}")
    folder = folder_of(uri)
    return [resolve(folder, name) for name in names if name]


def row_refs(
    uri: str, column: str, rows: int, container: str | None = None
) -> Iterator[PictureRef]:
    """The pictures that lie in the rows of a table.

    Args:
        uri: The table.
        column: The column with their bytes.
        rows: How many there are.
        container: What opens the table; by default its address.
    """
    for row in range(rows):
        yield PictureRef(f"{uri}#row={row}", container or uri, column, row)


def picture_bytes(ref: PictureRef, value: bytes | ImageError | None) -> bytes:
    """The picture of a row.

    Args:
        ref: The row.
        value: What was found there, or why nothing could be.

    Raises:
        ImageError: There is none, or `value` is an error.
    """
    if isinstance(value, ImageError):
        raise value
    if value is None:
        raise ImageError(
            "The row of the table holds no picture",
            kind="missing",
            where=ref.image_uri,
            got="null",
        )
    return value


def no_such_row(ref: PictureRef) -> ImageError:
    """What to raise of a row that went away after the table was listed."""
    return ImageError("The table has no such row", kind="missing", where=ref.image_uri)


def unreadable_row(ref: PictureRef, got: str | None) -> ImageError:
    """What to raise of a row that the file of a table does not give."""
    return ImageError(
        "The row of the table cannot be read", kind="unreadable", where=ref.image_uri, got=got
    )


def _holds_pictures(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if not pa.types.is_struct(kind):
        return is_bytes(kind)
    index = kind.get_field_index("bytes")
    return index >= 0 and is_bytes(kind.field(index).type)
