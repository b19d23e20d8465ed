"""What every annotation format has in common: pictures, and what a file says is on them, unchecked.

A reader of a format lists an `AnnotationSource`; its entries are read one at a time, so that a folder of
a million pictures costs a million short names, not their annotations or pixels.

What is wrong with one object, one line or one record does not hide the rest: it becomes a `Fault` beside
what could be read. Training reads strictly, which makes the first fault an error; checking lists them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Literal, NoReturn, TypeVar

from appliance.errors import DatasetError

FormatName = Literal["voc", "coco", "yolo", "csv"]

T = TypeVar("T")

_LARGEST_COORDINATE_PX = 1e6


@dataclass(frozen=True)
class Fault:
    """Something that a reader could not use, while it could use the rest.

    Attributes:
        code: Which kind of defect, one of `checks.findings.DEFECTS`.
        error: What a strict reader raises.
        object_number: Which object of its picture, from 1; None where no object of a picture is concerned.
        label: Its class, None where that is not known.
    """

    code: str
    error: DatasetError
    object_number: int | None = None
    label: str | None = None


@dataclass(frozen=True)
class ObjectAnnotation:
    """One annotated object as a file gives it.

    Attributes:
        label: Name of its class.
        box_xyxy: x1, y1, x2, y2 in pixels of the picture that the annotator saw; not yet checked.
        difficult: Not counted when a model is evaluated.
        truncated: Only a part of it is in the picture.
        crowd: Stands for a group of objects (COCO's `iscrowd`); not counted either, and not learnt from.
        number: Which object of its file it is, from 1, where an earlier one could not be read; None
            where its place among the others says it.
    """

    label: str
    box_xyxy: tuple[float, float, float, float]
    difficult: bool = False
    truncated: bool = False
    crowd: bool = False
    number: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class PictureAnnotation:
    """What an annotation says about one picture.

    Attributes:
        objects: None of them is as valid as any other number: a picture to learn background from.
        size_hw: Height and width of the picture in pixels, None where the file does not say.
        filename: Name of the picture, None where the file does not say. Often wrong in the wild,
            because people rename and move pictures.
        faults: What of the file is not among `objects`, or is wrong although it is.
    """

    objects: tuple[ObjectAnnotation, ...]
    size_hw: tuple[int, int] | None = None
    filename: str | None = None
    faults: tuple[Fault, ...] = ()

    def refuse_faults(self) -> PictureAnnotation:
        """The same annotation, if all of it could be read.

        Raises:
            DatasetError: The first fault.
        """
        for fault in self.faults:
            raise fault.error
        return self


@dataclass(frozen=True)
class Entry:
    """One picture with its annotation, or either of them alone.

    Attributes:
        name: Unique in the source: path below the folder of pictures, without extension.
        picture_path: Where the picture lies; None for an annotation without a picture.
        annotation_path: The file that describes it, for messages; None for a picture without one. In
            YOLO a picture without a file shows nothing: then this is where the file would lie.
        examine: Reads the annotation with its faults. Raises `DatasetError` or `StorageError` where none
            of it can be used.
    """

    name: str
    picture_path: str | None
    annotation_path: str | None
    examine: Callable[[], PictureAnnotation]

    def read(self) -> PictureAnnotation:
        """Reads the annotation, all of it.

        Raises:
            DatasetError: Something in it is wrong.
            StorageError: A file is not there.
        """
        return self.examine().refuse_faults()


@dataclass(frozen=True)
class AnnotationSource:
    """A listed dataset of any format.

    Attributes:
        root: The folder or file that was given.
        format: How it is written.
        entries: Sorted by name.
        doubled: Pictures whose name another one has taken, so that their annotation is unclear.
        labels: The classes that the format itself declares, in the order of its ids; None for formats
            that declare none.
        faults: What in the file belongs to no entry.
        unlabelled: Names of pictures without a file of their own in a format where that means "no object" (YOLO).
    """

    root: str
    format: FormatName
    entries: tuple[Entry, ...]
    doubled: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None
    faults: tuple[Fault, ...] = ()
    unlabelled: tuple[str, ...] = ()

    def refuse_faults(self) -> None:
        """Makes sure that every picture has one annotation and every annotation a picture.

        Raises:
            DatasetError: One has not; the message names it and says what to do.
        """
        for fault in self.faults:
            raise fault.error
        for path in self.doubled:
            raise DatasetError(
                "Two pictures share one name, so their annotation is unclear",
                where=path,
                hint="Rename one of them together with its annotation",
            )
        for entry in self.entries:
            if entry.annotation_path is None:
                no_annotation(entry.picture_path)
        for entry in self.entries:
            if entry.picture_path is None:
                name = PurePosixPath(entry.name).name
                raise DatasetError(
                    "An annotation has no picture",
                    where=entry.annotation_path,
                    got=f"no picture {entry.name}",
                    expected=f"{name}.jpg or another picture of that name",
                    hint="Add the picture, or remove the annotation",
                )


def read_objects(
    items: Iterable[T],
    read: Callable[[int, T], ObjectAnnotation],
    label_of: Callable[[T], str | None],
) -> tuple[tuple[ObjectAnnotation, ...], tuple[Fault, ...]]:
    """Reads the objects of one picture; one that cannot be read does not hide the others.

    Args:
        items: The objects as the file has them.
        read: Reads one, given its number from 1; raises `DatasetError`.
        label_of: The class of one that `read` refuses, None if that is not known.
    """
    objects: list[ObjectAnnotation] = []
    faults: list[Fault] = []
    for number, item in enumerate(items, start=1):
        try:
            read_object = read(number, item)
        except DatasetError as error:
            faults.append(Fault("object-unreadable", error, number, label_of(item)))
            continue
        objects.append(replace(read_object, number=number) if faults else read_object)
    return tuple(objects), tuple(faults)


def numbers_of(objects: Sequence[ObjectAnnotation]) -> list[int]:
    """Which object of its file each of them is, from 1."""
    return [item.number or place for place, item in enumerate(objects, start=1)]


def is_coordinate(value: float) -> bool:
    """Whether a number can be one of pixels: neither NaN nor beyond every picture and every mistake."""
    return abs(value) <= _LARGEST_COORDINATE_PX  # NaN is not


def no_annotation(picture_path: str | None) -> NoReturn:
    """What reading a picture comes to that nothing describes.

    Raises:
        DatasetError: Always.
    """
    raise DatasetError(
        "A picture has no annotation",
        where=picture_path,
        expected=f"{PurePosixPath(picture_path or '').stem}.xml beside the other annotations",
        hint="Annotate it, remove it, or if it shows no object write an annotation without any",
    )
