"""Pascal VOC annotations: one XML file per picture."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from appliance import storage
from appliance.annotations.formats.listing import stem
from appliance.annotations.placing import plain_number
from appliance.annotations.source import (
    ObjectAnnotation,
    PictureAnnotation,
    is_coordinate,
    read_objects,
)
from appliance.errors import DatasetError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_DECLARED_ENCODING = re.compile(rb"\s*<\?xml[^>]*?encoding=([\"'])([A-Za-z][\w.:-]*)\1")
_ENCODINGS_OF_THE_PARSER = ("utf-8", "us-ascii", "ascii", "iso-8859-1")
_ENCODINGS_OF_TWO_BYTES = ("utf-16", "utf16", "utf-16le", "utf-16be", "unicode")
_TRUE_WORDS = ("1", "true", "yes")
# How tools write objects that have another shape than a box.
_OTHER_SHAPES = {
    "polygon": "an outline instead of a box",
    "robndbox": "a rotated box instead of an upright one",
}


def read(path: str | os.PathLike[str]) -> PictureAnnotation:
    """Reads one annotation file.

    Raises:
        StorageError: The file cannot be read.
        DatasetError: It is no Pascal VOC annotation, or an object lacks its name or a coordinate.
    """
    return examine(path).refuse_faults()


def examine(path: str | os.PathLike[str]) -> PictureAnnotation:
    """Reads one annotation file; an object that lacks its name or a coordinate becomes a fault.

    Raises:
        StorageError: The file cannot be read.
        DatasetError: It is no Pascal VOC annotation.
    """
    return parse(storage.read_bytes(path), source=os.fspath(path))


def parse(data: bytes, *, source: str) -> PictureAnnotation:
    """Reads one annotation; tolerates any order of elements, missing flags and broken numbers of pixels.

    Args:
        data: The XML document.
        source: Name for messages.

    Returns:
        Its objects; one that lacks its name or a coordinate is a fault instead.

    Raises:
        DatasetError: It is no XML, declares entities, or is no annotation.
    """
    root = _root(data, source)
    objects, faults = read_objects(
        root.findall("object"),
        lambda number, element: _object(element, number, source),
        lambda element: _text(element, "name"),
    )
    return PictureAnnotation(objects, _size_hw(root), _text(root, "filename"), faults)


def write(path: str | os.PathLike[str], annotation: PictureAnnotation) -> None:
    """Writes one annotation file as LabelImg does.

    Raises:
        StorageError: The file cannot be written.
    """
    storage.write_bytes(path, to_xml(annotation, folder=Path(path).parent.parent.name))


def to_xml(annotation: PictureAnnotation, *, folder: str = "JPEGImages") -> bytes:
    """The annotation as an XML document in UTF-8; whole numbers are written without a fraction."""
    lines = ["<annotation>", f"  <folder>{escape(folder)}</folder>"]
    if annotation.filename is not None:
        lines.append(f"  <filename>{escape(annotation.filename)}</filename>")
    if annotation.size_hw is not None:
        height, width = annotation.size_hw
        lines += [
            "  <size>",
            f"    <width>{width}</width>",
            f"    <height>{height}</height>",
            "    <depth>3</depth>",
            "  </size>",
        ]
    lines.append("  <segmented>0</segmented>")
    for item in annotation.objects:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), item.box_xyxy, strict=True)
        lines += [
            "  <object>",
            f"    <name>{escape(item.label)}</name>",
            "    <pose>Unspecified</pose>",
            f"    <truncated>{int(item.truncated)}</truncated>",
            f"    <difficult>{int(item.difficult)}</difficult>",
            "    <bndbox>",
            *(f"      <{name}>{plain_number(value)}</{name}>" for name, value in corners),
            "    </bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""]).encode()


class VocWriter:
    """Writes `Annotations/` beside `JPEGImages/`, for a part in a folder of its name.

    Args:
        labels: Not written: Pascal VOC has no order of classes.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._crowds = 0

    @property
    def losses(self) -> Mapping[str, int]:
        """Objects that stand for a crowd are written as difficult."""
        return {"crowd": self._crowds}

    def picture_folder(self, part: str | None) -> str:
        """Where the pictures of a part go, below the folder."""
        return "JPEGImages" if part is None else f"{part}/JPEGImages"

    def file_of(
        self, part: str | None, file_name: str, annotation: PictureAnnotation
    ) -> tuple[str, bytes] | None:
        """One picture's XML: path below the folder and content."""
        objects = tuple(
            replace(item, difficult=item.difficult or item.crowd) for item in annotation.objects
        )
        folder = "Annotations" if part is None else f"{part}/Annotations"
        name = PurePosixPath(file_name).name
        xml = to_xml(PictureAnnotation(objects, annotation.size_hw, name))
        return f"{folder}/{stem(file_name)}.xml", xml

    def add(self, part: str | None, file_name: str, annotation: PictureAnnotation) -> int:
        """Counts one picture; returns how many objects it has."""
        self._crowds += sum(item.crowd for item in annotation.objects)
        return len(annotation.objects)

    def last_files(self) -> Iterator[tuple[str, bytes]]:
        """Nothing is left to write."""
        return iter(())


