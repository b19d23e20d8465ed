"""Random changes to a picture and its boxes together.

Flip, scale and crop are one resize of the cached picture; colour changes follow. A box that leaves the
picture is clipped, one that loses most of itself is dropped: half an orange is still an orange, a sliver
teaches nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.v2 import functional as TF

from appliance.model.predictor import resize
from appliance.model.spec import ModelSpec
from appliance.training.config import TrainingConfig

MIN_VISIBLE_FRACTION = 0.4
MIN_SIDE_PX = 2.0


def augment(
    pixels: torch.Tensor,
    boxes_xyxy: npt.NDArray[np.float32],
    size_hw: tuple[int, int],
    spec: ModelSpec,
    config: TrainingConfig,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Makes one training sample.

    Args:
        pixels: uint8 `[3, h, w]`; may be smaller than the original.
        boxes_xyxy: float32 `[N, 4]` in pixels of the original.
        size_hw: Of the original, pixels.
        spec: The input size.
        config: How much of what.
        rng: All randomness comes from here.

    Returns:
        float32 `[3, H, W]` in 0..255 at input size; the boxes kept, float32 `[M, 4]` in its pixels;
        which of the N boxes were kept, bool `[N]`.
    """
    input_hw = spec.resized_hw(size_hw)
    scale = 1 + config.scale_jitter * rng.uniform(-1, 1)
    scaled_hw = (max(1, round(input_hw[0] * scale)), max(1, round(input_hw[1] * scale)))
    sample = resize(pixels, scaled_hw)
    boxes = boxes_xyxy * np.array(
        [scaled_hw[1] / size_hw[1], scaled_hw[0] / size_hw[0]] * 2, np.float32
    )
    if rng.random() < config.flip:
        sample = sample.flip(2)
        boxes = boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32)
        boxes[:, [0, 2]] += scaled_hw[1]
    sample, boxes, kept = _crop(sample, boxes, input_hw, rng)
    return _change_colours(sample, config.colour_jitter, rng), boxes, kept


def _crop(
    sample: torch.Tensor,
    boxes_xyxy: npt.NDArray[np.float32],
    input_hw: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[torch.Tensor, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Cuts a random window of at most the input size; a smaller sample stays whole."""
    height, width = sample.shape[1:]
    crop_height, crop_width = min(height, input_hw[0]), min(width, input_hw[1])
    top = int(rng.integers(height - crop_height + 1))
    left = int(rng.integers(width - crop_width + 1))
    moved = boxes_xyxy - np.array([left, top, left, top], np.float32)
    clipped = np.clip(moved, 0, np.array([crop_width, crop_height] * 2, np.float32))
    sides = clipped[:, 2:] - clipped[:, :2]
    area = np.prod(moved[:, 2:] - moved[:, :2], axis=1)
    visible = sides.prod(axis=1) >= MIN_VISIBLE_FRACTION * area
    kept = visible & (sides >= MIN_SIDE_PX).all(axis=1)
    window = sample[:, top : top + crop_height, left : left + crop_width]
    return window, np.ascontiguousarray(clipped[kept]), kept


def _change_colours(
    sample: torch.Tensor, strength: float, rng: np.random.Generator
) -> torch.Tensor:
    if strength == 0:
        return sample
    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3)
    changed = sample / 255
    changed = TF.adjust_brightness(changed, float(brightness))
    changed = TF.adjust_contrast(changed, float(contrast))
    changed = TF.adjust_saturation(changed, float(saturation))
    in_255: torch.Tensor = changed * 255
    return in_255
