"""A COCO document as plain lists, and its categories; what is on the pictures is read in `coco_json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from appliance import storage
from appliance.errors import DatasetError

_UNREAD_KEYS = ("segmentation", "keypoints")


def read_document(where: str) -> tuple[list[Any], list[Any], list[Any]]:
    """The images, annotations and categories of a document, which is read whole.

    Raises:
        StorageError: The file is not there.
        DatasetError: It is no COCO document, or lists no image.
    """
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


def labels_of(
    categories: Sequence[Mapping[str, Any]], annotations: Iterable[Mapping[str, Any]], where: str
) -> dict[Any, str]:
    """Category id -> label, in the order of the ids.

    Raises:
        DatasetError: A category has no name or no id, or shares one.
    """
    by_id = _by_id(categories, where)
    used = {hashable(item.get("category_id")) for item in annotations}
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


def _by_id(categories: Sequence[Mapping[str, Any]], where: str) -> dict[Any, Mapping[str, Any]]:
    found: dict[Any, Mapping[str, Any]] = {}
    for category in categories:
        key = category.get("id")
        if not is_id(key):
            raise DatasetError(
                "The id of a category is wrong", where=where, got=repr(key), expected="a number"
            )
        if key in found:
            raise DatasetError(
                "Two categories have the same id", where=where, got=f"id {key!r} twice"
            )
        found[key] = category
    return found


def is_id(key: object) -> bool:
    """Whether something can be the id of a record."""
    return isinstance(key, int | str) and not isinstance(key, bool)


def hashable(key: object) -> object:
    """An id that annotations may refer to; None for one that is no id."""
    return key if isinstance(key, int | str) else None
