"""Anchors and input size from the boxes of the data: k-means with IoU as its measure of likeness.

The compact network has one anchor size at each of its strides and the same shapes everywhere, so sizes and
shapes are clustered apart. How good anchors are is measured where they stand: on the grid of their stride,
which an anchor in the best place, as plain k-means has it, would not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from appliance.annotations.annotated_image import AnnotatedImage
from appliance.model.faster_rcnn import STRIDES_PX
from appliance.model.spec import COMPACT, ModelSpec

Numbers = npt.NDArray[np.float64]

# The proposal network learns an object from anchors that overlap it by 0.7, or by the best there is. Below a
# mean of 0.5 many objects have only poor ones. Sane data reach 0.6 with the standard anchors.
POOR_MEAN_IOU = 0.5
CLEAR_GAIN = 0.1
FEWEST_OBJECTS = 20

# Half the smallest standard anchor: what is smaller is background to every anchor (IoU below 0.3).
SMALL_OBJECT_PX = 16.0
SMALL_PERCENTILE = 10
LARGEST_ENLARGEMENT = 2.0
_SIDE_STEP_PX = 32
_MAX_ROUNDS = 100


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of a data set as the network would see them, in pixels of its input.

    Attributes:
        centres_xy: float64 `[N, 2]`.
        sizes_wh: float64 `[N, 2]`.
    """

    centres_xy: Numbers
    sizes_wh: Numbers

    @classmethod
    def of(cls, images: Sequence[AnnotatedImage], spec: ModelSpec) -> Objects:
        """The objects to learn (no crowds) of pictures resized as `spec` says."""
        boxes = [np.zeros((0, 4))]
        for image in images:
            height, width = spec.resized_hw(image.size_hw)
            scale = np.array([width / image.size_hw[1], height / image.size_hw[0]] * 2)
            boxes.append(image.boxes_xyxy[~image.crowd] * scale)
        xyxy = np.concatenate(boxes)
        return cls((xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2])

    def __len__(self) -> int:
        return len(self.sizes_wh)

    @property
    def sides_px(self) -> Numbers:
        """Square root of each area, float64 `[N]`."""
        sides: Numbers = np.sqrt(self.sizes_wh.prod(axis=1))
        return sides


@dataclass(frozen=True)
class AnchorProposal:
    """Anchors made for a data set, beside those that the network has.

    Attributes:
        sizes_px: As `ModelSpec.anchor_sizes_px`.
        ratios: As `ModelSpec.anchor_ratios`.
        iou_before: Mean over the objects of the IoU with the best anchor, as the network has them.
        iou_after: The same with these.
        objects: How many objects there are.
    """

    sizes_px: tuple[int, int, int]
    ratios: tuple[float, float, float]
    iou_before: float
    iou_after: float
    objects: int

    @property
    def are_clearly_better(self) -> bool:
        """Whether to take them: the standard ones are poor, these much better, and no chance finding."""
        return (
            self.objects >= FEWEST_OBJECTS
            and self.iou_before < POOR_MEAN_IOU
            and self.iou_after - self.iou_before >= CLEAR_GAIN
        )


def propose_anchors(objects: Objects, spec: ModelSpec) -> AnchorProposal | None:
    """Anchors by k-means; None where nothing can be proposed: no objects, or no compact network."""
    if not len(objects) or spec.architecture != COMPACT:
        return None
    count = len(STRIDES_PX)
    squares = np.repeat(objects.sides_px[:, None], 2, axis=1)
    sizes = cluster_shapes(squares, count)[:, 0]
    of_unit_area = objects.sizes_wh / objects.sides_px[:, None]
    shapes = cluster_shapes(of_unit_area, count)
    ratios = np.sort(shapes[:, 1] / shapes[:, 0])
    small, middle, large = (max(1, round(size)) for size in np.sort(sizes).tolist())
    wide, even, tall = (round(ratio, 2) for ratio in ratios.tolist())
    proposed = spec.with_settings(
        anchor_sizes_px=(small, middle, large), anchor_ratios=(wide, even, tall)
    )
    return AnchorProposal(
        proposed.anchor_sizes_px,
        proposed.anchor_ratios,
        mean_best_iou(objects, spec),
        mean_best_iou(objects, proposed),
        len(objects),
    )


