"""One annotated picture as a checked value, and how it is read."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from appliance.annotations.formats.listing import base_name
from appliance.annotations.placing import box_fault, boxes_in_picture, format_box
from appliance.annotations.source import Entry
from appliance.errors import DatasetError
from appliance.images.header import PictureHeader
from appliance.labels import LabelMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
        truncated: bool `[N]`; True says that only a part is in the picture. All False if left out.
        crowd: bool `[N]`; True stands for a group of objects, neither learnt from nor counted. All False
            if left out.
        label_map: All classes of its data set, which decide the colours it is drawn in; those of the
            picture alone if left out.
    """

    storage_path: str
    name: str
    size_hw: tuple[int, int]
    boxes_xyxy: npt.NDArray[np.float32]
    label_names: tuple[str, ...]
    difficult: npt.NDArray[np.bool_]
    annotation_path: str | None = None
    truncated: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    crowd: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    label_map: LabelMap | None = None

    def __post_init__(self) -> None:
        boxes = np.array(self.boxes_xyxy, np.float32).reshape(-1, 4)
        flags = {
            name: np.array(getattr(self, name), np.bool_)
            for name in ("difficult", "truncated", "crowd")
        }
        for name in ("truncated", "crowd"):
            if not len(flags[name]):
                flags[name] = np.zeros(len(boxes), np.bool_)
        lengths = {len(boxes), len(self.label_names), *map(len, flags.values())}
        if len(lengths) > 1:
            raise ValueError(
                f"boxes, label_names and {', '.join(flags)} differ in length: {len(boxes)}, "
                f"{len(self.label_names)}, {', '.join(str(len(flag)) for flag in flags.values())}"
            )
        for name, array in (("boxes_xyxy", boxes), *flags.items()):
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.label_names)

    def of_labels(self, names: Collection[str]) -> AnnotatedImage:
        """The same picture with the objects of some classes only."""
        kept = [index for index, label in enumerate(self.label_names) if label in names]
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[kept],
            label_names=tuple(self.label_names[index] for index in kept),
            difficult=self.difficult[kept],
            truncated=self.truncated[kept],
            crowd=self.crowd[kept],
        )

    def within(self, label_map: LabelMap) -> AnnotatedImage:
        """The same picture as one of a data set with these classes."""
        image = copy.copy(self)  # not `replace`, which would check and copy the arrays again
        object.__setattr__(image, "label_map", label_map)
        return image

    def visualize_bounding_boxes(self, image_size: tuple[float, float] = (10, 10)) -> Axes:
        """Shows the picture with its annotation.

        Args:
            image_size: Width and height of the figure in inches.
        """
        from appliance.images import drawing

        names = self.label_map.names if self.label_map else sorted(set(self.label_names))
        ids = {name: class_id for class_id, name in enumerate(names, start=1)}
        picture = drawing.draw_detections(
            drawing.load_picture(self.storage_path),
            self.boxes_xyxy,
            self.label_names,
            [ids[name] for name in self.label_names],
        )
        return drawing.show(picture, title=self.name, image_size=image_size)


def read_image(entry: Entry) -> tuple[AnnotatedImage, int]:
    """Reads one picture's header and annotation, and places its boxes.

    Returns:
        The picture, and how many of its boxes reached over the edge and were clipped.

    Raises:
        DatasetError: Either cannot be read, they disagree, or a box has no area or lies outside.
        StorageError: A file is not there.
    """
    picture_path, where = str(entry.picture_path), str(entry.annotation_path)
    header = PictureHeader.read(picture_path)
    annotation = entry.read()
    boxes = boxes_in_picture(annotation, header, source=where)
    height, width = header.size_hw
    for number, (item, box) in enumerate(zip(annotation.objects, boxes, strict=True), start=1):
        fault = box_fault(box, header.size_hw)
        if fault is not None:
            raise DatasetError(
                f"The box of object {number} ({item.label}) {fault}",
                where=where,
                got=format_box(box),
                expected=f"xmin < xmax and ymin < ymax within {width}x{height} pixels",
                hint="Correct or remove the object",
            )
    inside = np.clip(boxes, 0, [width, height, width, height])
    image = AnnotatedImage(
        storage_path=picture_path,
        name=base_name(picture_path),
        size_hw=header.size_hw,
        boxes_xyxy=inside.astype(np.float32),
        label_names=tuple(item.label for item in annotation.objects),
        difficult=np.array([item.difficult for item in annotation.objects], np.bool_),
        annotation_path=entry.annotation_path,
        truncated=np.array([item.truncated for item in annotation.objects], np.bool_),
        crowd=np.array([item.crowd for item in annotation.objects], np.bool_),
    )
    return image, int((inside != boxes).any(axis=1).sum())
