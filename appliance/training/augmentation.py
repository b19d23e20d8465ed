"""Random changes to a picture and its boxes together.

    crop that keeps an object -> resize -> flips -> rotation -> window of the input size -> colours -> blur

Pixels and boxes go through the same kernels of `torchvision.transforms.v2`; the boxes are not clipped
before the end, so that it is known how much of each object is left. One that leaves the picture is
clipped; one that loses most of itself is dropped and counted: half an orange is still an orange, a sliver
teaches nothing. All randomness comes from the generator that is given, and what is switched off draws
nothing from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from appliance.model.inference.resizing import resize
from appliance.model.spec import ModelSpec
from appliance.training.config import TrainingConfig

MIN_SIDE_PX = 2.0
PICTURES_IN_A_MOSAIC = 4


@dataclass(frozen=True, eq=False)
class Picture:
    """What is changed.

    Attributes:
        pixels: uint8 `[3, h, w]`; may be smaller than the original.
        boxes_xyxy: float32 `[N, 4]` in pixels of the original.
        class_ids: int64 `[N]`.
        size_hw: Of the original, pixels.
    """

    pixels: torch.Tensor
    boxes_xyxy: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
    size_hw: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Sample:
    """What is learnt from.

    Attributes:
        pixels: float32 `[3, H, W]` in 0..255, at most of the input size.
        boxes_xyxy: float32 `[M, 4]` in its pixels, those of the objects kept.
        class_ids: int64 `[M]`.
        dropped: Objects of which too little was left.
    """

    pixels: torch.Tensor
    boxes_xyxy: torch.Tensor
    class_ids: torch.Tensor
    dropped: int


def augment(
    picture: Picture,
    spec: ModelSpec,
    config: TrainingConfig,
    rng: np.random.Generator,
    others: Sequence[Picture] = (),
) -> Sample:
    """Makes one training sample.

    Args:
        picture: The annotated picture.
        spec: The input size.
        config: How much of what.
        rng: All randomness comes from here.
        others: Three more pictures make a mosaic of four.
    """
    if others:
        return _mosaic([picture, *others], spec.resized_hw(picture.size_hw), config, rng)
    if config.crop and rng.random() < config.crop:
        picture = _zoom(picture, config, rng)
    input_hw = spec.resized_hw(picture.size_hw)
    scale = 1 + config.scale_jitter * rng.uniform(-1, 1)
    scaled_hw = (max(1, round(input_hw[0] * scale)), max(1, round(input_hw[1] * scale)))
    return _window(picture, scaled_hw, input_hw, config, rng)


def partners(pictures: int, config: TrainingConfig, rng: np.random.Generator) -> list[int]:
    """Decides whether a sample is a mosaic, and of which further pictures; none if it is not."""
    if not (config.mosaic and rng.random() < config.mosaic):
        return []
    return [int(rng.integers(pictures)) for _ in range(PICTURES_IN_A_MOSAIC - 1)]


def _window(
    picture: Picture,
    scaled_hw: tuple[int, int],
    window_hw: tuple[int, int],
    config: TrainingConfig,
    rng: np.random.Generator,
) -> Sample:
    """Resizes and turns a picture, and takes a window of at most `window_hw` from anywhere in it."""
    pixels = resize(picture.pixels, scaled_hw)
    boxes = tv_tensors.BoundingBoxes(
        torch.as_tensor(picture.boxes_xyxy),
        format="XYXY",
        canvas_size=picture.size_hw,
        clamping_mode=None,
    )
    boxes = TF.resize(boxes, list(scaled_hw))
    if rng.random() < config.flip:
        pixels, boxes = TF.horizontal_flip(pixels), TF.horizontal_flip(boxes)
    if config.flip_vertical and rng.random() < config.flip_vertical:
        pixels, boxes = TF.vertical_flip(pixels), TF.vertical_flip(boxes)
    if config.rotate_degrees:
        angle = config.rotate_degrees * rng.uniform(-1, 1)
        pixels = TF.rotate(pixels, angle, InterpolationMode.BILINEAR)
        boxes = TF.rotate(boxes, angle)
    height, width = min(scaled_hw[0], window_hw[0]), min(scaled_hw[1], window_hw[1])
    top = int(rng.integers(scaled_hw[0] - height + 1))
    left = int(rng.integers(scaled_hw[1] - width + 1))
    pixels = TF.crop(pixels, top, left, height, width)
    moved = TF.crop(boxes, top, left, height, width).as_subclass(torch.Tensor)
    inside, kept = _still_visible(moved, (height, width), config.min_visible)
    pixels = _change_colours(pixels, config, rng)
    class_ids = torch.as_tensor(picture.class_ids, dtype=torch.int64)
    return Sample(pixels, inside[kept], class_ids[kept], int((~kept).sum()))


def _still_visible(
    boxes: torch.Tensor, window_hw: tuple[int, int], min_visible: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes clipped to the window, and of which of them enough is in it."""
    height, width = window_hw
    inside = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]))
    sides = inside[:, 2:] - inside[:, :2]
    whole = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept = (sides.prod(1) >= min_visible * whole) & (sides >= MIN_SIDE_PX).all(1)
    return inside, kept


