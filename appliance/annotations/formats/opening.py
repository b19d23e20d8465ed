"""Which format annotated pictures are written in, and the one way to open them.

- `voc`: Pascal VOC, one XML per picture (`voc_folder`)
- `coco`: COCO, one JSON for many pictures (`coco_json`)
- `yolo`: YOLO, one text file per picture (`yolo_folder`)
- `csv`: one table (`csv_table`)

Data may be divided into parts: folders `train/`, `val/`, `valid/`, `test/`, or files that are named after
them. `DATA#train` is an address of a part, wherever an address is asked for.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Literal, get_args

from appliance import storage
from appliance.annotations.formats import parts as part_names
from appliance.annotations.formats.coco_json import open_coco
from appliance.annotations.formats.csv_table import open_csv
from appliance.annotations.formats.listing import Listing, ending
from appliance.annotations.formats.parts import PARTS, part_of
from appliance.annotations.formats.signs import (
    CONFIRM,
    LOOKED_FOR,
    SIGNS,
    coco_files,
    csv_files,
    refuse_other_formats,
)
from appliance.annotations.formats.voc_folder import ANNOTATIONS_DIR, IMAGE_SUBDIRECTORY, open_voc
from appliance.annotations.formats.yolo_folder import (
    open_yolo,
    yaml_parts,
    yolo_parts,
)
from appliance.annotations.source import AnnotationSource, FormatName
from appliance.errors import ConfigError, DatasetError, StorageError

_FORMAT_OF_FILE: Mapping[str, FormatName] = {
    ".json": "coco",
    ".csv": "csv",
    ".tsv": "csv",
    ".yaml": "yolo",
    ".yml": "yolo",
    ".txt": "yolo",
}


def open_source(
    path: str | os.PathLike[str],
    format: FormatName | Literal["auto"] = "auto",
    *,
    part: str | None = None,
    annotations_dir: str = ANNOTATIONS_DIR,
    image_subdirectory: str = IMAGE_SUBDIRECTORY,
    images_root: str | os.PathLike[str] | None = None,
) -> AnnotationSource:
    """Lists annotated pictures; what each annotation says is read from the entries, one at a time.

    Args:
        path: A folder, or the file with the annotations (`.json`, `.csv`, `data.yaml`); local or in an
            object store.
        format: How it is written, or `auto` to find out.
        part: `train`, `val`, `valid` or `test` of divided data; `val` finds `valid` too. None takes data
            that is not divided, or has one part only.
        annotations_dir: Pascal VOC: the subfolder with XML files.
        image_subdirectory: Pascal VOC: the subfolder with pictures.
        images_root: A folder or bucket elsewhere that holds the pictures. Without it they lie in the
            folder of the data; what annotations name outside of it is an error and never opened.

    Raises:
        StorageError: There is nothing.
        DatasetError: No format or more than one fits, there is no such part, or the data is divided and
            no part is named; or what the readers of the formats refuse.
        ConfigError: There is no such format.
    """
    root, named = _split(os.fspath(path))
    part = part or named
    kind = _checked(format) if format != "auto" else detect_format(root)
    if (
        kind == "voc"
        and part is None
        and (annotations_dir, image_subdirectory)
        != (
            ANNOTATIONS_DIR,
            IMAGE_SUBDIRECTORY,
        )
    ):
        return open_voc(root, annotations_dir, image_subdirectory, images_root)
    found = _parts(root, kind)
    if part is not None:
        place = part_names.pick(found, part, where=root)
    elif len(found) > 1:
        raise DatasetError(
            "The data is divided into parts",
            where=root,
            got=", ".join(found),
            expected="one of them",
            hint=f"Give {root}#{next(iter(found))}",
        )
    else:
        place = next(iter(found.values()), root)
    if kind == "voc":
        return open_voc(place, annotations_dir, image_subdirectory, images_root)
    return _OPEN[kind](place, images_root)


def detect_format(path: str | os.PathLike[str]) -> FormatName:
    """Which format a folder or file is written in, from the names of the files.

    Only where the names fit several formats are files opened to tell them apart.

    Raises:
        StorageError: There is nothing.
        DatasetError: No format fits, or more than one.
    """
    root, _ = _split(os.fspath(path))
    by_name = _FORMAT_OF_FILE.get(_ending(root))
    if by_name is not None:
        return by_name
    listing = Listing.of(root)
    signs = {kind: sign for kind, find in SIGNS.items() if (sign := find(listing)) is not None}
    if len(signs) > 1:
        confirmed = {kind: sign for kind, sign in signs.items() if CONFIRM[kind](listing, sign)}
        signs = confirmed or signs
    if len(signs) > 1:
        raise DatasetError(
            "The data fits several formats",
            where=root,
            got=" and ".join(f"{kind} ({sign})" for kind, sign in signs.items()),
            expected="one",
            hint="Name the format",
        )
    if not signs:
        pictures = len(listing.pictures())
        *looked_for, last = LOOKED_FOR.values()
        raise DatasetError(
            "No annotations found",
            where=root,
            got=f"{pictures} pictures without annotations" if pictures else "no pictures either",
            expected=" or ".join((", ".join(looked_for), last)),
        )
    return next(iter(signs))


def parts_of(
    path: str | os.PathLike[str], format: FormatName | Literal["auto"] = "auto"
) -> dict[str, str]:
    """The parts that data is divided into.

    Args:
        path: As `open_source` takes it.
        format: How it is written, or `auto` to find out.

    Returns:
        Name as it is on disk (`train`, `valid`, `val`, `validation` or `test`, in this order) -> address
        that `open_source` takes. Empty where the data is not divided.

    Raises:
        StorageError: There is nothing.
        DatasetError: No format fits, or more than one.
    """
    root, named = _split(os.fspath(path))
    kind = _checked(format) if format != "auto" else detect_format(root)
    return {} if named else {name: place for name, place in _parts(root, kind).items() if name}


def _split(path: str) -> tuple[str, str | None]:
    """Address and part of `DATA#part`."""
    if not path:
        raise ConfigError(
            "The path of the data is empty", hint="Give a folder or file; . is the present folder"
        )
    root, mark, part = path.rpartition("#")
    local = not storage.is_remote(path)
    if not mark or (local and storage.local_path(path).exists()):
        return path, None
    if part in PARTS:
        return root, part
    if local and storage.local_path(root).exists():
        there: Iterable[str] = ()
        with suppress(
            DatasetError, StorageError
        ):  # what is wrong with it is told when its name is right
            there = [name for name in _parts(root, detect_format(root)) if name]
        near = difflib.get_close_matches(part, there, n=1)
        raise DatasetError(
            "No such part",
            where=root,
            got=part,
            expected=f"one of {', '.join(there or PARTS)}",
            hint=f"Did you mean {root}#{near[0]}" if near else None,
        )
    return path, None


def _checked(name: str) -> FormatName:
    for known in get_args(FormatName):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise ConfigError(
        "Unknown format", got=name, expected=f"auto, {', '.join(get_args(FormatName))}"
    )


def _ending(path: str) -> str:
    return "" if _is_folder(path) else ending(path)


def _is_folder(path: str) -> bool:
    return not storage.is_remote(path) and storage.local_path(path).is_dir()


def _parts(root: str, kind: FormatName) -> dict[str, str]:
    """Part -> place; under the name "" a place that is all of the data."""
    if _ending(root) in (".yaml", ".yml"):
        return yaml_parts(root)
    if _ending(root) in _FORMAT_OF_FILE:
        if not storage.is_remote(root) and not storage.local_path(root).is_file():
            raise StorageError("No such file", where=root, hint="Check the path of the data")
        return {}
    listing = Listing.of(root)
    if SIGNS[kind](listing) is None:
        refuse_other_formats(listing, kind)
    return _PARTS_OF[kind](listing)


def _voc_parts(listing: Listing) -> dict[str, str]:
    annotations = listing.under("", (".xml",))
    folders = (ANNOTATIONS_DIR, ANNOTATIONS_DIR.lower())
    if any("/" not in name for name in annotations) or any(map(listing.has_folder, folders)):
        return {}  # what lies at the top would be in no part
    annotated = {name.partition("/")[0] for name in annotations}
    return {part: storage.join(listing.root, part) for part in PARTS if part in annotated}


def _files_of_parts(listing: Listing, names: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        folder = PurePosixPath(name).parts[0]
        part = folder if folder in PARTS else part_of(PurePosixPath(name).stem)
        if part is not None and part not in found:
            found[part] = listing.files[name]
    if not found and len(names) == 1:
        return {"": listing.files[names[0]]}
    if not found or len(found) < len(names):
        raise DatasetError(
            "Several files hold annotations",
            where=listing.root,
            got=", ".join(names),
            expected="one, or one for each of train, val and test",
            hint="Give the path of the file",
        )
    return part_names.in_order(found)


_OPEN: Mapping[FormatName, Callable[[str, str | os.PathLike[str] | None], AnnotationSource]] = {
    "coco": open_coco,
    "yolo": open_yolo,
    "csv": open_csv,
}
_PARTS_OF: Mapping[FormatName, Callable[[Listing], dict[str, str]]] = {
    "voc": _voc_parts,
    "coco": lambda listing: _files_of_parts(listing, coco_files(listing)),
    "yolo": yolo_parts,
    "csv": lambda listing: _files_of_parts(listing, csv_files(listing)),
}
