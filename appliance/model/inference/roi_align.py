"""RoIAlign as one weighted gather over all pyramid levels.

Each of the 7 x 7 bins of a proposal is the mean of 2 x 2 bilinear samples, that is a weighted sum of 16
feature vectors. With channels last in memory those are 16 rows of one table, all levels below each other,
and the whole operation is a single embedding lookup with weights, which is vectorised over channels and
runs on all cores. (torchvision's own loops over levels, waits for the device in each, and uses one core.)

Source: RoIAlign, section 3 of Mask R-CNN (arXiv 1703.06870); levels by equation 1 of Feature Pyramid
Networks (arXiv 1612.03144); conventions (`aligned=False`, borders) of `torchvision.ops.roi_align`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F

BINS = 7
SAMPLES = 2
"""Along each side: bins of a proposal, and samples of a bin."""
CANONICAL_SIDE_PX = 224
CANONICAL_LEVEL = 4
"""A proposal of 224 pixels belongs to the level of stride 2**4."""


def roi_align(
    features: Sequence[torch.Tensor],
    boxes_xyxy: torch.Tensor,
    batch_indices: torch.Tensor,
    strides_px: Sequence[int],
) -> torch.Tensor:
    """The features of each proposal, from the pyramid level of its size.

    Args:
        features: `[B, C, h, w]` for each level, finest first, channels last in memory.
        boxes_xyxy: float32 `[R, 4]` in input pixels.
        batch_indices: int64 `[R]`: which picture of the batch each box belongs to.
        strides_px: Stride of each level.

    Returns:
        `[R, 49, C]` of the features' type, bins row by row.
    """
    levels = _levels(boxes_xyxy, strides_px)
    tables = [level.permute(0, 2, 3, 1).flatten(0, 2) for level in features]
    rows_of_all = sum(len(table) for table in tables)
    if boxes_xyxy.is_cuda or rows_of_all <= len(boxes_xyxy) * BINS * BINS:
        return _gather_from_all(features, tables, boxes_xyxy, batch_indices, levels, strides_px)
    # Where looking costs nothing, copying what was gathered is cheaper than the levels below each other.
    result = boxes_xyxy.new_empty((len(boxes_xyxy), BINS * BINS, tables[0].shape[1]))
    for index, (level, table, stride_px) in enumerate(
        zip(features, tables, strides_px, strict=True)
    ):
        rows = (levels == index).nonzero()[:, 0]
        if len(rows):
            height, width = level.shape[-2:]
            first_rows = batch_indices[rows] * (height * width)
            size_hw = (torch.tensor([height]), torch.tensor([width]))
            result[rows] = _gather(table, boxes_xyxy[rows] / stride_px, *size_hw, first_rows)
    return result


def _gather_from_all(
    features: Sequence[torch.Tensor],
    tables: Sequence[torch.Tensor],
    boxes_xyxy: torch.Tensor,
    batch_indices: torch.Tensor,
    levels: torch.Tensor,
    strides_px: Sequence[int],
) -> torch.Tensor:
    sizes_hw = tuple((level.shape[-2], level.shape[-1]) for level in features)
    layout = _layout(sizes_hw, len(features[0]), tuple(strides_px), boxes_xyxy.device)
    heights, widths, starts, strides = layout[:, levels]
    first_rows = starts + batch_indices * heights * widths
    return _gather(
        torch.cat(list(tables)), boxes_xyxy / strides[:, None], heights, widths, first_rows
    )


@lru_cache(maxsize=128)
def _layout(
    sizes_hw: tuple[tuple[int, int], ...],
    batch: int,
    strides_px: tuple[int, ...],
    device: torch.device,
) -> torch.Tensor:
    """int64 `[4, L]`: height, width, first row in the table, and stride of each level.

    Cached, because a constant cannot be brought to the device while a graph is recorded.
    """
    rows, start = [], 0
    for (height, width), stride_px in zip(sizes_hw, strides_px, strict=True):
        rows.append((height, width, start, stride_px))
        start += batch * height * width
    return torch.tensor(rows, device=device).T.contiguous()


def _gather(
    table: torch.Tensor,
    boxes_xyxy: torch.Tensor,
    heights: torch.Tensor,
    widths: torch.Tensor,
    first_rows: torch.Tensor,
) -> torch.Tensor:
    """`[R, 49, C]` from `[rows, C]`; boxes in cells of their level, which begins at `first_rows`."""
    x1, y1, x2, y2 = boxes_xyxy.unbind(-1)
    rows, row_weights = _samples(y1, y2, heights)  # [R, 7, 4]: two samples of two neighbours
    columns, column_weights = _samples(x1, x2, widths)
    rows = rows * widths[:, None, None] + first_rows[:, None, None]
    indices = rows[:, :, None, :, None] + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    corners = (2 * SAMPLES) ** 2
    bags: torch.Tensor = F.embedding_bag(
        indices.reshape(-1, corners),
        table,
        mode="sum",
        per_sample_weights=weights.reshape(-1, corners).to(table.dtype),
    )
    return bags.view(-1, BINS * BINS, table.shape[1])


def _levels(boxes_xyxy: torch.Tensor, strides_px: Sequence[int]) -> torch.Tensor:
    """int64 `[R]`: index of the level of each box."""
    coarsest, finest = (stride.bit_length() - 1 for stride in (strides_px[-1], strides_px[0]))
    side_px = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(-1).clamp(min=0).sqrt()
    # 1e-6 as in torchvision: a side of exactly 224 belongs to the upper level in spite of rounding.
    level = (CANONICAL_LEVEL + torch.log2(side_px / CANONICAL_SIDE_PX) + 1e-6).floor()
    return level.clamp(finest, coarsest).long() - finest


def _samples(
    first: torch.Tensor, last: torch.Tensor, cells: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the samples along one side lie between the cells.

    Args:
        first: float32 `[R]`, where the box begins, in cells.
        last: float32 `[R]`, where it ends.
        cells: int64 `[R]`, how many there are.

    Returns:
        int64 and float32 `[R, 7, 4]`: for each bin the cells below and above each of its samples, and
        their weights, which sum to 1 (to less where a sample lies outside).
    """
    bin_length = (last - first).clamp(min=1.0) / BINS
    steps = torch.arange(BINS * SAMPLES, device=first.device)
    inside_bin = (steps % SAMPLES + 0.5) / SAMPLES
    position = first[:, None] + (steps // SAMPLES + inside_bin) * bin_length[:, None]
    count = cells[:, None]
    outside = (position < -1.0) | (position > count)
    position = position.clamp(min=0)
    below = torch.minimum(position.long(), count - 1)
    above = torch.minimum(below + 1, count - 1)
    share_above = torch.where(below == above, 0.0, position - below)
    weights = torch.stack((1 - share_above, share_above), -1) / SAMPLES
    weights = weights.masked_fill(outside[..., None], 0.0)
    corners = torch.stack((below, above), -1)
    bins = (-1, BINS, 2 * SAMPLES)
    return corners.view(bins), weights.view(bins)