def _zoom(picture: Picture, config: TrainingConfig, rng: np.random.Generator) -> Picture:
    """A part of the picture that holds one of its objects whole, chosen at random."""
    height, width = picture.pixels.shape[1:]
    stretch = np.array([width, height] * 2) / np.array([*picture.size_hw[::-1]] * 2)
    share = rng.uniform(config.crop_smallest, 1)
    sides = np.ceil(np.array([width, height]) * share).astype(int)
    low, high = np.zeros(2, int), np.array([width, height]) - sides
    if len(picture.boxes_xyxy):
        chosen = picture.boxes_xyxy[rng.integers(len(picture.boxes_xyxy))] * stretch
        first = np.floor(chosen[:2]).astype(int)
        last = np.minimum(np.ceil(chosen[2:]).astype(int), [width, height])
        sides = np.maximum(sides, last - first)
        high = np.minimum(first, np.array([width, height]) - sides)
        low = np.maximum(last - sides, 0)
    left, top = (int(rng.integers(a, b + 1)) for a, b in zip(low, high, strict=True))
    window_width, window_height = sides.tolist()
    offset = np.array([left, top, left, top]) / stretch
    return Picture(
        picture.pixels[:, top : top + window_height, left : left + window_width],
        (picture.boxes_xyxy - offset).astype(np.float32),
        picture.class_ids,
        (
            max(1, round(window_height / float(stretch[1]))),
            max(1, round(window_width / float(stretch[0]))),
        ),
    )


def _mosaic(
    pictures: Sequence[Picture],
    input_hw: tuple[int, int],
    config: TrainingConfig,
    rng: np.random.Generator,
) -> Sample:
    """Four pictures around a point near the middle; each fills its corner, its objects become smaller."""
    input_hw = (max(input_hw[0], 2), max(input_hw[1], 2))
    canvas = torch.empty(3, *input_hw)
    middle_y, middle_x = (
        min(max(1, round(side * rng.uniform(0.35, 0.65))), side - 1) for side in input_hw
    )
    corners = [
        (top, bottom, left, right)
        for top, bottom in ((0, middle_y), (middle_y, input_hw[0]))
        for left, right in ((0, middle_x), (middle_x, input_hw[1]))
    ]
    samples = []
    for picture, (top, bottom, left, right) in zip(pictures, corners, strict=True):
        corner_hw = (bottom - top, right - left)
        cover = max(side / whole for side, whole in zip(corner_hw, picture.size_hw, strict=True))
        cover *= 1 + config.scale_jitter * rng.random()
        height, width = (math.ceil(side * cover - 1e-6) for side in picture.size_hw)
        part = _window(picture, (height, width), corner_hw, config, rng)
        canvas[:, top:bottom, left:right] = part.pixels
        samples.append((part, part.boxes_xyxy + torch.tensor([left, top, left, top])))
    return Sample(
        canvas,
        torch.cat([boxes for _, boxes in samples]),
        torch.cat([part.class_ids for part, _ in samples]),
        sum(part.dropped for part, _ in samples),
    )


def _change_colours(
    pixels: torch.Tensor, config: TrainingConfig, rng: np.random.Generator
) -> torch.Tensor:
    if config.colour_jitter or config.hue_jitter:
        changed = pixels / 255
        if config.colour_jitter:
            strengths = 1 + config.colour_jitter * rng.uniform(-1, 1, 3)
            changed = TF.adjust_brightness(changed, float(strengths[0]))
            changed = TF.adjust_contrast(changed, float(strengths[1]))
            changed = TF.adjust_saturation(changed, float(strengths[2]))
        if config.hue_jitter:
            changed = TF.adjust_hue(changed, float(config.hue_jitter * rng.uniform(-1, 1)))
        pixels = changed * 255
    if config.blur and rng.random() < config.blur:
        sigma = float(rng.uniform(0.4, 1.6))
        # Edges are mirrored, so that a kernel must not reach over a picture of a few pixels.
        radii = [min(math.ceil(2 * sigma), side - 1) for side in pixels.shape[:0:-1]]
        pixels = TF.gaussian_blur(pixels, [2 * radius + 1 for radius in radii], [sigma, sigma])
    return pixels
