"""Counts, sizes and shapes of what a dataset holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from appliance.annotations.checks.findings import counted
from appliance.labels import LabelMap

if TYPE_CHECKING:
    from appliance.annotations.annotated_image import AnnotatedImage

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
_SIZES_SHOWN = 5
_PAIRS_SHOWN = 5

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DatasetStatistics:
    """What a dataset holds.

    Attributes:
        image_count: Pictures in all.
        empty_image_count: Pictures without any object: the negatives.
        object_counts: Label -> objects, in the order of the class ids, also where none occurs.
        image_counts: Label -> pictures that show it, likewise.
        widths_px: Width of every box, float64 `[N]`.
        heights_px: Height of every box, float64 `[N]`.
        objects_per_image: Number of objects -> pictures with so many, ascending.
        image_sizes_hw: Height and width in pixels -> pictures of that size, the most frequent first.
        image_counts_of_pairs: Two labels, in the order of their ids -> pictures that show both.
        marked_counts: `difficult`, `truncated` and `crowd` -> objects marked so.
    """

    image_count: int
    empty_image_count: int
    object_counts: dict[str, int]
    image_counts: dict[str, int] = field(default_factory=dict)
    widths_px: Numbers = field(default_factory=lambda: np.zeros(0))
    heights_px: Numbers = field(default_factory=lambda: np.zeros(0))
    objects_per_image: dict[int, int] = field(default_factory=dict)
    image_sizes_hw: dict[tuple[int, int], int] = field(default_factory=dict)
    image_counts_of_pairs: dict[tuple[str, str], int] = field(default_factory=dict)
    marked_counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, images: Sequence[AnnotatedImage], label_map: LabelMap) -> DatasetStatistics:
        """Counts `images`."""
        objects: Counter[str] = Counter()
        shown: Counter[str] = Counter()
        pairs: Counter[tuple[str, str]] = Counter()
        ids = label_map.class_map
        for image in images:
            objects.update(image.label_names)
            labels = sorted(set(image.label_names), key=ids.__getitem__)
            shown.update(labels)
            pairs.update(combinations(labels, 2))
        boxes = np.concatenate([np.zeros((0, 4)), *(image.boxes_xyxy for image in images)])
        sizes = Counter(image.size_hw for image in images)
        return cls(
            image_count=len(images),
            empty_image_count=sum(not image.label_names for image in images),
            object_counts={name: objects[name] for name in label_map.names},
            image_counts={name: shown[name] for name in label_map.names},
            widths_px=boxes[:, 2] - boxes[:, 0],
            heights_px=boxes[:, 3] - boxes[:, 1],
            objects_per_image=dict(sorted(Counter(len(image) for image in images).items())),
            image_sizes_hw=dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))),
            image_counts_of_pairs=dict(sorted(pairs.items(), key=lambda item: (-item[1], item[0]))),
            marked_counts={
                mark: sum(int(getattr(image, mark).sum()) for image in images)
                for mark in ("difficult", "truncated", "crowd")
            },
        )

    @property
    def object_count(self) -> int:
        """Objects in all."""
        return sum(self.object_counts.values())

    @property
    def aspect_ratios(self) -> Numbers:
        """Width by height of every box, float64 `[N]`."""
        ratios: Numbers = self.widths_px / self.heights_px
        return ratios

    @property
    def width_percentiles_px(self) -> tuple[float, ...] | None:
        """Box widths at `PERCENTILES`, None without any box."""
        return percentiles(self.widths_px)

    @property
    def height_percentiles_px(self) -> tuple[float, ...] | None:
        """Box heights at `PERCENTILES`, None without any box."""
        return percentiles(self.heights_px)

    def describe(self, name: str) -> str:
        """The most important statistics as lines of text, without a newline at the end."""
        lines = [
            f"Dataset name: {name}",
            f"Total classes: {len(self.object_counts)}, total images: {self.image_count}",
            "Label-wise object counts:",
            *(f"    Label {label}: {count} objects" for label, count in self.object_counts.items()),
            "Bounding box width and height distribution:",
            f"    Bounding box widths  {_row(self.width_percentiles_px, '.0f', ' pixels')}",
            f"    Bounding box heights {_row(self.height_percentiles_px, '.0f', ' pixels')}",
        ]
        return "\n".join(lines)

    def describe_more(self) -> str:
        """The rest as lines of text, without a newline at the end."""
        per_image = [
            count for count, images in self.objects_per_image.items() for _ in range(images)
        ]
        per_image_row = _row(percentiles(np.array(per_image, np.float64)), ".0f", " objects")
        sizes = [
            f"    {width}x{height} pixels: {counted(count, 'image')}"
            for (height, width), count in self.image_sizes_hw.items()
        ]
        pairs = [
            f"    {first} and {second}: {counted(count, 'image')}"
            for (first, second), count in self.image_counts_of_pairs.items()
        ]
        marks = ", ".join(f"{count:,} {mark}" for mark, count in self.marked_counts.items())
        lines = [
            f"Bounding box aspect ratio, width by height: {_row(percentiles(self.aspect_ratios), '.2f')}",
            f"Objects: {self.object_count:,} ({marks})",
            f"Objects per image: {per_image_row}",
            f"Images without any object (negatives): {self.empty_image_count:,}",
            f"Image sizes: {len(self.image_sizes_hw):,}",
            *_first(sizes, _SIZES_SHOWN),
            "Labels seen together most often:",
            *(_first(pairs, _PAIRS_SHOWN) or ["    none"]),
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """All statistics as plain values; distributions at `PERCENTILES`."""
        return {
            "images": self.image_count,
            "negatives": self.empty_image_count,
            "objects": self.object_count,
            "classes": len(self.object_counts),
            "objects_per_label": self.object_counts,
            "images_per_label": self.image_counts,
            "percentiles": list(PERCENTILES),
            "box_width_px": self.width_percentiles_px,
            "box_height_px": self.height_percentiles_px,
            "aspect_ratio": percentiles(self.aspect_ratios),
            "objects_per_image": {str(n): count for n, count in self.objects_per_image.items()},
            "image_sizes_wh": [
                {"width": width, "height": height, "images": count}
                for (height, width), count in self.image_sizes_hw.items()
            ],
            "images_with_both": [
                {"labels": list(pair), "images": count}
                for pair, count in self.image_counts_of_pairs.items()
            ],
            **self.marked_counts,
        }


def percentiles(values: Numbers) -> tuple[float, ...] | None:
    """The values at `PERCENTILES`, None without any value."""
    return tuple(np.percentile(values, PERCENTILES).tolist()) if len(values) else None


def _row(values: tuple[float, ...] | None, number_format: str, unit: str = "") -> str:
    if values is None:
        return "unknown: there are no boxes"
    names = "/".join(str(percentile) for percentile in PERCENTILES)
    numbers = "/".join(format(value, number_format) for value in values)
    return f"{names}-percentile: {numbers}{unit}"


def _first(lines: list[str], count: int) -> list[str]:
    more = len(lines) - count
    return lines if more <= 0 else [*lines[:count], f"    and {more:,} more"]