def _root(data: bytes, source: str) -> Element:
    from xml.etree.ElementTree import ParseError

    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        root: Element = fromstring(_in_known_encoding(data), forbid_dtd=True)
    except DefusedXmlException:
        raise DatasetError(
            "The annotation has a DOCTYPE, which can declare entities; it is not read for safety",
            where=source,
            hint="Remove its DOCTYPE and entities",
        ) from None
    except (ParseError, ValueError, LookupError) as error:
        # ValueError and LookupError: encodings that nobody knows, or that the text is not in.
        raise DatasetError(
            "The annotation is no well-formed XML",
            where=source,
            got=error,
            hint="Repair or remove it",
        ) from None
    if root.tag != "annotation":
        raise DatasetError(
            "Not a Pascal VOC annotation",
            where=source,
            got=f"<{root.tag}>",
            expected="<annotation> as the outermost element",
        )
    return root


def _in_known_encoding(data: bytes) -> bytes:
    """The document in UTF-8 if it declares an encoding that the parser does not know, such as GBK."""
    declared = _DECLARED_ENCODING.match(data)
    if declared is None:
        return data
    encoding = declared[2].decode("ascii")
    if encoding.lower() in _ENCODINGS_OF_TWO_BYTES:
        encoding = "utf-8"  # in two bytes a character one could not have read the word
    elif encoding.lower().replace("_", "-") in _ENCODINGS_OF_THE_PARSER:
        return data
    text = data[: declared.start(2)] + b"utf-8" + data[declared.end(2) :]
    return text.decode(encoding).encode()


def _text(element: Element, path: str) -> str | None:
    text = (element.findtext(path) or "").strip()
    return text or None


def _flag(element: Element, name: str) -> bool:
    return (_text(element, name) or "0").lower() in _TRUE_WORDS


def _size_hw(root: Element) -> tuple[int, int] | None:
    # Old versions of LabelImg write 0x0: that is "unknown", like no size at all.
    try:
        width, height = (float(_text(root, f"size/{side}") or 0) for side in ("width", "height"))
    except ValueError:
        return None
    if not (math.isfinite(width) and math.isfinite(height) and width >= 1 and height >= 1):
        return None
    return round(height), round(width)


def _object(element: Element, number: int, source: str) -> ObjectAnnotation:
    label = _text(element, "name")
    if label is None:
        raise DatasetError(
            f"Object {number} has no class name", where=source, expected="<name> with a text"
        )
    if element.find("bndbox") is None:
        _refuse_other_shapes(element, f"Object {number} ({label})", source)
    box = tuple(
        _coordinate(element, corner, f"Object {number} ({label})", source)
        for corner in ("xmin", "ymin", "xmax", "ymax")
    )
    x1, y1, x2, y2 = box
    return ObjectAnnotation(
        label, (x1, y1, x2, y2), _flag(element, "difficult"), _flag(element, "truncated")
    )


def _refuse_other_shapes(element: Element, name: str, source: str) -> None:
    for tag, shape in _OTHER_SHAPES.items():
        if element.find(tag) is not None:
            raise DatasetError(
                f"{name} has {shape}",
                where=source,
                got=f"<{tag}> without <bndbox>",
                expected="<bndbox> with xmin, ymin, xmax and ymax",
                hint="Export the annotations with boxes, or remove the object",
            )


def _coordinate(element: Element, corner: str, name: str, source: str) -> float:
    text = _text(element, f"bndbox/{corner}")
    try:
        value = math.nan if text is None else float(text)
    except ValueError:
        value = math.nan
    if not is_coordinate(value):
        raise DatasetError(
            f"{name} has no usable {corner}",
            where=source,
            got="nothing" if text is None else repr(text),
            expected="a number of pixels in <bndbox>",
            hint="Correct or remove the object",
        )
    return value
