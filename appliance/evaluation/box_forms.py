"""Boxes in another form than COCO's: as shares of the picture, or with two corners. Both measure as nothing
found, so they are told apart before anything is measured.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from appliance.errors import DatasetError

_ROUNDING_PX = 1.0
# Of boxes that are what they should be, few reach over the edge.
_LEAST_OVER_EDGE = 0.25


@dataclass
class BoxForms:
    """What the boxes of a file may be, counted over all of them."""

    _boxes: int = 0
    _shares: int = 0
    _corners: int = 0
    _over_edge: int = 0

    def add(self, box: Sequence[float], size_hw: tuple[int, int]) -> None:
        """Takes the four numbers of one more box, on a picture of this size in pixels."""
        a, b, c, d = box
        height, width = size_hw[0] + _ROUNDING_PX, size_hw[1] + _ROUNDING_PX
        self._boxes += 1
        self._shares += all(0 <= number <= 1 for number in box)
        self._corners += 0 <= a < c <= width and 0 <= b < d <= height
        self._over_edge += a + c > width or b + d > height

    def check(self, path: str | os.PathLike[str]) -> None:
        """Refuses shares of the picture, and corners.

        Raises:
            DatasetError: Every number of every box is from 0 to 1; or all boxes fit their pictures as
                corners, while many reach over the edge by width and height.
        """
        if not self._boxes:
            return
        if self._shares == self._boxes:
            raise DatasetError(
                "The boxes are shares of the picture",
                where=path,
                got="no number above 1 in any box",
                expected="bbox as [x, y, width, height] in pixels of the original picture",
                hint="Multiply them with the width and the height of their picture",
            )
        if self._corners == self._boxes and self._over_edge > _LEAST_OVER_EDGE * self._boxes:
            raise DatasetError(
                "The boxes are corners",
                where=path,
                got=f"{self._over_edge:,} of {self._boxes:,} boxes over the edge as [x, y, width, height], "
                "none as [x1, y1, x2, y2]",
                expected="bbox as [x, y, width, height]",
                hint="Subtract the first two numbers from the last two",
            )
