"""YOLO annotations: beside each picture's name a text file with one line per object.

A line is `class cx cy w h`: the number of the class from 0, then centre and size as shares of the upright
picture. Lines with three or more points instead (`class x1 y1 x2 y2 ...`: outlines, rotated boxes) become
the upright box around the points. A picture without a text file shows no object. Which text file belongs
to a picture, and where the names of the classes stand, is decided in `yolo_folder`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from appliance import storage
from appliance.annotations.formats.listing import stem
from appliance.annotations.source import ObjectAnnotation, PictureAnnotation, read_objects
from appliance.errors import DatasetError
from appliance.images.header import PictureHeader

_BOX_NUMBERS = 5
_LEAST_OUTLINE_NUMBERS = 7
_LARGEST_SHARE = 2.0  # a box may reach over the edge, but a share is never a number of pixels


def examine(
    picture_path: str | None, label_path: str | None, labels: Mapping[int, str], *, source: str
) -> PictureAnnotation:
    """Reads the text file of one picture, and the picture's header for its size.

    Args:
        picture_path: The picture; None where it is missing, which is an error here.
        label_path: Its text file, None if it has none: then it shows no object.
        labels: Number of a class -> its name.
        source: Where the text file lies or would lie, for messages.

    Returns:
        Its objects; a line that is wrong is a fault instead.

    Raises:
        DatasetError: The file is no text, or the picture cannot be read.
        StorageError: A file is not there.
    """
    if picture_path is None:
        raise DatasetError(
            "An annotation has no picture",
            where=source,
            hint="Add the picture, or remove the annotation",
        )
    size_hw = PictureHeader.read(picture_path).size_hw
    if label_path is None:
        return PictureAnnotation((), size_hw)
    return parse(storage.read_bytes(label_path), labels, size_hw, source=source)


def parse(
    data: bytes, labels: Mapping[int, str], size_hw: tuple[int, int], *, source: str
) -> PictureAnnotation:
    """Reads the lines of one picture.

    Args:
        data: The text file.
        labels: Number of a class -> its name.
        size_hw: Of the upright picture.
        source: Name for messages.

    Returns:
        Its objects; a line that is wrong is a fault instead.

    Raises:
        DatasetError: The file is no text.
    """
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DatasetError("The annotation is no text", where=source) from None
    numbered = [(f"Line {number}", line.split()) for number, line in enumerate(lines, start=1)]
    objects, faults = read_objects(
        [(name, fields) for name, fields in numbered if fields],
        lambda _, item: _object(item[1], item[0], labels, size_hw, source),
        lambda item: _label(item[1][0], labels),
    )
    return PictureAnnotation(objects, size_hw, faults=faults)


class YoloWriter:
    """Writes `data.yaml`, and `labels/<part>/` beside `images/<part>/`; undivided without the part.

    Args:
        labels: The classes; their numbers count from 0 in this order.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._numbers = {label: number for number, label in enumerate(labels)}
        self._parts: dict[str | None, None] = {}
        self._losses = {"difficult": 0, "truncated": 0, "crowd": 0}

    @property
    def losses(self) -> Mapping[str, int]:
        """Objects whose mark no line can hold; those that stand for a crowd are left out altogether."""
        return self._losses

    def picture_folder(self, part: str | None) -> str:
        """Where the pictures of a part go, below the folder."""
        return "images" if part is None else f"images/{part}"

    def file_of(
        self, part: str | None, file_name: str, annotation: PictureAnnotation
    ) -> tuple[str, bytes] | None:
        """One picture's text file: path below the folder and content.

        Its boxes are of the upright picture, whose size is known.
        """
        height, width = annotation.size_hw or (0, 0)
        lines: list[str] = []
        for item in _written(annotation):
            x1, y1, x2, y2 = item.box_xyxy
            shares = (
                (x1 + x2) / 2 / width,
                (y1 + y2) / 2 / height,
                (x2 - x1) / width,
                (y2 - y1) / height,
            )
            numbers = " ".join(f"{share:.10g}" for share in shares)
            lines.append(f"{self._numbers[item.label]} {numbers}\n")
        folder = self.picture_folder(part).replace("images", "labels", 1)
        return f"{folder}/{stem(file_name)}.txt", "".join(lines).encode()

    def add(self, part: str | None, file_name: str, annotation: PictureAnnotation) -> int:
        """Counts one picture; returns how many of its objects its text file has."""
        self._parts[part] = None
        for mark in self._losses:
            self._losses[mark] += sum(getattr(item, mark) for item in annotation.objects)
        return len(_written(annotation))

    def last_files(self) -> Iterator[tuple[str, bytes]]:
        """`data.yaml`."""
        import yaml

        content: dict[str, object] = {
            part or "train": self.picture_folder(part) for part in self._parts
        }
        if "valid" in content:
            content["val"] = content.pop("valid")  # the word that YOLO looks for
        content["names"] = {number: label for label, number in self._numbers.items()}
        yield "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()


def _written(annotation: PictureAnnotation) -> list[ObjectAnnotation]:
    """The objects without crowds, each of which YOLO would learn as one object."""
    return [item for item in annotation.objects if not item.crowd]


def _label(text: str, labels: Mapping[int, str]) -> str | None:
    with suppress(ValueError, OverflowError):
        return labels.get(int(float(text)))
    return None


def _object(
    fields: Sequence[str],
    name: str,
    labels: Mapping[int, str],
    size_hw: tuple[int, int],
    source: str,
) -> ObjectAnnotation:
    try:
        class_number, *shares = map(float, fields)
    except ValueError:
        raise DatasetError(
            f"{name} holds something else than numbers", where=source, got=repr(" ".join(fields))
        ) from None
    count = len(fields)
    if count != _BOX_NUMBERS and (count < _LEAST_OUTLINE_NUMBERS or count % 2 == 0):
        hint = (
            "A sixth number is the score of a detection; remove it to use detections as annotations"
            if count == _BOX_NUMBERS + 1
            else None
        )
        raise DatasetError(
            f"{name} has the wrong number of numbers",
            where=source,
            got=count,
            expected="class cx cy w h, or class and at least three points",
            hint=hint,
        )
    if class_number not in labels:
        raise DatasetError(
            f"{name} has an unknown class",
            where=source,
            got=fields[0],
            expected=f"a number from {min(labels)} to {max(labels)}",
        )
    if not all(math.isfinite(share) and abs(share) <= _LARGEST_SHARE for share in shares):
        raise DatasetError(
            f"{name} has no usable box",
            where=source,
            got=" ".join(fields[1:]),
            expected="shares of the picture from 0 to 1, not pixels",
        )
    height, width = size_hw
    if count == _BOX_NUMBERS:
        cx, cy, w, h = shares
        left, top, right, bottom = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    else:
        xs, ys = shares[::2], shares[1::2]
        left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
    box = (left * width, top * height, right * width, bottom * height)
    return ObjectAnnotation(labels[int(class_number)], box)
