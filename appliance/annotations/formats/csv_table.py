"""Annotations as a table: one row per object, `image,label,xmin,ymin,xmax,ymax`.

The first row names the columns, in any order; `difficult`, `truncated`, `crowd` (0 or 1) and `width`,
`height` (of the picture, pixels) are read where they are, others are left aside. A row with nothing but
the picture stands for a picture without objects. Columns are divided by commas, semicolons or tabs;
pictures that no row names do not belong to the data.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from appliance import storage
from appliance.annotations.formats.named_pictures import PictureFinder, entry_names, plain_name
from appliance.annotations.placing import plain_number
from appliance.annotations.source import (
    AnnotationSource,
    Entry,
    Fault,
    ObjectAnnotation,
    PictureAnnotation,
    is_coordinate,
    read_objects,
)
from appliance.errors import DatasetError

COORDINATES = ("xmin", "ymin", "xmax", "ymax")
FLAGS = ("difficult", "truncated", "crowd")
SIZE = ("width", "height")
COLUMNS = ("image", "label", *COORDINATES, *FLAGS, *SIZE)
_REQUIRED = COLUMNS[:6]
_OTHER_NAMES = {
    "image": ("filename", "file_name", "image_path", "path"),
    "label": ("class", "class_name", "category"),
}
_DELIMITERS = (",", ";", "\t")
_WORDS = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}

_Row = tuple[int, Mapping[str, str]]


def open_csv(
    path: str | os.PathLike[str], images_root: str | os.PathLike[str] | None = None
) -> AnnotationSource:
    """Lists the pictures of a table.

    Args:
        path: The table.
        images_root: A folder of pictures elsewhere.

    Raises:
        StorageError: The file is not there.
        DatasetError: It is no such table; what is wrong in a row is said when its picture is read.
    """
    where = os.fspath(path)
    rows_of: dict[str, list[_Row]] = {}
    faults: list[Fault] = []
    for line, row in _rows(_text(where), where):
        if plain_name(row["image"]):
            rows_of.setdefault(row["image"], []).append((line, row))
        else:
            error = DatasetError(
                f"Line {line} names no picture", where=where, got=repr(row["image"])
            )
            faults.append(Fault("object-of-no-picture", error, label=row["label"] or None))
    if not rows_of and not faults:
        raise DatasetError("The dataset is empty", where=where, expected="a row for each object")
    found, outside = PictureFinder(where, images_root).find_all(rows_of)
    names = entry_names(list(rows_of))
    entries = [
        Entry(names[image], picture_path, where, partial(_read, image, rows_of[image], where))
        for image, picture_path in found.items()
    ]
    entries.sort(key=lambda entry: entry.name)
    return AnnotationSource(where, "csv", tuple(entries), faults=(*faults, *outside))


def has_header(data: bytes) -> bool:
    """Whether a file begins like such a table."""
    first_line = data[:4096].decode("utf-8-sig", "replace").partition("\n")[0]
    return any(_columns(first_line.strip().split(mark))[1] == [] for mark in _DELIMITERS)


class CsvWriter:
    """Writes `annotations.csv`, or `<part>.csv`, beside `images/`.

    Args:
        labels: Not written: a table has no order of classes.
    """

    losses: Mapping[str, int] = {}

    def __init__(self, labels: Sequence[str]) -> None:
        self._tables: dict[str | None, io.StringIO] = {}

    def picture_folder(self, part: str | None) -> str:
        """Where the pictures of a part go, below the folder."""
        return "images" if part is None else f"images/{part}"

    def file_of(
        self, part: str | None, file_name: str, annotation: PictureAnnotation
    ) -> tuple[str, bytes] | None:
        """No picture has a file of its own."""

    def add(self, part: str | None, file_name: str, annotation: PictureAnnotation) -> int:
        """Takes one picture and returns how many objects it has; boxes are of the upright picture, whose size
        is known.
        """
        if part not in self._tables:
            self._tables[part] = io.StringIO()
            csv.writer(self._tables[part], lineterminator="\n").writerow(COLUMNS)
        table = csv.writer(self._tables[part], lineterminator="\n")
        image = f"{self.picture_folder(part)}/{file_name}"
        size = list(annotation.size_hw or ("", ""))[::-1]
        for item in annotation.objects:
            flags = (int(getattr(item, flag)) for flag in FLAGS)
            table.writerow([image, item.label, *map(plain_number, item.box_xyxy), *flags, *size])
        if not annotation.objects:
            table.writerow([image, *[""] * (len(COLUMNS) - 3), *size])
        return len(annotation.objects)

    def last_files(self) -> Iterator[tuple[str, bytes]]:
        """The tables: path below the folder and content."""
        for part, table in self._tables.items():
            name = "annotations.csv" if part is None else f"{part}.csv"
            yield name, table.getvalue().encode()


def _text(where: str) -> str:
    data = storage.read_bytes(where)
    utf_16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")  # as spreadsheets write "Unicode text"
    try:
        return data.decode("utf-16" if utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DatasetError(
            "The table is not in UTF-8",
            where=where,
            got=f"byte 0x{data[error.start]:02x} in line {line}",
            hint="Save it as CSV UTF-8",
        ) from None


def _rows(text: str, where: str) -> list[_Row]:
    first_line = text.partition("\n")[0].strip()
    choices = {mark: _columns(first_line.split(mark)) for mark in _DELIMITERS}
    delimiter = min(choices, key=lambda mark: len(choices[mark][1]))
    missing = choices[delimiter][1]
    if missing:
        raise DatasetError(
            "The table lacks columns",
            where=where,
            got=f"the first line {first_line[:200]!r}",
            expected=f"the columns {', '.join(_REQUIRED)}; missing {', '.join(missing)}",
        )
    columns = choices[delimiter][0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[_Row] = []
    try:
        next(reader)
        begins = reader.line_num + 1
        for fields in reader:
            line, begins = begins, reader.line_num + 1
            if not any(field.strip() for field in fields):
                continue
            row = {
                name: fields[position].strip() if position < len(fields) else ""
                for name, position in columns.items()
            }
            if delimiter != ",":
                # Where the comma divides no columns, it is the decimal mark of half of the world.
                row |= {name: row[name].replace(",", ".") for name in COORDINATES}
            rows.append((line, row))
    except csv.Error as error:
        raise DatasetError(
            f"Line {reader.line_num} cannot be read", where=where, got=error
        ) from None
    return rows


def _columns(names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Known column -> position, and the required ones that are missing."""
    given = [name.strip().strip('"').strip().lower() for name in names]
    found: dict[str, int] = {}
    for column in COLUMNS:
        for name in (column, *_OTHER_NAMES.get(column, ())):
            if name in given:
                found[column] = given.index(name)
                break
    return found, [column for column in _REQUIRED if column not in found]


