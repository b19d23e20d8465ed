"""The feature pyramid in fewer passes over memory: a finer level takes the coarser one in as it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import FeaturePyramidNetwork


class FastPyramid(nn.Module):
    """The same as torchvision's, without a copy of each level at twice its size.

    Args:
        pyramid: Its layers are shared.
    """

    def __init__(self, pyramid: FeaturePyramidNetwork) -> None:
        super().__init__()
        self.inner_blocks, self.layer_blocks = pyramid.inner_blocks, pyramid.layer_blocks
        self.extra_blocks = pyramid.extra_blocks

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Makes the pyramid of a trunk's features, finest first, all channels last in memory.

        Source: Feature Pyramid Networks, arXiv 1612.03144; layers and names as in torchvision.
        """
        names, values = list(features), list(features.values())
        results: list[torch.Tensor] = []
        coarser: torch.Tensor | None = None
        for level in reversed(range(len(values))):
            inner = self.inner_blocks[level](values[level])
            if coarser is not None:
                inner = _add_upsampled(inner, coarser)
            coarser = inner
            results.insert(0, self.layer_blocks[level](inner))
        if self.extra_blocks is not None:
            results, names = self.extra_blocks(results, values, names)
        return dict(zip(names, results, strict=True))


def _add_upsampled(values: torch.Tensor, coarser: torch.Tensor) -> torch.Tensor:
    """Adds the nearest cell of the coarser level to each cell, in place: `[B, C, h, w]`."""
    (batch, channels, height, width), (coarse_h, coarse_w) = values.shape, coarser.shape[-2:]
    if (height, width) == (coarse_h, coarse_w):
        return values.add_(coarser)
    if (height, width) != (2 * coarse_h, 2 * coarse_w):
        return values.add_(F.interpolate(coarser, size=(height, width), mode="nearest"))
    cells = values.permute(0, 2, 3, 1).view(batch, coarse_h, 2, coarse_w, 2, channels)
    cells.add_(coarser.permute(0, 2, 3, 1)[:, :, None, :, None])
    return values
