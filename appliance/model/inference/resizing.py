"""From decoded pictures to one batch for the network, by torchvision's own rules.

Source of the rules: `GeneralizedRCNNTransform` of torchvision: scale to the shorter side unless the longer
one would exceed its limit, sides rounded down, bilinear without antialiasing; normalise; pad with zeros
below and to the right up to a multiple of 32. (Decoding has brought large pictures near the input size
before, with proper filtering.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

SIZE_DIVISOR = 32
"""Inputs are padded to a multiple of the coarsest stride of a backbone."""
MAX_PADDING_SHARE = 0.1
"""Of a batch, at the default input sizes, for pictures up to twice as long as wide."""


def padded_hw(resized_hw: tuple[int, int]) -> tuple[int, int]:
    """The size of the batch that a picture of this input size belongs to, whatever its company."""
    height, width = resized_hw
    return height + -height % SIZE_DIVISOR, width + -width % SIZE_DIVISOR


def resize(
    pixels: torch.Tensor, resized_hw: tuple[int, int], *, antialias: bool = False
) -> torch.Tensor:
    """uint8 `[3, h, w]` to float32 `[3, H, W]`, still in 0..255, bilinear.

    Training and inference share it: a network should see pictures as it saw them when it learnt.
    """
    values = pixels[None].float()
    if tuple(values.shape[-2:]) != resized_hw:
        values = F.interpolate(
            values, size=resized_hw, mode="bilinear", align_corners=False, antialias=antialias
        )
    return values[0]


def to_batch(
    pictures: Sequence[torch.Tensor],
    resized_sizes_hw: Sequence[tuple[int, int]],
    *,
    scale: torch.Tensor,
    offset: torch.Tensor,
) -> torch.Tensor:
    """Resizes, normalises and pads pictures of one bucket.

    Args:
        pictures: uint8 `[3, h, w]` each, on the device of the network.
        resized_sizes_hw: Input size of each; `padded_hw` is the same for all.
        scale: float32 `[1, 3, 1, 1]`; a value `v` of 0..255 becomes `v * scale + offset`.
        offset: float32 `[1, 3, 1, 1]`.

    Returns:
        float32 `[B, 3, H, W]`, channels last in memory.
    """
    height, width = padded_hw(resized_sizes_hw[0])
    batch = torch.zeros((len(pictures), 3, height, width), device=scale.device).contiguous(
        memory_format=torch.channels_last
    )
    for index, (pixels, (h, w)) in enumerate(zip(pictures, resized_sizes_hw, strict=True)):
        resized = resize(pixels, (h, w))[None]
        torch.addcmul(offset, resized, scale, out=batch[index : index + 1, :, :h, :w])
    return batch
