"""Anchors and the arithmetic of boxes, for whole batches of fixed shape."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator

MAX_LOG_RATIO = math.log(1000.0 / 16)
"""A box is at most 62.5 times as large as its reference, as in torchvision's `BoxCoder`."""


MAX_CACHED_SHAPES = 64
"""The anchors of the largest inputs take 4 MB."""


class AnchorCache:
    """The anchors of each input shape, computed once for as long as it is in use.

    Args:
        generator: Its base anchors are taken as they are.
        device: Where the anchors are needed.
    """

    def __init__(self, generator: AnchorGenerator, device: torch.device) -> None:
        self._base_anchors = [base.to(device, torch.float32) for base in generator.cell_anchors]
        self._cache: dict[tuple[int, int], list[torch.Tensor]] = {}
        self._changing = threading.Lock()

    def __call__(
        self, input_hw: Sequence[int], level_sizes_hw: Sequence[Sequence[int]]
    ) -> list[torch.Tensor]:
        """float32 `[h * w * A, 4]` xyxy in input pixels for each pyramid level, row by row."""
        key = (int(input_hw[0]), int(input_hw[1]))
        anchors = self._cache.get(key)
        if anchors is None:
            anchors = [
                _grid_anchors(base, input_hw, size_hw)
                for base, size_hw in zip(self._base_anchors, level_sizes_hw, strict=True)
            ]
            with self._changing:  # of threads that compute side by side
                if len(self._cache) >= MAX_CACHED_SHAPES:
                    del self._cache[next(iter(self._cache))]
                self._cache[key] = anchors
        return anchors


def _grid_anchors(
    base_xyxy: torch.Tensor, input_hw: Sequence[int], size_hw: Sequence[int]
) -> torch.Tensor:
    ys, xs = (
        torch.arange(cells, device=base_xyxy.device) * (pixels // cells)
        for pixels, cells in zip(input_hw, size_hw, strict=True)
    )
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    shifts = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
    return (shifts + base_xyxy).reshape(-1, 4)


def decode_boxes(
    deltas: torch.Tensor, references_xyxy: torch.Tensor, weights: Sequence[float]
) -> torch.Tensor:
    """Applies regressed deltas to reference boxes.

    Source: section 3 (appendix C) of R-CNN, arXiv 1311.2524, with torchvision's limit on growth.

    Args:
        deltas: float `[..., 4]`: dx, dy, dw, dh.
        references_xyxy: float32 `[..., 4]`, broadcast against `deltas`.
        weights: What the deltas were multiplied with in training.

    Returns:
        float32 `[..., 4]` xyxy.
    """
    x1, y1, x2, y2 = references_xyxy.unbind(-1)
    width, height = x2 - x1, y2 - y1
    dx, dy, dw, dh = (
        delta / weight for delta, weight in zip(deltas.float().unbind(-1), weights, strict=True)
    )
    center_x = dx * width + (x1 + 0.5 * width)
    center_y = dy * height + (y1 + 0.5 * height)
    half_width = 0.5 * (dw.clamp(max=MAX_LOG_RATIO).exp() * width)
    half_height = 0.5 * (dh.clamp(max=MAX_LOG_RATIO).exp() * height)
    return torch.stack(
        (
            center_x - half_width,
            center_y - half_height,
            center_x + half_width,
            center_y + half_height,
        ),
        dim=-1,
    )


def clip_boxes(boxes_xyxy: torch.Tensor, sizes_wh: torch.Tensor) -> torch.Tensor:
    """Cuts boxes at the edge of their picture.

    Args:
        boxes_xyxy: float32 `[B, ..., 4]`.
        sizes_wh: float32 `[B, 2]`.
    """
    limits = sizes_wh.repeat(1, 2).view(-1, *([1] * (boxes_xyxy.ndim - 2)), 4)
    return torch.minimum(boxes_xyxy.clamp(min=0), limits)


def are_large(boxes_xyxy: torch.Tensor, min_side_px: float) -> torch.Tensor:
    """Whether both sides are at least so long, bool `[...]`."""
    sides = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    return (sides >= min_side_px).all(-1)
