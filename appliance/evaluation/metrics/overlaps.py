"""Which boxes overlap, over all pictures at once: what every matching rule of this room starts from.

The boxes of all pictures lie in one array, and the pairs of one picture are looked up through a sorted
key, a bounded number at a time: no loop over pictures, and memory that does not grow with the square of
anything. It knows boxes and classes, and nothing of scores or verdicts. Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

# About 100 MB of temporary arrays.
_PAIRS_AT_ONCE = 1_000_000

Scalar = TypeVar("Scalar", bound=np.generic)


class PictureBoxes(Protocol):
    """The boxes of one picture: annotated or detected."""

    @property
    def boxes_xyxy(self) -> npt.NDArray[np.float32]:
        """float32 `[N, 4]`."""

    @property
    def class_ids(self) -> npt.NDArray[np.int64]:
        """int64 `[N]`, from 1."""


@dataclass(frozen=True, eq=False)
class FlatBoxes:
    """The boxes of many pictures in one array, in the order of the pictures.

    Attributes:
        boxes_xyxy: float32 `[N, 4]`.
        class_ids: int64 `[N]`.
        image_index: int64 `[N]`, which picture.
        place: int64 `[N]`, which box of that picture.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
    image_index: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]

    @classmethod
    def of(cls, pictures: Sequence[PictureBoxes]) -> FlatBoxes:
        """Joins the boxes of all pictures."""
        counts = np.array([len(picture.class_ids) for picture in pictures], np.int64)
        boxes = [np.zeros((0, 4), np.float32), *(picture.boxes_xyxy for picture in pictures)]
        return cls(
            boxes_xyxy=np.concatenate(boxes),
            class_ids=joined([picture.class_ids for picture in pictures], np.int64),
            image_index=np.repeat(np.arange(len(counts)), counts),
            place=_counted_up(counts),
        )

    def __len__(self) -> int:
        return len(self.class_ids)


@dataclass(frozen=True, eq=False)
class OverlappingPairs:
    """Pairs of a detection and an object of the same picture, by detection, then by object.

    Attributes:
        detection: int64 `[P]`, index into the flat detections.
        object: int64 `[P]`, index into the flat objects.
        iou: float64 `[P]`.
    """

    detection: npt.NDArray[np.int64]
    object: npt.NDArray[np.int64]
    iou: npt.NDArray[np.float64]

    def where(self, kept: npt.NDArray[np.bool_]) -> OverlappingPairs:
        """Some of the pairs."""
        return OverlappingPairs(self.detection[kept], self.object[kept], self.iou[kept])

    def best_per_detection(self) -> OverlappingPairs:
        """For each detection the object that it overlaps best, the first one among equals."""
        # By detection, the best overlap first; the sort is stable, so the first object among equals.
        order = np.lexsort((-self.iou, self.detection))
        detections, first = np.unique(self.detection[order], return_index=True)
        best = order[first]
        return OverlappingPairs(detections, self.object[best], self.iou[best])


def overlapping_pairs(
    detections: FlatBoxes, objects: FlatBoxes, least_iou: float, *, same_class: bool
) -> OverlappingPairs:
    """All pairs of a detection and an object of one picture that overlap by at least `least_iou`.

    Args:
        detections: None degenerate.
        objects: None degenerate.
        least_iou: Above 0 and up to 1.
        same_class: Whether only pairs of one class are wanted.
    """
    detection_keys, object_keys = detections.image_index, objects.image_index
    if same_class:
        classes = 1 + max(_highest(detections.class_ids), _highest(objects.class_ids))
        detection_keys = detection_keys * classes + detections.class_ids
        object_keys = object_keys * classes + objects.class_ids
    order = np.argsort(object_keys, kind="stable")
    first = np.searchsorted(object_keys[order], detection_keys, side="left")
    counts = np.searchsorted(object_keys[order], detection_keys, side="right") - first
    parts = []
    for part in _parts(counts):
        detection = np.repeat(np.arange(part.start, part.stop), counts[part])
        candidate = order[np.repeat(first[part], counts[part]) + _counted_up(counts[part])]
        iou = paired_iou(detections.boxes_xyxy[detection], objects.boxes_xyxy[candidate])
        kept = iou >= least_iou
        parts.append((detection[kept], candidate[kept], iou[kept]))
    return OverlappingPairs(
        joined([detection for detection, _, _ in parts], np.int64),
        joined([candidate for _, candidate, _ in parts], np.int64),
        joined([iou for _, _, iou in parts], np.float64),
    )


def paired_iou(
    boxes_a_xyxy: npt.NDArray[np.float32], boxes_b_xyxy: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Overlap of each box of `a` with the box of `b` at the same place, without +1 on pixels.

    Args:
        boxes_a_xyxy: `[P, 4]`, none degenerate.
        boxes_b_xyxy: `[P, 4]`, none degenerate.

    Returns:
        float64 `[P]` in 0..1: area of intersection over area of union.
    """
    ax1, ay1, ax2, ay2 = boxes_a_xyxy.astype(np.float64).T
    bx1, by1, bx2, by2 = boxes_b_xyxy.astype(np.float64).T
    width = (np.minimum(ax2, bx2) - np.maximum(ax1, bx1)).clip(min=0)
    height = (np.minimum(ay2, by2) - np.maximum(ay1, by1)).clip(min=0)
    intersection = width * height
    area_a, area_b = (ax2 - ax1) * (ay2 - ay1), (bx2 - bx1) * (by2 - by1)
    overlap: npt.NDArray[np.float64] = intersection / (area_a + area_b - intersection)
    return overlap


def joined(arrays: Sequence[npt.NDArray[Scalar]], dtype: type[Scalar]) -> npt.NDArray[Scalar]:
    """One array of all; of no arrays, an empty one."""
    return np.concatenate([np.zeros(0, dtype), *arrays])


def _parts(counts: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Slices of the detections with about `_PAIRS_AT_ONCE` pairs each, at least one detection."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        done = int(ends[start] - counts[start])
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, side="right")))
        yield slice(start, stop)
        start = stop


def _counted_up(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """0, 1, ..., count - 1 for each count, one after the other."""
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    return np.arange(len(starts)) - starts


def _highest(class_ids: npt.NDArray[np.int64]) -> int:
    return int(class_ids.max()) if len(class_ids) else 0
