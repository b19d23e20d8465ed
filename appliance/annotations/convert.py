"""Annotated pictures of one format written in another, picture by picture.

Boxes are written as they lie in the upright picture, unclipped and to the last digit; pictures are copied
or linked as they are, EXIF orientation and all.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from appliance import storage
from appliance.annotations.formats.coco_json import CocoWriter
from appliance.annotations.formats.csv_table import CsvWriter
from appliance.annotations.formats.listing import base_name
from appliance.annotations.formats.opening import detect_format, open_source, parts_of
from appliance.annotations.formats.pascal_voc import VocWriter
from appliance.annotations.formats.yolo import YoloWriter
from appliance.annotations.new_folder import check_new_folder
from appliance.annotations.placing import boxes_in_picture
from appliance.annotations.reading import read_in_order, with_bar
from appliance.annotations.source import AnnotationSource, Entry, FormatName, PictureAnnotation
from appliance.annotations.splitting import stratified_indices
from appliance.errors import ConfigError, DatasetError, StorageError
from appliance.images.header import PictureHeader


class Writer(Protocol):
    """What one format looks like; the boxes it is given are of the upright picture, whose size is known."""

    @property
    def losses(self) -> Mapping[str, int]:
        """Mark -> objects whose mark the format cannot hold."""

    def picture_folder(self, part: str | None) -> str:
        """Where the pictures of a part go, below the folder."""

    def file_of(
        self, part: str | None, file_name: str, annotation: PictureAnnotation
    ) -> tuple[str, bytes] | None:
        """The annotation of one picture as a file: path below the folder and content. Any thread asks.

        None for formats that keep many pictures in one file.
        """

    def add(self, part: str | None, file_name: str, annotation: PictureAnnotation) -> int:
        """Takes note of one picture, called in order; returns how many of its objects are written."""

    def last_files(self) -> Iterator[tuple[str, bytes]]:
        """The files that need all pictures: path below the folder and content."""


WRITERS: Mapping[FormatName, Callable[[Sequence[str]], Writer]] = {
    "voc": VocWriter,
    "coco": CocoWriter,
    "yolo": YoloWriter,
    "csv": CsvWriter,
}
_NUMBERING = ("coco", "yolo")  # formats whose classes have numbers
_LOSSES: Mapping[FormatName, str] = {
    "voc": "Pascal VOC cannot hold every mark, and crowds became difficult objects",
    "yolo": "YOLO cannot hold every mark, and crowds were left out",
}


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        format: Of the new data.
        images: Part -> pictures; the part is "" where the data is not divided.
        objects: Objects written.
        negatives: Pictures that are written without objects.
        losses: Mark (`difficult`, `truncated`, `crowd`) -> objects whose mark the format cannot hold.
    """

    format: FormatName
    images: dict[str, int]
    objects: int
    negatives: int
    losses: dict[str, int]

    @property
    def warning(self) -> str | None:
        """One sentence on what the new format cannot hold, None if nothing was lost."""
        if not self.losses:
            return None
        counts = ", ".join(f"{mark} of {count} objects" for mark, count in self.losses.items())
        return f"{_LOSSES[self.format]}: {counts}"


def convert(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    to: FormatName,
    *,
    format: FormatName | Literal["auto"] = "auto",
    train_size: float | None = None,
    seed: int = 0,
    link: bool = False,
    images_root: str | os.PathLike[str] | None = None,
) -> Conversion:
    """Writes annotated pictures in another format.

    Args:
        path: As `open_source` takes it; of divided data all parts are written.
        out: A new or empty folder, or an empty prefix in an object store.
        to: The new format.
        format: The present one, or `auto` to find out.
        train_size: Divides undivided data into `train` and `val`, each label in about the same
            proportion; a share above 0 and below 1.
        seed: Decides which picture goes where.
        link: Link pictures instead of copying them, where both folders are local.
        images_root: A folder or bucket elsewhere that holds the pictures; without it they lie in the
            folder of the data.

    Raises:
        ConfigError: There is no such format, or the share is wrong.
        StorageError: There is nothing, or `out` is not empty, lies in the data or cannot be written.
        DatasetError: Something in the annotations is wrong.
    """
    root, target = os.fspath(path), os.fspath(out)
    if to not in WRITERS:
        raise ConfigError("Unknown format", got=to, expected=", ".join(WRITERS))
    if train_size is not None and not 0 < train_size < 1:
        raise ConfigError(
            "train_size is wrong", got=train_size, expected="a share above 0 and below 1"
        )
    check_new_folder(target, not_inside=root)
    sources = _open_parts(root, format, images_root)
    for source in sources.values():
        source.refuse_faults()
    labels = tuple(
        dict.fromkeys(label for source in sources.values() for label in source.labels or ())
    )
    if train_size is not None or (not labels and to in _NUMBERING):
        entries = [entry for source in sources.values() for entry in source.entries]
        read = read_in_order(_labels_on, entries, root=root)
        label_sets = list(with_bar(read, total=len(entries), what=f"reading {root}"))
        labels = labels or tuple(sorted(frozenset[str]().union(*label_sets)))
        if train_size is not None:
            sources = _divided(sources, label_sets, train_size, seed)
    return write_sources(sources, target, to, labels, link=link)


