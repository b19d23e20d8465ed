"""What every annotation format has in common: pictures, and what a file says is on them, unchecked.

A reader of a format lists an `AnnotationSource`; its entries are read one at a time, so that a folder of
a million pictures costs a million short names, not their annotations or pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, NoReturn

from appliance.errors import DatasetError

FormatName = Literal["voc", "coco", "yolo", "csv"]


@dataclass(frozen=True)
class ObjectAnnotation:
    """One annotated object as a file gives it.

    Attributes:
        label: Name of its class.
        box_xyxy: x1, y1, x2, y2 in pixels of the picture that the annotator saw; not yet checked.
        difficult: Not counted when a model is evaluated.
        truncated: Only a part of it is in the picture.
        crowd: Stands for a group of objects (COCO's `iscrowd`); not counted either, and not learnt from.
    """

    label: str
    box_xyxy: tuple[float, float, float, float]
    difficult: bool = False
    truncated: bool = False
    crowd: bool = False


@dataclass(frozen=True)
class PictureAnnotation:
    """What an annotation says about one picture.

    Attributes:
        objects: None of them is as valid as any other number: a picture to learn background from.
        size_hw: Height and width of the picture in pixels, None where the file does not say.
        filename: Name of the picture, None where the file does not say. Often wrong in the wild,
            because people rename and move pictures.
    """

    objects: tuple[ObjectAnnotation, ...]
    size_hw: tuple[int, int] | None = None
    filename: str | None = None


@dataclass(frozen=True)
class Entry:
    """One picture with its annotation, or either of them alone.

    Attributes:
        name: Unique in the source: path below the folder of pictures, without extension.
        picture_path: Where the picture lies; None for an annotation without a picture.
        annotation_path: The file that describes it, for messages; None for a picture without one. In
            YOLO a picture without a file shows nothing: then this is where the file would lie.
        read: Reads the annotation. Raises `DatasetError` or `StorageError`.
    """

    name: str
    picture_path: str | None
    annotation_path: str | None
    read: Callable[[], PictureAnnotation]


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
    """

    root: str
    format: FormatName
    entries: tuple[Entry, ...]
    doubled: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None

    def refuse_loners(self) -> None:
        """Makes sure that every picture has one annotation and every annotation a picture.

        Raises:
            DatasetError: One has not; the message names it and says what to do.
        """
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
