"""All mistakes of a dataset at once, without stopping at the first.

`ObjectDetectionDataset.create_from_dir` refuses the first mistake it meets; this finds the others too,
and those that harm silently: doubled boxes, the same picture in training and test, too few examples.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from appliance import storage
from appliance.annotations import pascal_voc
from appliance.annotations.pascal_voc import VocAnnotation
from appliance.annotations.voc_folder import (
    PictureHeader,
    VocFolder,
    box_fault,
    boxes_in_picture,
    format_box,
)
from appliance.errors import ApplianceError
from appliance.images.decoding import decode_image

FolderPath = str | os.PathLike[str]

_PARTS = ("train", "test")
_PROBE_SIDE_PX = 64  # decodes every byte of a JPEG, but not every pixel


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        severity: `error` keeps the dataset from being used, `warning` makes results worse.
        file: The file or folder concerned.
        what: What is wrong there.
    """

    severity: Literal["error", "warning"]
    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.file}: {self.what}"


@dataclass
class _Seen:
    """What has to be remembered across files and parts."""

    picture_of_hash: dict[str, tuple[str, str]] = field(default_factory=dict)
    objects_per_label: dict[str, Counter[str]] = field(default_factory=dict)


def check_dataset(
    parts: FolderPath | Mapping[str, FolderPath],
    *,
    annotations_dir: str = "Annotations",
    image_subdirectory: str = "JPEGImages",
    min_examples: int = 5,
) -> list[Finding]:
    """Looks for everything that is wrong with Pascal VOC folders.

    Args:
        parts: Part name -> folder, for example `{"train": ..., "test": ...}`; or one folder, which may
            hold the subfolders `train` and `test`.
        annotations_dir: Subfolder with XML files.
        image_subdirectory: Subfolder with pictures.
        min_examples: Fewer objects of a class than this in the first part are worth a warning.

    Returns:
        Errors before warnings, else in the order of parts and files. Empty when all is well.
    """
    named = parts if isinstance(parts, Mapping) else _parts_of(parts)
    seen = _Seen()
    findings: list[Finding] = []
    for part, folder in named.items():
        seen.objects_per_label[part] = Counter()
        findings += _check_part(part, folder, annotations_dir, image_subdirectory, seen)
    findings += _check_classes(
        {name: str(path) for name, path in named.items()}, seen, min_examples
    )
    return sorted(findings, key=lambda finding: finding.severity)


def _parts_of(data_dir: FolderPath) -> dict[str, FolderPath]:
    root = os.fspath(data_dir).rstrip("/")
    if not storage.is_remote(root):
        found = [part for part in _PARTS if storage.local_path(f"{root}/{part}").is_dir()]
        if found:
            return {part: f"{root}/{part}" for part in found}
    return {"dataset": root}


def _check_part(
    part: str, data_dir: FolderPath, annotations_dir: str, image_subdirectory: str, seen: _Seen
) -> Iterator[Finding]:
    try:
        folder = VocFolder.scan(data_dir, annotations_dir, image_subdirectory)
    except ApplianceError as error:
        yield _of_error(error, str(data_dir))
        return
    for path in folder.doubled:
        yield Finding("error", path, "another picture has the same name, the annotation is unclear")
    for name, path in folder.pictures.items():
        if name not in folder.annotations:
            yield Finding("error", path, "picture without an annotation")
        yield from _check_picture(part, path, seen)
    for name, path in folder.annotations.items():
        try:
            annotation = pascal_voc.read(path)
        except ApplianceError as error:
            yield _of_error(error, path)
            continue
        seen.objects_per_label[part].update(item.label for item in annotation.objects)
        if name in folder.pictures:
            yield from _check_boxes(path, annotation, folder.pictures[name])
        else:
            yield Finding("error", path, "annotation without a picture")


def _check_picture(part: str, path: str, seen: _Seen) -> Iterator[Finding]:
    try:
        data = storage.read_bytes(path)
        decode_image(data, source=path, min_shorter_side_px=_PROBE_SIDE_PX)
    except ApplianceError as error:
        yield _of_error(error, path)
        return
    content = hashlib.sha256(data).hexdigest()
    first_part, first_path = seen.picture_of_hash.setdefault(content, (part, path))
    if first_path != path:
        harm = (
            "" if first_part == part else f" of {first_part}, so what {part} measures is too good"
        )
        yield Finding("warning", path, f"same picture as {first_path}{harm}")


def _check_boxes(path: str, annotation: VocAnnotation, picture_path: str) -> Iterator[Finding]:
    try:
        header = PictureHeader.read(picture_path)
    except ApplianceError:
        return  # said already, when the picture was decoded
    try:
        boxes = boxes_in_picture(annotation, header, source=path)
    except ApplianceError as error:
        yield _of_error(error, path)
        return
    height, width = header.size_hw
    first_with: dict[tuple[str, tuple[float, ...]], int] = {}
    for number, (item, box) in enumerate(zip(annotation.objects, boxes, strict=True), start=1):
        name = f"object {number} ({item.label})"
        fault = box_fault(box, header.size_hw)
        if fault is not None:
            yield Finding("error", path, f"the box of {name} {fault}: {format_box(box)}")
        elif (box != np.clip(box, 0, [width, height, width, height])).any():
            what = f"reaches over the edge of {width}x{height} pixels and will be clipped"
            yield Finding("warning", path, f"the box of {name} {what}: {format_box(box)}")
        first = first_with.setdefault((item.label, tuple(box.tolist())), number)
        if first != number:
            yield Finding("warning", path, f"{name} doubles object {first}: {format_box(box)}")


def _check_classes(folders: Mapping[str, str], seen: _Seen, min_examples: int) -> Iterator[Finding]:
    first_part, *other_parts = folders
    known = seen.objects_per_label[first_part]
    for label, count in sorted(known.items()):
        if count < min_examples:
            what = f"only {count} examples of {label!r}, at least {min_examples} are advisable"
            yield Finding("warning", folders[first_part], what)
    for part in other_parts:
        for label in sorted(set(seen.objects_per_label[part]) - set(known)):
            what = f"class {label!r} does not occur in {first_part}, so no model will know it"
            yield Finding("error", folders[part], what)


def _of_error(error: ApplianceError, file: str) -> Finding:
    facts = [f"got {error.got}"] if error.got else []
    facts += [f"expected {error.expected}"] if error.expected else []
    what = error.what[:1].lower() + error.what[1:]
    return Finding("error", error.where or file, f"{what} ({', '.join(facts)})" if facts else what)
