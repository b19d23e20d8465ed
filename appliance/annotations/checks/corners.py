"""COCO boxes that were written as corners: `xmin, ymin, xmax, ymax` where `x, y, width, height` is meant.

It is the commonest mistake of own exports, and a silent one: each box alone looks like a box that is too
large. Together they tell. All of them fit their pictures as corners, which boxes by width and height do
only where all begin near the upper left; and many reach far over the edge as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.annotations.placing import ROUNDING_PX
from appliance.annotations.source import ObjectAnnotation

# What such boxes are found to be one by one.
CODES_OF_BOXES = (
    "box-inverted",
    "box-without-area",
    "box-outside",
    "box-mostly-outside",
    "box-over-edge",
    "object-doubled",
    "object-contradicted",
    "object-tiny",
    "object-covers-picture",
    "object-elongated",
)
LEAST_OBJECTS = 3
_FAR_OVER = 0.05  # of the picture's side: drawn carelessly, a box reaches over by less
_SHARE_FAR_OVER = 1 / 3


@dataclass(frozen=True)
class CornerCounts:
    """How boxes lie as they are and as corners.

    Attributes:
        objects: All boxes.
        far_over: Those that reach far over the right or bottom edge as they are.
        fitting: Those that would lie in their picture as corners.
    """

    objects: int = 0
    far_over: int = 0
    fitting: int = 0

    @classmethod
    def of(cls, objects: Sequence[ObjectAnnotation], size_hw: tuple[int, int]) -> CornerCounts:
        """Counts the boxes of one picture of this size, as the file gives them."""
        height, width = size_hw
        far_over = fitting = 0
        for item in objects:
            x1, y1, x2, y2 = item.box_xyxy
            far_over += x2 > width * (1 + _FAR_OVER) or y2 > height * (1 + _FAR_OVER)
            in_x = -ROUNDING_PX <= x1 < x2 - x1 <= width + ROUNDING_PX
            in_y = -ROUNDING_PX <= y1 < y2 - y1 <= height + ROUNDING_PX
            fitting += in_x and in_y
        return cls(len(objects), far_over, fitting)

    def __add__(self, other: CornerCounts) -> CornerCounts:
        return CornerCounts(
            self.objects + other.objects,
            self.far_over + other.far_over,
            self.fitting + other.fitting,
        )

    @property
    def verdict(self) -> str | None:
        """What to say if the boxes are certainly corners, else None."""
        if self.objects < LEAST_OBJECTS or self.fitting < self.objects:
            return None
        if self.far_over < _SHARE_FAR_OVER * self.objects:
            return None
        return (
            f"the boxes look like xmin, ymin, xmax, ymax, while COCO's bbox is x, y, width, height: as "
            f"such {self.far_over:,} of {self.objects:,} reach far over the edge, as corners all lie in "
            f"their pictures; subtract xmin and ymin from the last two numbers, or give a CSV table"
        )
