"""Counts and box sizes of a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from appliance.labels import LabelMap

if TYPE_CHECKING:
    from appliance.annotations.dataset import AnnotatedImage

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


@dataclass(frozen=True)
class DatasetStatistics:
    """What a dataset holds.

    Attributes:
        image_count: Pictures in all.
        empty_image_count: Pictures without any object.
        object_counts: Label -> objects, in the order of the class ids, also where none occurs.
        width_percentiles_px: Box widths at `PERCENTILES`, None without any box.
        height_percentiles_px: Box heights at `PERCENTILES`, None without any box.
    """

    image_count: int
    empty_image_count: int
    object_counts: dict[str, int]
    width_percentiles_px: tuple[float, ...] | None
    height_percentiles_px: tuple[float, ...] | None

    @classmethod
    def of(cls, images: Sequence[AnnotatedImage], label_map: LabelMap) -> DatasetStatistics:
        """Counts `images`."""
        counts = Counter(label for image in images for label in image.label_names)
        boxes = np.concatenate([np.zeros((0, 4), np.float32), *(i.boxes_xyxy for i in images)])
        widths: tuple[float, ...] | None = None
        heights: tuple[float, ...] | None = None
        if len(boxes):
            widths = tuple(np.percentile(boxes[:, 2] - boxes[:, 0], PERCENTILES).tolist())
            heights = tuple(np.percentile(boxes[:, 3] - boxes[:, 1], PERCENTILES).tolist())
        return cls(
            image_count=len(images),
            empty_image_count=sum(not image.label_names for image in images),
            object_counts={name: counts[name] for name in label_map.names},
            width_percentiles_px=widths,
            height_percentiles_px=heights,
        )

    def describe(self, name: str) -> str:
        """The statistics as lines of text, without a newline at the end."""
        lines = [
            f"Dataset name: {name}",
            f"Total classes: {len(self.object_counts)}, total images: {self.image_count}",
            "Label-wise object counts:",
            *(f"    Label {label}: {count} objects" for label, count in self.object_counts.items()),
            "Bounding box width and height distribution:",
            f"    Bounding box widths  {_row(self.width_percentiles_px)}",
            f"    Bounding box heights {_row(self.height_percentiles_px)}",
        ]
        return "\n".join(lines)


def _row(values_px: tuple[float, ...] | None) -> str:
    if values_px is None:
        return "unknown: there are no boxes"
    percentiles = "/".join(str(percentile) for percentile in PERCENTILES)
    return f"{percentiles}-percentile: {'/'.join(f'{value:.0f}' for value in values_px)} pixels"