def _read(image: str, rows: Sequence[_Row], where: str) -> PictureAnnotation:
    sizes: dict[tuple[int, int], int] = {}

    def note_size(line: int, row: Mapping[str, str]) -> None:
        size_hw = _size_hw(line, row, where)
        if size_hw is not None:
            sizes.setdefault(size_hw, line)

    def read(_: int, item: _Row) -> ObjectAnnotation:
        read_object = _object(*item, where)
        note_size(*item)
        return read_object

    for line, row in rows:
        if not _has_object(row):
            note_size(line, row)
    objects, faults = read_objects(
        [item for item in rows if _has_object(item[1])], read, lambda item: item[1]["label"] or None
    )
    if len(sizes) > 1:
        (first_hw, first_line), (other_hw, other_line) = list(sizes.items())[:2]
        raise DatasetError(
            f"Line {other_line} gives another size of {image} than line {first_line}",
            where=where,
            got=f"{other_hw[1]}x{other_hw[0]}",
            expected=f"{first_hw[1]}x{first_hw[0]}",
        )
    return PictureAnnotation(objects, next(iter(sizes), None), image, faults)


def _has_object(row: Mapping[str, str]) -> bool:
    return any(row[name] for name in ("label", *COORDINATES))


def _object(line: int, row: Mapping[str, str], where: str) -> ObjectAnnotation:
    if not row["label"]:
        raise DatasetError(f"Line {line} has a box but no label", where=where)
    x1, y1, x2, y2 = (_number(line, row, name, where) for name in COORDINATES)
    difficult, truncated, crowd = (_flag(line, row, name, where) for name in FLAGS)
    return ObjectAnnotation(row["label"], (x1, y1, x2, y2), difficult, truncated, crowd)


def _size_hw(line: int, row: Mapping[str, str], where: str) -> tuple[int, int] | None:
    if not all(row.get(name) for name in SIZE):
        return None
    width, height = (_number(line, row, name, where) for name in SIZE)
    return (round(height), round(width)) if width >= 1 and height >= 1 else None


def _number(line: int, row: Mapping[str, str], name: str, where: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not is_coordinate(value):
        raise DatasetError(
            f"Line {line} has no usable {name}",
            where=where,
            got=repr(row[name]),
            expected="a number of pixels",
        )
    return value


def _flag(line: int, row: Mapping[str, str], name: str, where: str) -> bool:
    word = row.get(name, "").lower()
    if word not in _WORDS:
        raise DatasetError(
            f"Line {line}: {name} is wrong", where=where, got=repr(row[name]), expected="0 or 1"
        )
    return _WORDS[word]
