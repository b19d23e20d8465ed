"""Pascal VOC annotations: one XML file per picture."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from appliance import storage
from appliance.errors import DatasetError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_TRUE_WORDS = ("1", "true", "yes")


@dataclass(frozen=True)
class VocObject:
    """One annotated object.

    Attributes:
        label: Name of its class.
        box_xyxy: x1, y1, x2, y2 in pixels, as the file gives them; not yet checked.
        difficult: Not counted when a model is evaluated.
        truncated: Only a part of it is in the picture.
    """

    label: str
    box_xyxy: tuple[float, float, float, float]
    difficult: bool = False
    truncated: bool = False


@dataclass(frozen=True)
class VocAnnotation:
    """What one annotation file says.

    Attributes:
        objects: None of them is as valid as any other number: a picture to learn background from.
        size_hw: Height and width of the picture in pixels, None where the file does not say.
        filename: Name of the picture, None where the file does not say. Often wrong in the wild,
            because people rename and move pictures.
    """

    objects: tuple[VocObject, ...]
    size_hw: tuple[int, int] | None = None
    filename: str | None = None


def read(path: str | os.PathLike[str]) -> VocAnnotation:
    """Reads one annotation file.

    Raises:
        StorageError: The file cannot be read.
        DatasetError: It is no Pascal VOC annotation.
    """
    return parse(storage.read_bytes(path), source=os.fspath(path))


def parse(data: bytes, *, source: str) -> VocAnnotation:
    """Reads one annotation; tolerates any order of elements, missing flags and broken numbers of pixels.

    Args:
        data: The XML document.
        source: Name for messages.

    Raises:
        DatasetError: It is no XML, declares entities, is no annotation, or an object lacks its name or
            a coordinate.
    """
    root = _root(data, source)
    objects = tuple(
        _object(element, number, source)
        for number, element in enumerate(root.findall("object"), start=1)
    )
    return VocAnnotation(objects, _size_hw(root), _text(root, "filename"))


def write(path: str | os.PathLike[str], annotation: VocAnnotation) -> None:
    """Writes one annotation file as LabelImg does.

    Raises:
        StorageError: The file cannot be written.
    """
    storage.write_bytes(path, to_xml(annotation, folder=Path(path).parent.parent.name))


def to_xml(annotation: VocAnnotation, *, folder: str = "JPEGImages") -> bytes:
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
            *(f"      <{name}>{_number(value)}</{name}>" for name, value in corners),
            "    </bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""]).encode()


def _number(value: float) -> str:
    return repr(int(value)) if float(value).is_integer() else repr(float(value))


def _root(data: bytes, source: str) -> Element:
    from xml.etree.ElementTree import ParseError

    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        root: Element = fromstring(data)
    except DefusedXmlException:
        raise DatasetError(
            "The annotation declares XML entities, which are not read for safety",
            where=source,
            hint="Remove its DOCTYPE and entities",
        ) from None
    except (ParseError, ValueError, LookupError) as error:
        # ValueError and LookupError: encodings that the parser does not know.
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


def _object(element: Element, number: int, source: str) -> VocObject:
    label = _text(element, "name")
    if label is None:
        raise DatasetError(
            f"Object {number} has no class name", where=source, expected="<name> with a text"
        )
    box = tuple(
        _coordinate(element, corner, f"Object {number} ({label})", source)
        for corner in ("xmin", "ymin", "xmax", "ymax")
    )
    x1, y1, x2, y2 = box
    return VocObject(
        label, (x1, y1, x2, y2), _flag(element, "difficult"), _flag(element, "truncated")
    )


def _coordinate(element: Element, corner: str, name: str, source: str) -> float:
    text = _text(element, f"bndbox/{corner}")
    try:
        value = math.nan if text is None else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(
            f"{name} has no usable {corner}",
            where=source,
            got="nothing" if text is None else repr(text),
            expected="a number of pixels in <bndbox>",
        )
    return value
