"""Lists of pictures: text files with an address a line, and CSV tables with a column of addresses."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from appliance import storage
from appliance.bulk.inputs.addresses import folder_of, resolve
from appliance.bulk.inputs.listing import Listing
from appliance.bulk.inputs.patterns import no_pictures
from appliance.errors import ConfigError, StorageError

URI_COLUMNS = (
    *("image_uri", "uri", "url", "path", "image", "image_path"),
    *("file", "filename", "file_name", "filepath"),
)


def list_text(uri: str) -> Listing:
    """The pictures named in a text file, one a line; blank lines are skipped.

    Args:
        uri: A UTF-8 file. Paths in it are relative to its folder.

    Raises:
        StorageError: It cannot be read, or names no picture.
    """
    lines = (line.removesuffix("\r") for line in _text(uri).split("\n"))
    return _listing(uri, (line for line in lines if line.strip()))


def list_csv(uri: str, column: str | None = None) -> Listing:
    """The pictures named in a column of a CSV table with a header.

    Args:
        uri: A UTF-8 file. Paths in it are relative to its folder.
        column: Which column; None takes the only one whose name is among `URI_COLUMNS`.

    Raises:
        ConfigError: It is not clear which column, or there is no such.
        StorageError: It cannot be read, or names no picture.
    """
    rows = csv.reader(io.StringIO(_text(uri), newline=""))
    try:
        header = [name.strip() for name in next(rows, [])]
        return _listing(uri, _cells(uri, rows, _index(uri, header, column)))
    except csv.Error as error:
        raise StorageError(
            "The table cannot be read", where=f"{uri}, line {rows.line_num}", got=error
        ) from None


def column_error(uri: str, columns: Sequence[str], wanted: str | None) -> ConfigError:
    """What to raise where it is not clear which column of a table names or holds the pictures."""
    return ConfigError(
        "Which column of the table has the pictures?"
        if wanted is None
        else f"The table has no column {wanted!r} of pictures",
        where=uri,
        got=f"columns {', '.join(columns)}" if columns else "no columns",
        hint="Name one with --column",
    )


def _index(uri: str, header: list[str], wanted: str | None) -> int:
    found = [
        index
        for index, name in enumerate(header)
        if (name == wanted if wanted is not None else name.lower() in URI_COLUMNS)
    ]
    if len(found) != 1:
        raise column_error(uri, header, wanted)
    return found[0]


def _cells(uri: str, rows: Any, index: int) -> Iterator[str]:
    for row in rows:
        if not any(row):
            continue  # a blank line, or one of commas only
        name = row[index] if index < len(row) else ""
        if not name:
            raise StorageError(
                "A row of the table names no picture", where=f"{uri}, line {rows.line_num}"
            )
        yield name


def _text(uri: str) -> str:
    try:
        return storage.read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StorageError(
            "The list is not UTF-8",
            where=uri,
            got=f"byte {error.object[error.start]:#04x} at position {error.start:,}",
            hint="Save it as UTF-8",
        ) from None


def _listing(uri: str, names: Iterable[str]) -> Listing:
    folder = folder_of(uri)
    pictures = [resolve(folder, name) for name in names]
    if not pictures:
        raise no_pictures("the list", uri)
    return Listing.of_files(pictures)
