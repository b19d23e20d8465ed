"""Whether an answer is right: its detections lie in the picture, and are those of that picture.

The first right answer for a picture is kept, and every later one must find the same objects, so that a service
that mixes up the answers of clients under load is caught. Numbers may differ as much as batches of other sizes
make them: a detection is the same when its box overlaps by half and its score is near.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.online.pictures import Picture
from benchmarks.online.protocols import Found, WrongAnswerError

_SAME_IOU = 0.5
_SAME_SCORE = 0.05
_SAME_PX = 2.0
_EDGE_PX = 0.51
"""A box may touch the picture's edge, and /score has told it in fractions."""
_MAX_STRAY = 0.1
"""Share of detections that may be without a partner: where two are nearly alike, rounding decides."""


class References:
    """The answers that later ones are held against.

    Args:
        score_threshold: Lowest score that the model answers; what lies near it may come or not.
        max_detections: Most detections of a picture; of so many the last may be others.
    """

    def __init__(self, score_threshold: float = 0.0, max_detections: int | None = None) -> None:
        self._score_threshold = score_threshold
        self._max_detections = max_detections
        self._found: dict[str, Found] = {}

    @property
    def without_detections(self) -> tuple[int, int]:
        """Of how many pictures the first answer finds nothing, and of how many there is one."""
        return sum(not len(found.scores) for found in self._found.values()), len(self._found)

    def check(self, found: Found, picture: Picture) -> None:
        """Keeps the first answer for a picture, and compares the others with it.

        Raises:
            WrongAnswerError: It is none of this picture.
        """
        check_detections(found, picture)
        first = self._found.setdefault(picture.name, found)
        if _alike(found, first):
            return
        if self._strays(found, first) or self._strays(first, found):
            raise WrongAnswerError("other detections than before for the same picture")

    def _strays(self, found: Found, other: Found) -> bool:
        """Whether more detections of the one than may be have no partner in the other."""
        floor = self._score_threshold + _SAME_SCORE
        if self._max_detections is not None and len(other.scores) >= self._max_detections:
            floor = max(floor, float(other.scores[-1]) + _SAME_SCORE)
        sure = found.scores >= floor
        near = np.abs(found.scores[:, None] - other.scores[None]) <= _SAME_SCORE
        near &= found.class_ids[:, None] == other.class_ids[None]
        near &= _iou(found.boxes_xyxy, other.boxes_xyxy) >= _SAME_IOU
        alone = sure & ~near.any(axis=1)
        return bool(alone.sum() > _MAX_STRAY * sure.sum())


def _alike(found: Found, first: Found) -> bool:
    """The same detections in the same order: most answers are, and telling so costs next to nothing."""
    return (
        len(found.scores) == len(first.scores)
        and bool((found.class_ids == first.class_ids).all())
        and bool((np.abs(found.scores - first.scores) <= _SAME_SCORE).all())
        and bool((np.abs(found.boxes_xyxy - first.boxes_xyxy) <= _SAME_PX).all())
    )


def check_detections(found: Found, picture: Picture) -> None:
    """Boxes within the picture, scores from 0 to 1 and best first, classes from 1.

    Raises:
        WrongAnswerError: Something of it is not so.
    """
    x1, y1, x2, y2 = found.boxes_xyxy.T
    width, height = picture.size_wh
    inside = (x1 >= -_EDGE_PX) & (y1 >= -_EDGE_PX)
    inside &= (x2 <= width + _EDGE_PX) & (y2 <= height + _EDGE_PX) & (x1 < x2) & (y1 < y2)
    if not inside.all():
        raise WrongAnswerError("a box outside of the picture")
    if not ((found.scores >= 0) & (found.scores <= 1)).all() or (np.diff(found.scores) > 0).any():
        raise WrongAnswerError("scores that are not from 0 to 1, best first")
    if (found.class_ids < 1).any():
        raise WrongAnswerError("a class below 1")


def _iou(
    boxes_xyxy: npt.NDArray[np.float64], others_xyxy: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Intersection over union of each with each, `[N, M]`."""
    low = np.maximum(boxes_xyxy[:, None, :2], others_xyxy[None, :, :2])
    high = np.minimum(boxes_xyxy[:, None, 2:], others_xyxy[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (boxes_xyxy, others_xyxy)]
    whole: npt.NDArray[np.float64] = areas[0][:, None] + areas[1][None] - shared
    return shared / whole