def cluster_shapes(sizes_wh: Numbers, count: int) -> Numbers:
    """k-means of box shapes: likeness is the IoU of two boxes with one centre, a cluster's middle the median.

    Args:
        sizes_wh: float64 `[N, 2]`, N at least 1.
        count: Clusters.

    Returns:
        float64 `[count, 2]`, by area and then by width. It depends on nothing but the shapes: the first
        middles stand at even quantiles of area and proportion.
    """
    by_area = sizes_wh[np.lexsort((sizes_wh[:, 0] / sizes_wh[:, 1], sizes_wh.prod(axis=1)))]
    first = ((2 * np.arange(count) + 1) * len(by_area)) // (2 * count)
    middles = by_area[np.minimum(first, len(by_area) - 1)]
    assigned = np.full(len(sizes_wh), -1)
    for _ in range(_MAX_ROUNDS):
        nearest = _centred_iou(sizes_wh, middles).argmax(axis=1)
        if np.array_equal(nearest, assigned):
            break
        assigned = nearest
        middles = np.array(
            [
                np.median(sizes_wh[assigned == index], axis=0)
                if (assigned == index).any()
                else middles[index]
                for index in range(count)
            ]
        )
    ordered: Numbers = middles[np.lexsort((middles[:, 0], middles.prod(axis=1)))]
    return ordered


def mean_best_iou(objects: Objects, spec: ModelSpec) -> float:
    """Mean over the objects of the IoU with the best anchor of a compact network, on its grid.

    Anchors stand at every multiple of their stride, so that an object is at most half a stride away.
    """
    best = np.zeros(len(objects))
    for stride_px, size_px in zip(STRIDES_PX, spec.anchor_sizes_px, strict=True):
        half = stride_px / 2
        offsets = np.abs((objects.centres_xy + half) % stride_px - half)
        for ratio in spec.anchor_ratios:
            anchor_wh = np.array([size_px / ratio**0.5, size_px * ratio**0.5])
            shared_wh = np.minimum(
                np.minimum(objects.sizes_wh, anchor_wh),
                (objects.sizes_wh + anchor_wh) / 2 - offsets,
            )
            shared = np.clip(shared_wh, 0, None).prod(axis=1)
            union = objects.sizes_wh.prod(axis=1) + anchor_wh.prod() - shared
            best = np.maximum(best, shared / union)
    return float(best.mean())


def propose_sides(images: Sequence[AnnotatedImage], spec: ModelSpec) -> tuple[int, int] | None:
    """A larger input where the objects would be too small to be found in the one that `spec` has.

    Args:
        images: The annotated pictures.
        spec: Of a compact network.

    Returns:
        Shorter and longer side in pixels, at which the smaller objects (tenth percentile) are
        `SMALL_OBJECT_PX` large; at most twice what they were, and no larger than the pictures
        themselves. None where there is nothing to change.
    """
    objects = Objects.of(images, spec)
    if len(objects) < FEWEST_OBJECTS or spec.architecture != COMPACT:
        return None
    small_px = float(np.percentile(objects.sides_px, SMALL_PERCENTILE))
    own_scales = [max(image.size_hw) / max(spec.resized_hw(image.size_hw)) for image in images]
    wanted = SMALL_OBJECT_PX / small_px
    factor = min(wanted, LARGEST_ENLARGEMENT, float(np.median(own_scales)))
    shorter_px = int(spec.shorter_side_px * factor) // _SIDE_STEP_PX * _SIDE_STEP_PX
    if shorter_px <= spec.shorter_side_px:
        return None
    return shorter_px, round(spec.longer_side_px * shorter_px / spec.shorter_side_px)


def _centred_iou(sizes_wh: Numbers, others_wh: Numbers) -> Numbers:
    """float64 `[N, K]`."""
    shared = np.minimum(sizes_wh[:, None], others_wh[None]).prod(axis=2)
    union = sizes_wh.prod(axis=1)[:, None] + others_wh.prod(axis=1)[None] - shared
    iou: Numbers = shared / union
    return iou
