"""Boxes that were written in another form than their format has: as shares of the picture where pixels are
meant, or in COCO as corners, `xmin, ymin, xmax, ymax`, where `x, y, width, height` is meant.

These are the commonest mistakes of own exports, and silent ones: each box alone looks like a box that is
too small or too large. Together they tell. Shares are all within the first pixel. Corners all fit their
pictures, which boxes by width and height do only where all begin near the upper left; and as they are,
many reach far over the edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from appliance.annotations.placing import ROUNDING_PX
from appliance.annotations.source import FormatName, ObjectAnnotation

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
_LEAST_SIDE_PX = 16  # in smaller pictures a pixel may be an object
_SHARE_ROUNDING = 1e-3


@dataclass(frozen=True)
class OtherForms:
    """How many boxes would make sense in another form.

    Attributes:
        objects: All boxes.
        shares: Those whose every number is one from 0 to 1, in pictures of many more pixels.
        zeros: Those of them whose every number is 0, which say nothing.
        far_over: Of COCO, those that reach far over the right or bottom edge as they are.
        fitting: Of COCO, those that would lie in their picture as corners.
    """

    objects: int = 0
    shares: int = 0
    zeros: int = 0
    far_over: int = 0
    fitting: int = 0

    @classmethod
    def of(
        cls, objects: Sequence[ObjectAnnotation], size_hw: tuple[int, int], format: FormatName
    ) -> OtherForms:
        """Counts the boxes of one picture of this size, as a file of this format gives them."""
        if format == "yolo":  # has shares
            return cls(len(objects))
        height, width = size_hw
        shares = zeros = far_over = fitting = 0
        for item in objects:
            x1, y1, x2, y2 = item.box_xyxy
            in_coco = (x1, y1, x2 - x1, y2 - y1)
            written = in_coco if format == "coco" else item.box_xyxy
            if min(size_hw) > _LEAST_SIDE_PX and all(
                -_SHARE_ROUNDING <= number <= 1 + _SHARE_ROUNDING for number in written
            ):
                shares += 1
                zeros += not any(written)
            if format == "coco":
                far_over += x2 > width * (1 + _FAR_OVER) or y2 > height * (1 + _FAR_OVER)
                in_x = -ROUNDING_PX <= x1 < x2 - x1 <= width + ROUNDING_PX
                in_y = -ROUNDING_PX <= y1 < y2 - y1 <= height + ROUNDING_PX
                fitting += in_x and in_y
        return cls(len(objects), shares, zeros, far_over, fitting)

    def __add__(self, other: OtherForms) -> OtherForms:
        return OtherForms(
            *(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True))
        )

    @property
    def verdict(self) -> tuple[str, str] | None:
        """Code and text if all boxes are certainly of another form, else None."""
        if self.objects < LEAST_OBJECTS:
            return None
        if self.shares == self.objects > self.zeros:
            return "boxes-as-shares", (
                f"the boxes look like shares of the picture, while pixels are meant: the numbers of all "
                f"{self.objects:,} lie between 0 and 1; multiply them by width and height of their "
                f"picture, or give them as YOLO, whose boxes are shares"
            )
        if self.fitting == self.objects and self.far_over >= _SHARE_FAR_OVER * self.objects:
            return "boxes-as-corners", (
                f"the boxes look like xmin, ymin, xmax, ymax, while COCO's bbox is x, y, width, height: as "
                f"such {self.far_over:,} of {self.objects:,} reach far over the edge, as corners all lie in "
                f"their pictures; subtract xmin and ymin from the last two numbers, or give a CSV table"
            )
        return None
