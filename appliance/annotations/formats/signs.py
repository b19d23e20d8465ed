"""What tells the formats of annotated pictures apart: names of files, and where those fit several, contents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from appliance import storage
from appliance.annotations.formats.csv_table import has_header
from appliance.annotations.formats.listing import Listing
from appliance.annotations.formats.parts import PARTS
from appliance.annotations.formats.yolo_folder import find_yaml, has_labels
from appliance.annotations.source import FormatName
from appliance.errors import DatasetError

LOOKED_FOR: Mapping[FormatName, str] = {
    "voc": "Pascal VOC (XML files in Annotations/ or beside the pictures)",
    "coco": "COCO (a .json in the folder, in annotations/ or in train/)",
    "yolo": "YOLO (data.yaml, or text files in labels/ or beside the pictures)",
    "csv": "CSV (a .csv in the folder or in train/)",
}
# What lies in COCO's annotations/ beside the boxes.
_OTHER_COCO_TASKS = ("captions_", "person_keypoints_", "image_info_", "panoptic_", "stuff_")


def refuse_other_formats(listing: Listing, kind: FormatName) -> None:
    """Says what data is that has no sign of the format that was named.

    Raises:
        DatasetError: It has signs of others, or none where one is needed.
    """
    others = [other for other, find in SIGNS.items() if find(listing) is not None]
    if others or kind in ("coco", "csv"):
        raise DatasetError(
            f"No {LOOKED_FOR[kind].partition(' (')[0]} annotations found",
            where=listing.root,
            got=" or ".join(LOOKED_FOR[other] for other in others) or None,
            expected=LOOKED_FOR[kind],
            hint="Name the right format, or none to have it found out" if others else None,
        )


def _candidates(listing: Listing, endings: tuple[str, ...], folders: tuple[str, ...]) -> list[str]:
    """Files at the top, in one of `folders`, or in the folder of a part."""
    places = {"", *folders, *PARTS, *(f"{part}/{folder}" for part in PARTS for folder in folders)}
    return [name for name in listing.under("", endings) if (name.rpartition("/")[0] in places)]


def coco_files(listing: Listing) -> list[str]:
    """The files that may hold COCO annotations of boxes."""
    names = [
        name
        for name in _candidates(listing, (".json",), ("annotations",))
        if not PurePosixPath(name).name.startswith(_OTHER_COCO_TASKS)
    ]
    instances = [name for name in names if PurePosixPath(name).name.startswith("instances_")]
    return instances or names


def csv_files(listing: Listing) -> list[str]:
    """The files that may be tables of boxes."""
    return _candidates(listing, (".csv", ".tsv"), ())


def _yolo_sign(listing: Listing) -> str | None:
    yaml_path = find_yaml(listing)
    return PurePosixPath(yaml_path).name if yaml_path is not None else has_labels(listing)


def _first(names: Mapping[str, str] | list[str]) -> str | None:
    return next(iter(names), None)


SIGNS: Mapping[FormatName, Callable[[Listing], str | None]] = {
    "voc": lambda listing: _first(listing.under("", (".xml",))),
    "coco": lambda listing: _first(coco_files(listing)),
    "yolo": _yolo_sign,
    "csv": lambda listing: _first(csv_files(listing)),
}
CONFIRM: Mapping[FormatName, Callable[[Listing, str], bool]] = {
    "voc": lambda listing, sign: b"<annotation" in storage.read_bytes(listing.files[sign]),
    "coco": lambda listing, sign: _mentions(listing.files[sign], b'"images"', b'"annotations"'),
    "yolo": lambda listing, sign: has_labels(listing) is not None,
    "csv": lambda listing, sign: has_header(storage.read_bytes(listing.files[sign])),
}


def _mentions(path: str, *words: bytes) -> bool:
    data = storage.read_bytes(path)
    return all(word in data for word in words)