def write_sources(
    sources: Mapping[str | None, AnnotationSource],
    out: str,
    to: FormatName,
    labels: Sequence[str],
    *,
    link: bool = False,
) -> Conversion:
    """Writes annotated pictures, a few at a time and in order.

    Args:
        sources: Part -> its pictures, without loners; the part is None where the data is not divided.
        out: A new or empty folder.
        to: The format.
        labels: The classes, in the order of their ids.
        link: Link pictures instead of copying them, where both folders are local.

    Raises:
        StorageError: A file cannot be read or written.
        DatasetError: A picture or its annotation cannot be read.
    """
    writer = WRITERS[to](labels)
    images: Counter[str] = Counter()
    objects = negatives = 0
    for part, source in sources.items():
        write = partial(_write_picture, writer, out, part, link)
        written = read_in_order(write, source.entries, root=source.root)
        total = len(source.entries)
        for file_name, annotation in with_bar(written, total=total, what=f"writing {part or to}"):
            added = writer.add(part, file_name, annotation)
            images[part or ""] += 1
            objects += added
            negatives += not added
    for name, data in writer.last_files():
        storage.write_bytes(storage.join(out, name), data)
    losses = {mark: count for mark, count in writer.losses.items() if count}
    return Conversion(to, dict(images), objects, negatives, losses)


def _open_parts(
    root: str,
    format: FormatName | Literal["auto"],
    images_root: str | os.PathLike[str] | None,
) -> dict[str | None, AnnotationSource]:
    kind = detect_format(root) if format == "auto" else format
    parts = parts_of(root, kind)
    if not parts:
        return {None: open_source(root, kind, images_root=images_root)}
    return {
        part: open_source(place, kind, images_root=images_root) for part, place in parts.items()
    }


def _labels_on(entry: Entry) -> frozenset[str]:
    return frozenset(item.label for item in entry.read().objects)


def _divided(
    sources: Mapping[str | None, AnnotationSource],
    label_sets: Sequence[frozenset[str]],
    train_size: float,
    seed: int,
) -> dict[str | None, AnnotationSource]:
    if None not in sources:
        raise ConfigError(
            "The data is divided already", got="a train_size", hint="Leave the train size out"
        )
    source = sources[None]
    if len(source.entries) < 2:
        raise DatasetError(
            "The dataset is too small to be divided",
            where=source.root,
            got="1 picture",
            expected="at least 2",
        )
    chosen = stratified_indices(label_sets, train_size, seed)
    numbered = list(enumerate(source.entries))
    return {
        "train": replace(source, entries=tuple(e for number, e in numbered if number in chosen)),
        "val": replace(source, entries=tuple(e for number, e in numbered if number not in chosen)),
    }


def _write_picture(
    writer: Writer, out: str, part: str | None, link: bool, entry: Entry
) -> tuple[str, PictureAnnotation]:
    """Puts one picture into the new folder, with its annotation if that is a file of its own.

    Returns:
        Its name below the folder of pictures, and its annotation with boxes of the upright picture.
    """
    picture_path, where = str(entry.picture_path), str(entry.annotation_path)
    header = PictureHeader.read(picture_path)
    annotation = entry.read()
    boxes = boxes_in_picture(annotation, header, source=where)
    objects = tuple(
        replace(item, box_xyxy=tuple(box.tolist()))
        for item, box in zip(annotation.objects, boxes, strict=True)
    )
    file_name = f"{entry.name}{PurePosixPath(base_name(picture_path)).suffix}"
    upright = PictureAnnotation(objects, header.size_hw, file_name)
    target = storage.join(out, writer.picture_folder(part), file_name)
    if storage.is_remote(picture_path) or storage.is_remote(target):
        _write_new(target, storage.read_bytes(picture_path))
    else:
        with _made_folder(target) as target_local:
            source_local = storage.local_path(picture_path)
            if link:
                target_local.symlink_to(source_local.resolve())
            else:
                shutil.copyfile(source_local, target_local)
    described = writer.file_of(part, file_name, upright)
    if described is not None:
        _write_new(storage.join(out, described[0]), described[1])
    return file_name, upright


def _write_new(target: str, data: bytes) -> None:
    """Writes one of many files of a new folder; one by one they need not be safe from a power cut."""
    if storage.is_remote(target):
        storage.write_bytes(target, data)
    else:
        with _made_folder(target) as path:
            path.write_bytes(data)


@contextmanager
def _made_folder(target: str) -> Iterator[Path]:
    path = storage.local_path(target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
    except OSError as error:
        raise StorageError(
            "Cannot write the file", where=path, got=error.strerror or error
        ) from None
