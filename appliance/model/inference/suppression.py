"""Non-maximum suppression over many groups at once: pictures, pyramid levels, classes.

Greedy suppression asks for one box after the other, which on a GPU costs a round trip to the device. Its
result is also the only fixed point of

    kept[i] = no kept[j] with a better score overlaps i by more than the threshold

(by induction over the scores), and iterating that from "all kept" settles the best i boxes after at most
i rounds; on real detections after a handful. So on a device all groups are solved together by a fixed
number of rounds, with a flag that tells whether they were enough.
"""

from __future__ import annotations

from itertools import repeat

import torch
import torchvision

ROUNDS = 24
"""So many, on a device, before the answer is copied and the flag is looked at."""


PAIRS_AT_ONCE = 2**26
"""So many pairs of boxes are compared at a time; each takes some 20 bytes while it is."""


def suppress(
    boxes_xyxy: torch.Tensor,
    scores: torch.Tensor,
    iou_threshold: float,
    *,
    groups: torch.Tensor | None = None,
    greedy: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Drops boxes that overlap a better one of their picture and group.

    Args:
        boxes_xyxy: float32 `[B, N, 4]`, not negative.
        scores: float32 `[B, N]`; -inf where there is no box.
        iou_threshold: Overlaps above it are suppressed.
        groups: int64 `[B, N]`; only boxes of the same group suppress each other. None: one group.
        greedy: One box after the other: right for a CPU, and for batches that would not settle.

    Returns:
        bool `[B, N]`, what is kept; and bool `[]`, whether that is final.
    """
    if greedy:
        kept = _greedy(boxes_xyxy, scores, iou_threshold, groups)
        return kept, torch.ones((), dtype=torch.bool, device=kept.device)
    return _in_rounds(boxes_xyxy, scores, iou_threshold, groups)


def _greedy(
    boxes_xyxy: torch.Tensor,
    scores: torch.Tensor,
    iou_threshold: float,
    groups: torch.Tensor | None,
) -> torch.Tensor:
    count = scores.shape[1]
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    valid = (scores.flatten() > -torch.inf).nonzero()[:, 0]
    if len(valid):
        owners = valid // count
        if groups is not None:
            owners = owners * (groups.max() + 1) + groups.flatten()[valid]
        # Boxes of different groups are moved apart; in double precision that changes no overlap.
        boxes = boxes_xyxy.reshape(-1, 4)[valid].double()
        boxes = boxes + (owners * (boxes.max() + 1))[:, None]
        kept = torchvision.ops.nms(boxes, scores.flatten()[valid].double(), iou_threshold)
        mask[valid[kept]] = True
    return mask.view_as(scores)


def _in_rounds(
    boxes_xyxy: torch.Tensor,
    scores: torch.Tensor,
    iou_threshold: float,
    groups: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    at_once = max(1, PAIRS_AT_ONCE // max(1, scores.shape[1]) ** 2)
    if len(scores) > at_once:
        some = (values.split(at_once) for values in (boxes_xyxy, scores))
        groups_of_some = groups.split(at_once) if groups is not None else repeat(None)
        done = [
            _in_rounds(b, s, iou_threshold, g)
            for b, s, g in zip(*some, groups_of_some, strict=False)
        ]
        return torch.cat([kept for kept, _ in done]), torch.stack([ok for _, ok in done]).all()
    order = scores.argsort(dim=1, descending=True, stable=True)
    boxes = boxes_xyxy.gather(1, order[..., None].expand(-1, -1, 4))
    valid = scores.gather(1, order) > -torch.inf
    rivals = (_pairwise_iou(boxes) > iou_threshold).tril_(-1)  # [B, i, j]: j is better than i
    rivals &= valid[:, None, :]
    if groups is not None:
        ordered_groups = groups.gather(1, order)
        rivals &= ordered_groups[:, :, None] == ordered_groups[:, None, :]
    # As numbers, a round is one product of matrices. Half precision counts ones well enough to tell none
    # from some.
    dtype = torch.float16 if boxes.is_cuda else torch.float32
    overlapping, present = rivals.to(dtype), valid.to(dtype)[..., None]
    kept = before = present
    for _ in range(ROUNDS):
        before, kept = kept, present * (torch.bmm(overlapping, kept) == 0)
    mask = torch.zeros_like(valid).scatter(1, order, kept[..., 0] > 0)
    return mask, (before == kept).all()


def _pairwise_iou(boxes_xyxy: torch.Tensor) -> torch.Tensor:
    x1, y1, x2, y2 = boxes_xyxy.unbind(-1)
    width = torch.minimum(x2[:, :, None], x2[:, None]) - torch.maximum(x1[:, :, None], x1[:, None])
    height = torch.minimum(y2[:, :, None], y2[:, None]) - torch.maximum(y1[:, :, None], y1[:, None])
    intersection = width.clamp_(min=0) * height.clamp_(min=0)
    area = (x2 - x1) * (y2 - y1)
    return intersection / (area[:, :, None] + area[:, None, :] - intersection)
