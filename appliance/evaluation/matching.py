"""Which detection found which object, by the rules of PASCAL VOC: the step before every figure.

A detection looks only at the ground truth of its own class in its own picture that it overlaps best. From
an IoU of 0.5 on that object is found by the best-scored detection that looks at it; further ones are false
positives, even when they overlap a second object as well. `difficult` objects are not counted, and a
detection that looks at one is dropped. Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from appliance.detections import Detections

_NO_OBJECT = -1

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The annotated objects of one picture; N = 0 is a picture without objects.

    Attributes:
        boxes_xyxy: float32 `[N, 4]`, pixels of the original picture, `x1 < x2` and `y1 < y2`.
        class_ids: int64 `[N]`, from 1.
        difficult: bool `[N]`; such objects are neither asked for nor held against a detection.
        image_id: Name of the picture, for messages.

    Raises:
        ValueError: Shapes or ranges break the contract: a programming error, never a user's.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
    difficult: npt.NDArray[np.bool_]
    image_id: str

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes_xyxy, np.float32).reshape(-1, 4)
        class_ids = np.asarray(self.class_ids, np.int64)
        difficult = np.asarray(self.difficult, np.bool_)
        for name, array in (
            ("boxes_xyxy", boxes),
            ("class_ids", class_ids),
            ("difficult", difficult),
        ):
            object.__setattr__(self, name, array)
        if not class_ids.shape == difficult.shape == (len(boxes),):
            raise ValueError(
                f"{self.image_id}: boxes, class_ids and difficult differ in length: "
                f"{len(boxes)}, {class_ids.shape}, {difficult.shape}"
            )
        x1, y1, x2, y2 = boxes.T
        valid = (x1 < x2) & (y1 < y2) & np.isfinite(boxes).all(axis=1)
        if not valid.all():
            index = int(np.argmin(valid))
            raise ValueError(f"{self.image_id}: box {index} is degenerate: {boxes[index]}")
        if len(class_ids) and class_ids.min() < 1:
            raise ValueError(f"{self.image_id}: class ids count from 1, got {class_ids.min()}")

    def __len__(self) -> int:
        return len(self.class_ids)


@dataclass(frozen=True, eq=False)
class Matches:
    """The verdict on every detection, best score first, and the objects that were asked for.

    Equal scores stand in the order of the pictures, then of the detections in their picture. A verdict
    depends on better-scored detections only, so the first entries are also the verdicts of any higher
    score threshold.

    Attributes:
        scores: float32 `[M]`, descending.
        class_ids: int64 `[M]`, from 1.
        image_index: int64 `[M]`, which picture.
        detection_index: int64 `[M]`, which detection of that picture.
        is_true_positive: bool `[M]`, it found an object.
        is_ignored: bool `[M]`, it looks at a difficult object and does not count; what is neither is a
            false positive.
        object_class_ids: int64 `[K]`, the class of every object that counts (not difficult).
        object_image_index: int64 `[K]`, its picture.
        object_index: int64 `[K]`, its place in the ground truth of that picture.
        object_is_found: bool `[K]`, whether some detection found it, whatever its score.
        object_score: float32 `[K]`, the score of that detection; 0 where there is none.
        num_images: How many pictures there were.
    """

    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
    image_index: npt.NDArray[np.int64]
    detection_index: npt.NDArray[np.int64]
    is_true_positive: npt.NDArray[np.bool_]
    is_ignored: npt.NDArray[np.bool_]
    object_class_ids: npt.NDArray[np.int64]
    object_image_index: npt.NDArray[np.int64]
    object_index: npt.NDArray[np.int64]
    object_is_found: npt.NDArray[np.bool_]
    object_score: npt.NDArray[np.float32]
    num_images: int

    @property
    def is_false_positive(self) -> npt.NDArray[np.bool_]:
        """What is neither a find nor ignored, bool `[M]`."""
        return ~(self.is_true_positive | self.is_ignored)

    def object_is_missed(self, score_threshold: float) -> npt.NDArray[np.bool_]:
        """Objects that no detection of at least `score_threshold` found, bool `[K]`."""
        return ~(self.object_is_found & (self.object_score >= np.float32(score_threshold)))


def match_detections(
    ground_truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    iou_threshold: float = 0.5,
) -> Matches:
    """Gives every detection its verdict.

    Args:
        ground_truths: One per picture.
        detections: One per picture, in the same order.
        iou_threshold: The least overlap that counts as found, above 0 and up to 1.

    Raises:
        ValueError: The two differ in length, or the threshold is out of range.
    """
    if len(ground_truths) != len(detections):
        raise ValueError(f"{len(ground_truths)} ground truths for {len(detections)} detections")
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be above 0 and at most 1, got {iou_threshold}")
    counts = np.array([len(found) for found in detections], np.int64)
    object_counts = np.array([len(truth) for truth in ground_truths], np.int64)
    first_object = np.cumsum(object_counts) - object_counts
    seen = [
        _object_looked_at(truth, found, iou_threshold, int(first))
        for truth, found, first in zip(ground_truths, detections, first_object, strict=True)
    ]
    scores = _joined([found.scores for found in detections], np.float32)
    # A stable sort keeps the order of pictures and detections among equal scores.
    order = np.argsort(-scores, kind="stable")
    looked_at = _joined(seen, np.int64)[order]

    difficult = _joined([truth.difficult for truth in ground_truths], np.bool_)
    looks = looked_at != _NO_OBJECT
    is_ignored = looks.copy()
    is_ignored[looks] = difficult[looked_at[looks]]
    candidates = np.flatnonzero(looks & ~is_ignored)
    found_objects, first_seen_by = np.unique(looked_at[candidates], return_index=True)
    winners = candidates[first_seen_by]
    is_true_positive = np.zeros(len(order), np.bool_)
    is_true_positive[winners] = True
    object_score = np.zeros(len(difficult), np.float32)
    object_score[found_objects] = scores[order][winners]
    object_is_found = np.zeros(len(difficult), np.bool_)
    object_is_found[found_objects] = True

    counted = ~difficult
    return Matches(
        scores=scores[order],
        class_ids=_joined([found.class_ids for found in detections], np.int64)[order],
        image_index=np.repeat(np.arange(len(counts)), counts)[order],
        detection_index=_places(counts)[order],
        is_true_positive=is_true_positive,
        is_ignored=is_ignored,
        object_class_ids=_joined([truth.class_ids for truth in ground_truths], np.int64)[counted],
        object_image_index=np.repeat(np.arange(len(counts)), object_counts)[counted],
        object_index=_places(object_counts)[counted],
        object_is_found=object_is_found[counted],
        object_score=object_score[counted],
        num_images=len(counts),
    )


def box_iou(
    boxes_a_xyxy: npt.NDArray[np.float32], boxes_b_xyxy: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Overlap of every box of `a` with every box of `b`, without +1 on pixels.

    Args:
        boxes_a_xyxy: `[A, 4]`, none degenerate.
        boxes_b_xyxy: `[B, 4]`, none degenerate.

    Returns:
        float64 `[A, B]` in 0..1: area of intersection over area of union.
    """
    a = boxes_a_xyxy.astype(np.float64)[:, None, :]
    b = boxes_b_xyxy.astype(np.float64)[None, :, :]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = sides.clip(min=0).prod(axis=-1)
    area_a = (a[..., 2:] - a[..., :2]).prod(axis=-1)
    area_b = (b[..., 2:] - b[..., :2]).prod(axis=-1)
    overlap: npt.NDArray[np.float64] = intersection / (area_a + area_b - intersection)
    return overlap


def _object_looked_at(
    truth: GroundTruth, found: Detections, iou_threshold: float, first_object: int
) -> npt.NDArray[np.int64]:
    if not len(truth) or not len(found):
        return np.full(len(found), _NO_OBJECT, np.int64)
    iou = box_iou(found.boxes_xyxy, truth.boxes_xyxy)
    # Another class is never the best, not even among overlaps of 0.
    iou[found.class_ids[:, None] != truth.class_ids] = -1.0
    best = iou.argmax(axis=1)
    overlaps = iou[np.arange(len(found)), best] >= iou_threshold
    return np.where(overlaps, best + first_object, _NO_OBJECT)


def _places(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """0, 1, ..., count - 1 for each count, one after the other."""
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    return np.arange(len(starts)) - starts


def _joined(arrays: Sequence[npt.NDArray[Scalar]], dtype: type[Scalar]) -> npt.NDArray[Scalar]:
    return np.concatenate([np.zeros(0, dtype), *arrays])
