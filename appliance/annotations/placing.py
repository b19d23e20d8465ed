"""How the boxes of an annotation lie in the picture as it is decoded: upright, in pixels.

The convention: a box belongs where the annotator saw it. Tools that show pictures upright, as browsers do,
write boxes of the upright picture; tools that ignore the EXIF orientation write boxes of the picture as
stored. The size they write beside the boxes says which of the two it was, and boxes of the second kind are
turned with the picture. Where no size is written, or it is the same both ways, the boxes are taken to be
upright.

A box may reach over the edge, as annotators draw generously: what is outside is cut off. One with less than
half of its area inside is no box of something in this picture; what cutting leaves of it would be junk.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from appliance.annotations.source import PictureAnnotation
from appliance.errors import DatasetError
from appliance.images.header import PictureHeader

ROUNDING_PX = 0.5  # formats that store shares of the picture are off by as much without any mistake
LEAST_INSIDE = 0.5


def boxes_in_picture(
    annotation: PictureAnnotation, header: PictureHeader, *, source: str
) -> npt.NDArray[np.float64]:
    """The boxes of an annotation in pixels of the upright picture, `[N, 4]` xyxy, unchecked.

    Args:
        annotation: What the file says.
        header: Of the picture.
        source: Where the annotation lies, for messages.

    Raises:
        DatasetError: The annotation gives another size than the picture has.
    """
    boxes = np.array([item.box_xyxy for item in annotation.objects], np.float64).reshape(-1, 4)
    if annotation.size_hw in (None, header.size_hw):
        return boxes
    if annotation.size_hw != header.stored_hw:
        given_height, given_width = annotation.size_hw or (0, 0)
        height, width = header.size_hw
        raise DatasetError(
            "Annotation and picture disagree about the size",
            where=source,
            got=f"{given_width}x{given_height} in the annotation",
            expected=f"{width}x{height} as the picture has",
            hint="Annotate the picture anew, or restore the one that was annotated",
        )
    height, width = header.stored_hw
    x1, y1, x2, y2 = boxes.T
    turned = {
        5: (y1, x1, y2, x2),
        6: (height - y2, x1, height - y1, x2),
        7: (height - y2, width - x2, height - y1, width - x1),
        8: (y1, width - x2, y2, width - x1),
    }
    return np.stack(turned[header.orientation], axis=1)


def box_fault(box_xyxy: npt.NDArray[np.float64], size_hw: tuple[int, int]) -> str | None:
    """What makes a box unusable, or None. A box over the edge is usable, it only needs clipping."""
    x1, y1, x2, y2 = box_xyxy
    height, width = size_hw
    if x2 <= x1 or y2 <= y1:
        return "has no area"
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return "lies outside the picture"
    if share_inside(box_xyxy, size_hw) < LEAST_INSIDE:
        return "lies mostly outside the picture"
    return None


def share_inside(box_xyxy: npt.NDArray[np.float64], size_hw: tuple[int, int]) -> float:
    """Which share of a box's area lies in the picture; all of it if only rounding keeps it from that.

    Args:
        box_xyxy: A box of some area, in pixels.
        size_hw: Of the picture.
    """
    x1, y1, x2, y2 = map(float, box_xyxy)
    height, width = size_hw
    if max(-x1, -y1, x2 - width, y2 - height) <= ROUNDING_PX:
        return 1.0
    inside = max(min(x2, width) - max(x1, 0), 0) * max(min(y2, height) - max(y1, 0), 0)
    return inside / ((x2 - x1) * (y2 - y1))


def format_box(box_xyxy: npt.NDArray[np.floating]) -> str:
    """A box for messages."""
    x1, y1, x2, y2 = (f"{float(value):g}" for value in box_xyxy)
    return f"xmin {x1}, ymin {y1}, xmax {x2}, ymax {y2}"


def plain_number(value: float) -> str:
    """A number as text that reads back as the same number, whole ones without a fraction."""
    return repr(int(value)) if float(value).is_integer() else repr(float(value))
