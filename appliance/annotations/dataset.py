"""Annotated pictures as one checked value: the input of training and evaluation.

Everything that would break a training run later is refused here, with file and object named. To see all
mistakes of a folder at once, use `appliance.annotations.checks.survey`.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from typing import Literal

from appliance.annotations import statistics
from appliance.annotations.annotated_image import AnnotatedImage as AnnotatedImage
from appliance.annotations.annotated_image import read_image
from appliance.annotations.formats.listing import base_name
from appliance.annotations.formats.opening import open_source
from appliance.annotations.formats.voc_folder import ANNOTATIONS_DIR, IMAGE_SUBDIRECTORY, open_voc
from appliance.annotations.reading import read_in_order, with_bar
from appliance.annotations.source import AnnotationSource, FormatName
from appliance.annotations.splitting import random_indices, stratified_indices
from appliance.errors import ConfigError, DatasetError, LabelError
from appliance.labels import Label, LabelMap

logger = logging.getLogger(__name__)


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
        self.images: tuple[AnnotatedImage, ...] = tuple(image.within(label_map) for image in images)
        self.label_map = label_map
        if not self.images:
            raise DatasetError("The dataset has no pictures", where=name)
        known = set(label_map.names)
        for image in self.images:
            for label in image.label_names:
                if label not in known:
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
        objects has an XML without `<object>`. For other formats, and to have the format detected, use
        `read`.

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
        source = open_voc(data_dir, annotations_dir, image_subdirectory)
        return cls._from_source(source, dataset_name, labels)

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        name: str | None = None,
        format: FormatName | Literal["auto"] = "auto",
        labels: Iterable[Label | str] | None = None,
        *,
        part: str | None = None,
        annotations_dir: str = ANNOTATIONS_DIR,
        image_subdirectory: str = IMAGE_SUBDIRECTORY,
        images_root: str | os.PathLike[str] | None = None,
    ) -> ObjectDetectionDataset:
        """Reads annotated pictures in any format: Pascal VOC, COCO JSON, YOLO or CSV.

        Args:
            path: A folder, or the file with the annotations (`.json`, `.csv`, `data.yaml`); local or in
                an object store. `DATA#train` names a part of divided data.
            name: Name for reports; by default the last part of `path`.
            format: How it is written, or `auto` to find out.
            labels: The classes in the order of their ids, for example those of a model to evaluate.
                None takes what the format declares, in its order, else all that occur, sorted by name.
            part: `train`, `val`, `valid` or `test` of divided data.
            annotations_dir: Pascal VOC: the subfolder with XML files.
            image_subdirectory: Pascal VOC: the subfolder with pictures.
            images_root: A folder or bucket elsewhere that holds the pictures; without it they lie in the
                folder of the data.

        Raises:
            StorageError: There is nothing.
            DatasetError: The format is not clear, or something in the annotations is wrong.
            LabelError: `labels` lacks a class that occurs.
        """
        source = open_source(
            path,
            format,
            part=part,
            annotations_dir=annotations_dir,
            image_subdirectory=image_subdirectory,
            images_root=images_root,
        )
        if name is None:
            name = base_name(path) or "dataset"
        return cls._from_source(source, name, labels)

    @classmethod
    def _from_source(
        cls, source: AnnotationSource, name: str, labels: Iterable[Label | str] | None
    ) -> ObjectDetectionDataset:
        source.refuse_faults()
        images: list[AnnotatedImage] = []
        clipped = 0
        read = read_in_order(read_image, source.entries, root=source.root)
        for image, clipped_here in with_bar(
            read, total=len(source.entries), what=f"reading {name}"
        ):
            images.append(image)
            clipped += clipped_here
        if clipped:
            logger.warning(
                "%s: %d boxes reached over the edge and were clipped", source.root, clipped
            )
        if labels is None:
            occurring = {label for image in images for label in image.label_names}
            labels = source.labels or sorted(occurring)
            if not labels:
                raise DatasetError(
                    "No picture of the dataset shows any object",
                    where=source.root,
                    hint="Annotate objects, or name the classes with labels=",
                )
        return cls(name, images, LabelMap.of(labels))

    @property
    def negatives(self) -> int:
        """How many pictures show no object: they teach what is background."""
        return sum(not len(image) for image in self.images)

    def statistics(self) -> statistics.DatasetStatistics:
        """Counts and box sizes."""
        return statistics.DatasetStatistics.of(self.images, self.label_map)

    def print_info(self) -> None:
        """Prints counts per label and how large the boxes are."""
        print(self.statistics().describe(self.name))  # noqa: T201 - what the method is for

    def split(
        self, train_size: float, stratify: bool = True, seed: int = 0
    ) -> tuple[ObjectDetectionDataset, ObjectDetectionDataset]:
        """Divides the pictures in two.

        Args:
            train_size: Share of the pictures for the first part, above 0 and below 1. Each part gets
                at least one picture.
            stratify: Whether each label, and the pictures without objects, are shared out in about the
                same proportion, the rarest first. Otherwise chance alone decides.
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
        if stratify:
            label_sets = [frozenset(image.label_names) for image in self.images]
            chosen = stratified_indices(label_sets, train_size, seed)
        else:
            chosen = random_indices(len(self.images), train_size, seed)
        train = [image for index, image in enumerate(self.images) if index in chosen]
        test = [image for index, image in enumerate(self.images) if index not in chosen]
        return (
            type(self)(f"{self.name} (train)", train, self.label_map),
            type(self)(f"{self.name} (test)", test, self.label_map),
        )

    def merge(
        self, *others: ObjectDetectionDataset, name: str | None = None
    ) -> ObjectDetectionDataset:
        """The pictures of several datasets as one; this one's classes keep their ids, new ones follow.

        Args:
            others: What is added, in this order.
            name: Name for reports; by default the names joined with `+`.

        Raises:
            DatasetError: A picture is in two of them.
        """
        datasets = (self, *others)
        home: dict[str, str] = {}
        for dataset in datasets:
            for image in dataset.images:
                if image.storage_path in home:
                    raise DatasetError(
                        "A picture would be in the merged dataset twice",
                        where=image.storage_path,
                        got=f"in {home[image.storage_path]} and in {dataset.name}",
                        hint="Merge datasets that share no picture",
                    )
                home[image.storage_path] = dataset.name
        names = dict.fromkeys(label for dataset in datasets for label in dataset.label_map.names)
        return type(self)(
            name or " + ".join(dataset.name for dataset in datasets),
            [image for dataset in datasets for image in dataset.images],
            LabelMap.of(names),
        )

    def filter(
        self,
        labels: Iterable[Label | str],
        *,
        keep_empty: bool = True,
        name: str | None = None,
    ) -> ObjectDetectionDataset:
        """Only the objects of some classes, which get their ids in the order given.

        Args:
            labels: The classes to keep.
            keep_empty: Whether pictures that show none of them stay, as pictures without objects: that is
                what they are to a model of these classes.
            name: Name for reports; by default this one's.

        Raises:
            LabelError: A class is not one of this dataset.
            DatasetError: No picture is left.
        """
        kept_labels = LabelMap.of([labels] if isinstance(labels, str) else labels)
        for label in kept_labels.names:
            self.label_map.id_of(label)
        images = [image.of_labels(kept_labels.names) for image in self.images]
        return type(self)(
            name or self.name,
            [image for image in images if keep_empty or len(image)],
            kept_labels,
        )

    def digest(self) -> str:
        """SHA-256 over names, sizes, boxes and labels; not over pixels or places."""
        sha = hashlib.sha256()
        sha.update(repr(self.label_map.names).encode())
        for image in self.images:
            sha.update(repr((image.name, image.size_hw, image.label_names)).encode())
            sha.update(image.boxes_xyxy.astype("<f4").tobytes())
            sha.update(image.difficult.tobytes())
            if image.crowd.any():
                sha.update(b"crowd" + image.crowd.tobytes())
        return sha.hexdigest()
