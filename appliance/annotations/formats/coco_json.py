"""COCO annotations: one JSON document for many pictures, with `images`, `annotations` and `categories`.

Read are boxes (`bbox`: x, y, width, height), `iscrowd`, and the extra keys `difficult`, `truncated` and
`ignore` (as `difficult`); segmentations and key points are left aside. The classes are the categories in
the order of their ids. Only the pictures that `images` lists belong to the data.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from appliance.annotations.formats.coco_document import (
    hashable,
    is_id,
    labels_of,
    read_document,
)
from appliance.annotations.formats.named_pictures import PictureFinder, entry_names, plain_name
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


@dataclass
class _Picture:
    """What a document says of one picture.

    Attributes:
        image: Its record.
        annotations: The records that refer to it, each with what is wrong with its id, "" for nothing.
        fault: What keeps it from being told from another picture, and what was found.
    """

    image: Mapping[str, Any]
    file_name: str
    annotations: list[tuple[Mapping[str, Any], str]] = field(default_factory=list)
    fault: tuple[str, str] | None = None


def open_coco(
    path: str | os.PathLike[str], images_root: str | os.PathLike[str] | None = None
) -> AnnotationSource:
    """Lists the pictures of a COCO document, which is read whole.

    Args:
        path: The document.
        images_root: A folder of pictures elsewhere.

    Raises:
        StorageError: The file is not there.
        DatasetError: It is no COCO document, or its categories are wrong; what is wrong with an image or
            an annotation becomes a fault.
    """
    where = os.fspath(path)
    images, annotations, categories = read_document(where)
    labels = labels_of(categories, annotations, where)
    pictures, by_id, unnamed = _pictures(images, where)
    strays = _hand_out(annotations, by_id, where)
    finder = PictureFinder(where, images_root)
    found, outside = finder.find_all(picture.file_name for picture in pictures)
    names = entry_names([picture.file_name for picture in pictures])
    entries = [
        Entry(
            names[picture.file_name],
            found[picture.file_name],
            where,
            partial(_read, picture, labels, where),
        )
        for picture in pictures
        if picture.file_name in found
    ]
    entries.sort(key=lambda entry: entry.name)
    return AnnotationSource(
        where,
        "coco",
        tuple(entries),
        labels=tuple(labels.values()),
        faults=(*unnamed, *strays, *outside),
    )


class CocoWriter:
    """Writes `annotations/instances_<part>.json` beside `images/<part>/`; undivided without the part.

    Args:
        labels: The classes; their ids count from 1 in this order.
    """

    losses: Mapping[str, int] = {}  # the extra keys hold everything

    def __init__(self, labels: Sequence[str]) -> None:
        self._ids = {label: number for number, label in enumerate(labels, start=1)}
        self._documents: dict[str | None, dict[str, list[Any]]] = {}

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
        document = self._documents.setdefault(part, {"images": [], "annotations": []})
        height, width = annotation.size_hw or (0, 0)
        image_id = len(document["images"]) + 1
        document["images"].append(
            {"id": image_id, "file_name": file_name, "width": width, "height": height}
        )
        for item in annotation.objects:
            x1, y1, x2, y2 = item.box_xyxy
            written: dict[str, Any] = {
                "id": len(document["annotations"]) + 1,
                "image_id": image_id,
                "category_id": self._ids[item.label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": int(item.crowd),
            }
            if item.difficult:
                written |= {"difficult": 1, "ignore": 1}
            if item.truncated:
                written["truncated"] = 1
            document["annotations"].append(written)
        return len(annotation.objects)

    def last_files(self) -> Iterator[tuple[str, bytes]]:
        """The documents: path below the folder and content."""
        categories = [{"id": number, "name": label} for label, number in self._ids.items()]
        for part, document in self._documents.items():
            name = "instances.json" if part is None else f"instances_{part}.json"
            text = json.dumps({**document, "categories": categories}, ensure_ascii=False)
            yield f"annotations/{name}", text.encode()


def _pictures(
    images: Sequence[Mapping[str, Any]], where: str
) -> tuple[list[_Picture], dict[Any, _Picture], list[Fault]]:
    """The pictures, each file once; id -> picture, also without a name; and those without one."""
    pictures: dict[str, _Picture] = {}
    by_id: dict[Any, _Picture] = {}
    faults: list[Fault] = []
    for image in images:
        key, file_name = image.get("id"), image.get("file_name")
        if not isinstance(file_name, str) or not plain_name(file_name):
            got = f"file_name {file_name!r} of image {key!r}"
            error = DatasetError("A picture has no file name", where=where, got=got)
            faults.append(Fault("picture-unnamed", error))
            picture = _Picture(image, "a picture without a name")
        else:
            picture = pictures.setdefault(plain_name(file_name), _Picture(image, file_name))
            if picture.image is not image:
                picture.fault = ("A picture is listed twice", file_name)
        if not is_id(key):
            picture.fault = ("The id of a picture is wrong", f"{key!r} of {picture.file_name}")
            continue
        other = by_id.setdefault(key, picture)
        if other is not picture:
            got = f"id {key!r} of {other.file_name} and of {picture.file_name}"
            picture.fault = other.fault = ("Two pictures have the same id", got)
    return list(pictures.values()), by_id, faults


def _hand_out(
    annotations: Sequence[Mapping[str, Any]], by_id: Mapping[Any, _Picture], where: str
) -> list[Fault]:
    """Gives each annotation to its picture; what belongs to none is a fault."""
    faults: list[Fault] = []
    seen: set[Any] = set()
    for item in annotations:
        key, image_id = item.get("id"), hashable(item.get("image_id"))
        wrong = ""
        if "id" in item:
            if not is_id(key):
                wrong = f"the id of an annotation is wrong (got {key!r}, expected a number)"
            elif key in seen:
                wrong = f"two annotations have the same id (got id {key!r} twice)"
            else:
                seen.add(key)
        if image_id not in by_id:
            error = DatasetError(
                "An annotation belongs to no picture",
                where=where,
                got=f"image_id {item.get('image_id')!r} in annotation {key!r}",
                expected="the id of one of the images",
            )
            faults.append(Fault("object-of-no-picture", error))
        else:
            by_id[image_id].annotations.append((item, wrong))
    return faults


def _read(picture: _Picture, labels: Mapping[Any, str], where: str) -> PictureAnnotation:
    if picture.fault is not None:
        what, got = picture.fault
        raise DatasetError(what, where=where, got=got, expected="one id and one entry for each")
    objects, faults = read_objects(
        [item for item, _ in picture.annotations],
        lambda number, item: _object(item, _name_of(item, number, picture), labels, where),
        lambda item: labels.get(hashable(item.get("category_id"))),
    )
    for number, (item, wrong) in enumerate(picture.annotations, start=1):
        if wrong:
            error = DatasetError(wrong[0].upper() + wrong[1:], where=where)
            label = labels.get(hashable(item.get("category_id")))
            faults = (*faults, Fault("annotation-id", error, number, label))
    sides = [picture.image.get(side) for side in ("height", "width")]
    usable = [side for side in sides if isinstance(side, int | float) and 1 <= side < math.inf]
    size_hw = (round(usable[0]), round(usable[1])) if len(usable) == 2 else None
    return PictureAnnotation(objects, size_hw, picture.file_name, faults)


def _name_of(item: Mapping[str, Any], number: int, picture: _Picture) -> str:
    name = f"Annotation {item['id']!r}" if "id" in item else f"Object {number}"
    return f"{name} of {picture.file_name}"


def _object(
    item: Mapping[str, Any], name: str, labels: Mapping[Any, str], where: str
) -> ObjectAnnotation:
    label = labels.get(hashable(item.get("category_id")))
    if label is None:
        raise DatasetError(
            f"{name} has an unknown category",
            where=where,
            got=f"category_id {item.get('category_id')!r}",
            expected=f"one of {', '.join(str(key) for key in labels)}",
        )
    box = item.get("bbox")
    corners = _corners(box)
    if corners is None:
        raise DatasetError(
            f"{name} ({label}) has no usable bbox",
            where=where,
            got=repr(box),
            expected="x, y, width and height in pixels",
        )
    return ObjectAnnotation(
        label,
        corners,
        difficult=_flag(item, "difficult", name, where) or _flag(item, "ignore", name, where),
        truncated=_flag(item, "truncated", name, where),
        crowd=_flag(item, "iscrowd", name, where),
    )


def _corners(bbox: object) -> tuple[float, float, float, float] | None:
    """x1, y1, x2, y2 of a `bbox`, None for one that is none."""
    if not isinstance(bbox, list) or len(bbox) != 4:
        return None
    for value in bbox:
        # Python's whole numbers have no limit, those of pixels do.
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if not is_coordinate(value):
            return None
    x, y, width, height = map(float, bbox)
    return x, y, x + width, y + height


def _flag(item: Mapping[str, Any], key: str, name: str, where: str) -> bool:
    value = item.get(key)
    if value not in (None, 0, 1):  # True and False are among them
        raise DatasetError(
            f"{name}: {key} is wrong", where=where, got=repr(value), expected="0 or 1"
        )
    return bool(value)
