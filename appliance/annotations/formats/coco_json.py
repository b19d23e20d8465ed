"""COCO annotations: one JSON document for many pictures, with `images`, `annotations` and `categories`.

Read are boxes (`bbox`: x, y, width, height), `iscrowd`, and the extra keys `difficult`, `truncated` and
`ignore` (as `difficult`); segmentations and key points are left aside. The classes are the categories in
the order of their ids. Only the pictures that `images` lists belong to the data.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from appliance import storage
from appliance.annotations.formats.named_pictures import PictureFinder, entry_names, plain_name
from appliance.annotations.source import (
    AnnotationSource,
    Entry,
    ObjectAnnotation,
    PictureAnnotation,
)
from appliance.errors import DatasetError

_UNREAD_KEYS = ("segmentation", "keypoints")


def open_coco(path: str | os.PathLike[str]) -> AnnotationSource:
    """Lists the pictures of a COCO document, which is read whole.

    Raises:
        StorageError: The file is not there.
        DatasetError: It is no COCO document, an id stands twice, or an annotation has no picture.
    """
    where = os.fspath(path)
    images, annotations, categories = _document(where)
    labels = _labels(categories, annotations, where)
    named = _by_id(images, "picture", where)
    annotations_of: dict[Any, list[Mapping[str, Any]]] = {key: [] for key in named}
    _by_id([item for item in annotations if "id" in item], "annotation", where)
    for item in annotations:
        image_id = _hashable(item.get("image_id"))
        if image_id not in annotations_of:
            raise DatasetError(
                "An annotation belongs to no picture",
                where=where,
                got=f"image_id {item.get('image_id')!r} in annotation {item.get('id')!r}",
                expected="the id of one of the images",
            )
        annotations_of[image_id].append(item)
    file_names = [_file_name(image, where) for image in named.values()]
    _refuse_doubles(file_names, where)
    finder, names = PictureFinder(where), entry_names(file_names)
    entries = [
        Entry(
            names[file_name],
            finder.find(file_name),
            where,
            partial(_read, image, file_name, annotations_of[key], labels, where),
        )
        for (key, image), file_name in zip(named.items(), file_names, strict=True)
    ]
    entries.sort(key=lambda entry: entry.name)
    return AnnotationSource(where, "coco", tuple(entries), labels=tuple(labels.values()))


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

    def add(self, part: str | None, file_name: str, annotation: PictureAnnotation) -> None:
        """Takes one picture; boxes are of the upright picture, whose size is known."""
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

    def last_files(self) -> Iterator[tuple[str, bytes]]:
        """The documents: path below the folder and content."""
        categories = [{"id": number, "name": label} for label, number in self._ids.items()]
        for part, document in self._documents.items():
            name = "instances.json" if part is None else f"instances_{part}.json"
            text = json.dumps({**document, "categories": categories}, ensure_ascii=False)
            yield f"annotations/{name}", text.encode()


def _document(where: str) -> tuple[list[Any], list[Any], list[Any]]:
    try:
        document = json.loads(storage.read_bytes(where), object_hook=_without_unread)
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, or no text
        raise DatasetError(
            "The annotations are no JSON", where=where, got=str(error) or "nested too deeply"
        ) from None
    keys = ("images", "annotations", "categories")
    if isinstance(document, list):
        raise DatasetError(
            "Not COCO annotations",
            where=where,
            got="a list, as detections are written (COCO results)",
            expected=f"an object with the lists {', '.join(keys)}",
        )
    lists = [document.get(key) if isinstance(document, dict) else None for key in keys]
    for key, value in zip(keys, lists, strict=True):
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise DatasetError(
                "Not COCO annotations",
                where=where,
                got=f"{key} is {_kind(value)}",
                expected=f"lists of objects: {', '.join(keys)}",
            )
    images, annotations, categories = (value or [] for value in lists)
    if not images:
        raise DatasetError("The dataset is empty", where=where, expected="at least one of images")
    return images, annotations, categories


def _without_unread(item: dict[str, Any]) -> dict[str, Any]:
    # Outlines are most of a document; without them it takes a tenth of the memory.
    for key in _UNREAD_KEYS:
        item.pop(key, None)
    return item


def _kind(value: object) -> str:
    return (
        "missing"
        if value is None
        else "a list of other things"
        if isinstance(value, list)
        else f"a {type(value).__name__}"
    )


def _labels(
    categories: Sequence[Mapping[str, Any]], annotations: Iterable[Mapping[str, Any]], where: str
) -> dict[Any, str]:
    """Category id -> label, in the order of the ids."""
    by_id = _by_id(categories, "category", where)
    used = {_hashable(item.get("category_id")) for item in annotations}
    parents = {category.get("supercategory") for category in categories}
    labels: dict[Any, str] = {}
    for key in sorted(by_id, key=lambda key: (isinstance(key, str), key)):
        name = by_id[key].get("name")
        if not isinstance(name, str) or not name.strip():
            raise DatasetError(
                "A category has no name", where=where, got=f"{name!r} for id {key!r}"
            )
        if name.strip() in labels.values():
            raise DatasetError(
                "A category stands twice", where=where, got=name, expected="one id for each name"
            )
        # Roboflow lists the name of the whole project as a class of its own.
        is_heading = name in parents and by_id[key].get("supercategory") != name
        if key in used or not is_heading:
            labels[key] = name.strip()
    return labels


def _by_id(
    items: Sequence[Mapping[str, Any]], what: str, where: str
) -> dict[Any, Mapping[str, Any]]:
    found: dict[Any, Mapping[str, Any]] = {}
    for item in items:
        key = item.get("id")
        if isinstance(key, bool) or not isinstance(key, int | str):
            raise DatasetError(
                f"The id of a {what} is wrong", where=where, got=repr(key), expected="a number"
            )
        if key in found:
            raise DatasetError(
                f"Two {_PLURALS[what]} have the same id", where=where, got=f"id {key!r} twice"
            )
        found[key] = item
    return found


_PLURALS = {"picture": "pictures", "annotation": "annotations", "category": "categories"}


def _hashable(key: object) -> object:
    return key if isinstance(key, int | str) else None


def _file_name(image: Mapping[str, Any], where: str) -> str:
    name = image.get("file_name")
    if not isinstance(name, str) or not plain_name(name):
        raise DatasetError(
            "A picture has no file name",
            where=where,
            got=f"file_name {name!r} of image {image.get('id')!r}",
        )
    return name


def _refuse_doubles(file_names: Sequence[str], where: str) -> None:
    seen: set[str] = set()
    for name in file_names:
        if plain_name(name) in seen:
            raise DatasetError("A picture is listed twice", where=where, got=name)
        seen.add(plain_name(name))


def _read(
    image: Mapping[str, Any],
    file_name: str,
    annotations: Sequence[Mapping[str, Any]],
    labels: Mapping[Any, str],
    where: str,
) -> PictureAnnotation:
    objects = tuple(
        _object(item, f"Object {number} of {file_name}", labels, where)
        for number, item in enumerate(annotations, start=1)
    )
    sides = [image.get(side) for side in ("height", "width")]
    usable = [side for side in sides if isinstance(side, int | float) and 1 <= side < math.inf]
    size_hw = (round(usable[0]), round(usable[1])) if len(usable) == 2 else None
    return PictureAnnotation(objects, size_hw, file_name)


def _object(
    item: Mapping[str, Any], name: str, labels: Mapping[Any, str], where: str
) -> ObjectAnnotation:
    label = labels.get(_hashable(item.get("category_id")))
    if label is None:
        raise DatasetError(
            f"{name} has an unknown category",
            where=where,
            got=f"category_id {item.get('category_id')!r}",
            expected=f"one of {', '.join(str(key) for key in labels)}",
        )
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise DatasetError(
            f"{name} ({label}) has no usable bbox",
            where=where,
            got=repr(box),
            expected="x, y, width and height in pixels",
        )
    x, y, width, height = map(float, box)
    return ObjectAnnotation(
        label,
        (x, y, x + width, y + height),
        difficult=_flag(item, "difficult", name, where) or _flag(item, "ignore", name, where),
        truncated=_flag(item, "truncated", name, where),
        crowd=_flag(item, "iscrowd", name, where),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _flag(item: Mapping[str, Any], key: str, name: str, where: str) -> bool:
    value = item.get(key)
    if value not in (None, 0, 1):  # True and False are among them
        raise DatasetError(
            f"{name}: {key} is wrong", where=where, got=repr(value), expected="0 or 1"
        )
    return bool(value)
