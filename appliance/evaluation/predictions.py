"""Detections as COCO results, the JSON that every detection tool writes: read from elsewhere, and written.

A file is a list of objects, one a detection:

    {"file_name": "a/001.jpg", "category_name": "water", "bbox": [x, y, width, height], "score": 0.93}

`image_id` may stand in for `file_name`, and `category_id` for `category_name`; where both are given, the
name counts. Boxes are in pixels of the picture, upright, from its left upper corner.

A `file_name` finds its picture with or without folder and extension. An `image_id` is, in this order: the
id that a COCO data set gives the picture; its name, for a text; the number that its name consists of, as
in `000000000139.jpg`. It never is a place in a list, for lists are sorted in many ways. A `category_id` is
the id that a COCO data set gives the class, elsewhere the place among the labels, from 1.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from appliance import storage
from appliance.detections import Detections
from appliance.errors import DatasetError, LabelError
from appliance.evaluation.box_forms import BoxForms
from appliance.evaluation.picture_index import PictureIndex, quoted
from appliance.labels import LabelMap

if TYPE_CHECKING:
    from appliance.annotations.dataset import AnnotatedImage

logger = logging.getLogger(__name__)

_CATEGORY_NAMES = ("category_name", "category", "label")
_SPECK_PX = 0.0625
_MOST_PX = 1e9
_FORM = (
    'a list of {"file_name" or "image_id", "category_name" or "category_id", '
    '"bbox": [x, y, width, height], "score"}'
)


@dataclass(frozen=True)
class CocoIds:
    """The ids that a COCO data set gives its pictures and classes.

    Attributes:
        images: Id -> file name.
        categories: Id -> label.
    """

    images: Mapping[int | str, str] = field(default_factory=dict)
    categories: Mapping[int | str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, images: Sequence[AnnotatedImage]) -> CocoIds:
        """The ids in the COCO document that all the pictures come from; none for other formats.

        Raises:
            StorageError: The document cannot be read any more.
        """
        paths = {image.annotation_path for image in images}
        path = paths.pop() if len(paths) == 1 else None
        if path is None or not path.lower().endswith(".json"):
            return cls()
        document = json.loads(storage.read_bytes(path))
        return cls(
            {picture["id"]: picture["file_name"] for picture in document["images"]},
            {category["id"]: category["name"].strip() for category in document["categories"]},
        )


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a file of COCO results holds.

    Attributes:
        detections: One per picture, in the order of the pictures.
        clipped: Boxes that reached over the edge and were cut there.
        without_area: Boxes without area on their picture: wrong detections, whatever they say.
    """

    detections: tuple[Detections, ...]
    clipped: int
    without_area: int = 0


def read_predictions(
    path: str | os.PathLike[str],
    images: Sequence[AnnotatedImage],
    labels: LabelMap,
    ids: CocoIds = CocoIds(),
) -> Predictions:
    """Reads detections that were made elsewhere.

    Args:
        path: File or URI.
        images: The pictures of the data set; those without a detection get an empty one.
        labels: The classes.
        ids: Those of a COCO data set.

    Raises:
        StorageError: The file cannot be read.
        DatasetError: It is no list of detections; or one of them has an unknown picture, no box or no
            score, and the message says which one; or most boxes have no area on their picture; or all
            are shares of it, or corners.
        LabelError: One of them has an unknown class.
    """
    rows = _rows(path)
    pictures = PictureIndex(images, ids.images)
    categories: dict[int | str, str] = dict(ids.categories) or dict(
        enumerate(labels.names, start=1)
    )
    boxes: dict[int, list[tuple[float, float, float, float]]] = defaultdict(list)
    scores: dict[int, list[float]] = defaultdict(list)
    class_ids: dict[int, list[int]] = defaultdict(list)
    clipped = without_area = 0
    forms = BoxForms()
    for number, row in enumerate(rows, start=1):
        where = f"{path}, detection {number}"
        if not isinstance(row, dict):
            raise DatasetError("Not a detection", where=where, got=quoted(row), expected=_FORM)
        index = pictures.index_of(row, where)
        class_ids[index].append(_class_id(row, labels, categories, where))
        box, has_area, was_clipped = _box(row, images[index], where)
        forms.add(row["bbox"], images[index].size_hw)
        boxes[index].append(box)
        scores[index].append(_score(row, where))
        clipped += was_clipped
        without_area += not has_area
    forms.check(path)
    if 2 * without_area > len(rows):
        raise DatasetError(
            "Most detections have no area on their picture",
            where=path,
            got=f"{without_area:,} of {len(rows):,}",
            expected="bbox as [x, y, width, height] in pixels of the original picture",
            hint="They may be in pixels of another size, or y may stand before x",
        )
    if clipped:
        logger.warning(
            "%s: %d boxes reached over the edge and are measured as cut there", path, clipped
        )
    if without_area:
        logger.warning(
            "%s: %d boxes have no area on their picture and count as wrong", path, without_area
        )
    found = []
    for index, image in enumerate(images):
        order = np.argsort(-np.array(scores[index], np.float32), kind="stable")
        found.append(
            Detections(
                np.array(boxes[index], np.float32).reshape(-1, 4)[order],
                np.array(scores[index], np.float32)[order],
                np.array(class_ids[index], np.int64)[order],
                image.size_hw,
            )
        )
    return Predictions(tuple(found), clipped, without_area)


