"""Annotated pictures as one checked value: the input of training and evaluation.

Everything that would break a training run later is refused here, with file and object named. To see all
mistakes of a folder at once, use `appliance.annotations.checks`.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from appliance.annotations import pascal_voc, statistics
from appliance.annotations.splitting import stratified_indices
from appliance.annotations.voc_folder import (
    PictureHeader,
    VocFolder,
    box_fault,
    boxes_in_picture,
    format_box,
)
from appliance.errors import ConfigError, DatasetError, LabelError
from appliance.labels import Label, LabelMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """One picture with what is known to be on it; arrays are read-only.

    Attributes:
        storage_path: Where the picture lies.
        name: Its file name.
        size_hw: Height and width in pixels as decoded, EXIF orientation applied.
        boxes_xyxy: float32 `[N, 4]` in pixels, `0 <= x1 < x2 <= W`, `0 <= y1 < y2 <= H`.
        label_names: N class names.
        difficult: bool `[N]`; True is not counted in evaluation.
        annotation_path: Where its annotation lies, None if it came from elsewhere.
    """

    storage_path: str
    name: str
    size_hw: tuple[int, int]
    boxes_xyxy: npt.NDArray[np.float32]
    label_names: tuple[str, ...]
    difficult: npt.NDArray[np.bool_]
    annotation_path: str | None = None

    def __post_init__(self) -> None:
        boxes = np.array(self.boxes_xyxy, np.float32).reshape(-1, 4)
        difficult = np.array(self.difficult, np.bool_)
        if not len(boxes) == len(self.label_names) == len(difficult):
            raise ValueError(
                f"boxes, label_names and difficult differ in length: "
                f"{len(boxes)}, {len(self.label_names)}, {len(difficult)}"
            )
        for name, array in (("boxes_xyxy", boxes), ("difficult", difficult)):
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.label_names)

    def visualize_bounding_boxes(self, image_size: tuple[float, float] = (10, 10)) -> Axes:
        """Shows the picture with its annotation.

        Args:
            image_size: Width and height of the figure in inches.
        """
        from appliance.images import drawing

        ids = {name: index for index, name in enumerate(sorted(set(self.label_names)), start=1)}
        picture = drawing.draw_detections(
            drawing.load_picture(self.storage_path),
            self.boxes_xyxy,
            self.label_names,
            [ids[name] for name in self.label_names],
        )
        return drawing.show(picture, title=self.name, image_size=image_size)


class ObjectDetectionDataset:
    """Annotated pictures and the classes they may show.

    Args:
        name: Name for reports.
        images: The pictures; those without objects teach what is background.
        label_map: The classes.

    Raises:
        LabelError: A picture shows a class that `label_map` does not have.
        DatasetError: There is no picture.
    """

    def __init__(self, name: str, images: Iterable[AnnotatedImage], label_map: LabelMap) -> None:
        self.name = name
        self.images: tuple[AnnotatedImage, ...] = tuple(images)
        self.label_map = label_map
        if not self.images:
            raise DatasetError("The dataset has no pictures", where=name)
        for image in self.images:
            for label in image.label_names:
                if label not in label_map:
                    raise LabelError(
                        f"Unknown label {label!r}",
                        where=image.annotation_path or image.storage_path,
                        expected=f"one of {', '.join(label_map.names)}",
                        hint="Correct the label, or train a model that knows the class",
                    )

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, {len(self.images)} images, "
            f"{len(self.label_map)} classes)"
        )

    @property
    def labels(self) -> list[Label]:
        """The classes in the order of their ids."""
        return list(self.label_map)

    @classmethod
    def create_from_dir(
        cls,
        dataset_name: str,
        data_dir: str | os.PathLike[str],
        annotations_dir: str = "Annotations",
        image_subdirectory: str = "JPEGImages",
        labels: Iterable[Label | str] | None = None,
    ) -> ObjectDetectionDataset:
        """Reads a Pascal VOC folder: one XML per picture, of the same name.

        Boxes that reach over the edge are clipped, and a warning says how many. A picture without
        objects has an XML without `<object>`.

        Args:
            dataset_name: Name for reports.
            data_dir: The folder.
            annotations_dir: Its subfolder with XML files.
            image_subdirectory: Its subfolder with pictures.
            labels: The classes in the order of their ids, for example those of a model to evaluate.
                None takes all that occur, sorted by name.

        Raises:
            StorageError: The folder is not there.
            DatasetError: A picture or an XML stands alone, is unreadable or does not fit the other; or a
                box has no area or lies outside.
            LabelError: `labels` lacks a class that occurs.
        """
        folder = VocFolder.scan(data_dir, annotations_dir, image_subdirectory)
        _refuse_loners(folder, image_subdirectory)
        images: list[AnnotatedImage] = []
        clipped = 0
        for name in folder.pictures:
            image, clipped_here = _read_image(folder.pictures[name], folder.annotations[name])
            images.append(image)
            clipped += clipped_here
        if clipped:
            logger.warning("%s: %d boxes reached over the edge and were clipped", data_dir, clipped)
        if labels is None:
            labels = sorted({label for image in images for label in image.label_names})
            if not labels:
                raise DatasetError(
                    "No picture of the dataset shows any object",
                    where=folder.data_dir,
                    hint="Annotate objects, or name the classes with labels=",
                )
        return cls(dataset_name, images, LabelMap.of(labels))

    def statistics(self) -> statistics.DatasetStatistics:
        """Counts and box sizes."""
        return statistics.DatasetStatistics.of(self.images, self.label_map)

    def print_info(self) -> None:
        """Prints counts per label and how large the boxes are."""
        print(self.statistics().describe(self.name))  # noqa: T201 - what the method is for

    def split(
        self, train_size: float, seed: int = 0
    ) -> tuple[ObjectDetectionDataset, ObjectDetectionDataset]:
        """Divides the pictures in two, each label in about the same proportion, the rarest first.

        Args:
            train_size: Share of the pictures for the first part, above 0 and below 1. Each part gets
                at least one picture.
            seed: Decides which pictures; the same seed gives the same parts.

        Raises:
            ConfigError: The share is not between 0 and 1.
            DatasetError: There are fewer than two pictures.
        """
        if not 0 < train_size < 1:
            raise ConfigError(
                "train_size is wrong", got=train_size, expected="a share above 0 and below 1"
            )
        if len(self.images) < 2:
            raise DatasetError(
                "The dataset is too small to be divided",
                where=self.name,
                got=f"{len(self.images)} picture",
                expected="at least 2",
            )
        chosen = stratified_indices(
            [frozenset(image.label_names) for image in self.images], train_size, seed
        )
        train = [image for index, image in enumerate(self.images) if index in chosen]
        test = [image for index, image in enumerate(self.images) if index not in chosen]
        return (
            type(self)(f"{self.name} (train)", train, self.label_map),
            type(self)(f"{self.name} (test)", test, self.label_map),
        )

    def digest(self) -> str:
        """SHA-256 over names, sizes, boxes and labels; not over pixels or places."""
        sha = hashlib.sha256()
        sha.update(repr(self.label_map.names).encode())
        for image in self.images:
            sha.update(repr((image.name, image.size_hw, image.label_names)).encode())
            sha.update(image.boxes_xyxy.astype("<f4").tobytes())
            sha.update(image.difficult.tobytes())
        return sha.hexdigest()


def _refuse_loners(folder: VocFolder, image_subdirectory: str) -> None:
    for path in folder.doubled:
        raise DatasetError(
            "Two pictures share one name, so their annotation is unclear",
            where=path,
            hint="Rename one of them together with its XML",
        )
    for name, path in folder.pictures.items():
        if name not in folder.annotations:
            raise DatasetError(
                "A picture has no annotation",
                where=path,
                expected=f"{PurePath(name).name}.xml beside the other annotations",
                hint="Annotate it, remove it, or if it shows no object write an XML without <object>",
            )
    for name, path in folder.annotations.items():
        if name not in folder.pictures:
            raise DatasetError(
                "An annotation has no picture",
                where=path,
                expected=f"{PurePath(name).name}.jpg or another picture of that name in "
                f"{image_subdirectory}/",
                hint="Add the picture, or remove the XML",
            )


def _read_image(picture_path: str, annotation_path: str) -> tuple[AnnotatedImage, int]:
    header = PictureHeader.read(picture_path)
    annotation = pascal_voc.read(annotation_path)
    boxes = boxes_in_picture(annotation, header, source=annotation_path)
    height, width = header.size_hw
    for number, (item, box) in enumerate(zip(annotation.objects, boxes, strict=True), start=1):
        fault = box_fault(box, header.size_hw)
        if fault is not None:
            raise DatasetError(
                f"The box of object {number} ({item.label}) {fault}",
                where=annotation_path,
                got=format_box(box),
                expected=f"xmin < xmax and ymin < ymax within {width}x{height} pixels",
                hint="Correct or remove the object",
            )
    inside = np.clip(boxes, 0, [width, height, width, height])
    image = AnnotatedImage(
        storage_path=picture_path,
        name=PurePath(picture_path).name,
        size_hw=header.size_hw,
        boxes_xyxy=inside.astype(np.float32),
        label_names=tuple(item.label for item in annotation.objects),
        difficult=np.array([item.difficult for item in annotation.objects], np.bool_),
        annotation_path=annotation_path,
    )
    return image, int((inside != boxes).any(axis=1).sum())