def write_predictions(
    path: str | os.PathLike[str],
    images: Sequence[AnnotatedImage],
    detections: Sequence[Detections],
    labels: LabelMap,
    ids: CocoIds = CocoIds(),
) -> None:
    """Writes detections so that `read_predictions`, and every tool that knows COCO results, reads them.

    Args:
        path: File or URI.
        images: The pictures.
        detections: One per picture, in the same order.
        labels: The classes.
        ids: Those of a COCO data set, to be used in the file; elsewhere pictures and classes are
            numbered from 1 in their order.

    Raises:
        StorageError: It cannot be written.
    """
    names = _short_paths([image.storage_path for image in images])
    finder = PictureIndex(images, {})
    known = ((finder.named(name), number) for number, name in ids.images.items())
    image_ids = {indices[0]: number for indices, number in known if len(indices) == 1}
    category_ids = {name: number for number, name in ids.categories.items()}
    lines = []
    for index, (name, found) in enumerate(zip(names, detections, strict=True)):
        x1, y1, x2, y2 = found.boxes_xyxy.astype(np.float64).T
        for row, class_id in enumerate(found.class_ids.tolist()):
            label = labels.name_of(class_id)
            corner = (_short(found.boxes_xyxy[row, 0]), _short(found.boxes_xyxy[row, 1]))
            size = (float(f"{x2[row] - x1[row]:.9g}"), float(f"{y2[row] - y1[row]:.9g}"))
            document = {
                "image_id": image_ids.get(index, index + 1),
                "file_name": name,
                "category_id": category_ids.get(label, class_id),
                "category_name": label,
                "bbox": [*corner, *size],
                "score": _short(found.scores[row]),
            }
            lines.append(json.dumps(document, ensure_ascii=False))
    text = "[\n" + ",\n".join(lines) + "\n]\n"
    storage.write_bytes(path, text.encode())


def _rows(path: str | os.PathLike[str]) -> list[Any]:
    try:
        rows = json.loads(storage.read_bytes(path))
    except (ValueError, RecursionError) as error:  # no JSON, or nested by the thousand
        raise DatasetError("Not a JSON file", where=path, got=error, expected=_FORM) from None
    if not isinstance(rows, list):
        found = quoted(rows)
        if isinstance(rows, dict):
            found = f"an object with {', '.join(rows) or 'nothing in it'}"
        raise DatasetError("Not COCO results", where=path, got=found, expected=_FORM)
    return rows


def _class_id(
    row: Mapping[str, Any], labels: LabelMap, categories: Mapping[int | str, str], where: str
) -> int:
    given = next((row[key] for key in _CATEGORY_NAMES if isinstance(row.get(key), str)), None)
    number = row.get("category_id")
    name = given
    if name is None and isinstance(number, int) and not isinstance(number, bool):
        name = categories.get(number)
    if name is None or name not in labels:
        raise LabelError(
            "A detection has a class that the data set does not have",
            where=where,
            got=f"category_id {quoted(number)}" if given is None else repr(given),
            expected=f"one of {', '.join(labels.names)}"
            if given is not None
            else ", ".join(f"{key} ({value})" for key, value in categories.items()),
            hint="Name all classes with --labels, or correct the file",
        )
    return labels.id_of(name)


def _box(
    row: Mapping[str, Any], image: AnnotatedImage, where: str
) -> tuple[tuple[float, float, float, float], bool, bool]:
    """The box on its picture, whether it has area there, and whether it was cut at the edge."""
    box = row.get("bbox")
    height, width = image.size_hw
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(side) for side in box):
        raise DatasetError(
            "A detection has no box",
            where=where,
            got=quoted(box),
            expected="bbox as four numbers [x, y, width, height]",
        )
    if max(map(abs, box)) > _MOST_PX:
        raise DatasetError(
            "A detection has a box beyond any picture",
            where=where,
            got=quoted(box),
            expected=f"bbox in pixels of a picture {width} wide and {height} high",
        )
    # The corner as it will be kept: a box that was written here comes back to the last bit.
    x, y = (float(np.float32(value)) for value in box[:2])
    given = np.array([x, y, x + box[2], y + box[3]])
    inside = np.clip(given, 0, [width, height, width, height]).astype(np.float32)
    if box[2] <= 0 or box[3] <= 0 or inside[0] >= inside[2] or inside[1] >= inside[3]:
        # A speck, for boxes must have area: it overlaps no object by half, so it counts as wrong.
        left = min(float(inside[0]), width - _SPECK_PX)
        top = min(float(inside[1]), height - _SPECK_PX)
        return (left, top, left + _SPECK_PX, top + _SPECK_PX), False, False
    x1, y1, x2, y2 = inside.tolist()
    # What rounding alone moved over the edge is not worth a word.
    return (x1, y1, x2, y2), True, bool((np.abs(given - inside) > 0.01).any())


def _score(row: Mapping[str, Any], where: str) -> float:
    score = row.get("score")
    if not _is_finite(score) or not 0 <= score <= 1:
        raise DatasetError(
            "A detection has no score", where=where, got=quoted(score), expected="score from 0 to 1"
        )
    return float(score)


def _is_finite(value: Any) -> TypeGuard[float]:
    # Not math.isfinite, which cannot take whole numbers of more than 308 digits.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < math.inf


def _short_paths(paths: Sequence[str]) -> list[str]:
    """Paths below the folder that all of them share."""
    first, last = min(paths, default="").split("/"), max(paths, default="").split("/")
    pairs = zip(first[:-1], last[:-1], strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return ["/".join(path.split("/")[shared:]) for path in paths]


def _short(value: np.float32) -> float:
    """The shortest number that is the same as float32."""
    return float(str(value))
