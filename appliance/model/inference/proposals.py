"""The RPN's answer: from the scores and deltas of all anchors to the best boxes of each picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torchvision.models.detection.rpn import RegionProposalNetwork

from appliance.model.inference.boxes import are_large, clip_boxes, decode_boxes
from appliance.model.inference.suppression import suppress

MIN_PROPOSAL_SIDE_PX = 1e-3
"""Smaller boxes are dropped, as in torchvision."""


@dataclass(frozen=True, eq=False)
class Proposals:
    """The best boxes of a batch, in fixed shapes, best first.

    Attributes:
        boxes_xyxy: float32 `[B, P, 4]` in input pixels.
        valid: bool `[B, P]`; those that are none come last.
        settled: bool `[]`: False where suppression was cut short, so that it has to be done again greedily.
    """

    boxes_xyxy: torch.Tensor
    valid: torch.Tensor
    settled: torch.Tensor


@dataclass(frozen=True)
class ProposalSelection:
    """Which boxes become proposals.

    Attributes:
        pre_nms: Kept of each pyramid level before suppression.
        post_nms: Kept of all after it.
        iou_threshold: A box that overlaps a better one of its level by more is dropped.
        score_threshold: Boxes that score less, 0..1, are dropped.
        weights: What the deltas were multiplied with in training.
    """

    pre_nms: int
    post_nms: int
    iou_threshold: float
    score_threshold: float
    weights: tuple[float, float, float, float]

    @classmethod
    def of(cls, rpn: RegionProposalNetwork) -> ProposalSelection:
        """As a network has it in the mode that it is in."""
        return cls(
            rpn.pre_nms_top_n(),
            rpn.post_nms_top_n(),
            rpn.nms_thresh,
            rpn.score_thresh,
            rpn.box_coder.weights,
        )

    def select(
        self,
        anchors_xyxy: Sequence[torch.Tensor],
        objectness: Sequence[torch.Tensor],
        deltas: Sequence[torch.Tensor],
        sizes_wh: torch.Tensor,
        *,
        greedy: bool,
    ) -> Proposals:
        """Chooses from what the RPN's layers say of every anchor.

        Args:
            anchors_xyxy: float32 `[h * w * A, 4]` of each level, row by row.
            objectness: Logits `[B, A, h, w]` of each level.
            deltas: `[B, 4 * A, h, w]` of each level.
            sizes_wh: float32 `[B, 2]`, width and height of each picture in input pixels.
            greedy: As for `suppress`.
        """
        batch = len(sizes_wh)
        boxes, ranks = [], []
        for level_anchors, level_objectness, level_deltas in zip(
            anchors_xyxy, objectness, deltas, strict=True
        ):
            # Only the best are decoded; torchvision decodes every anchor first.
            logits = level_objectness.permute(0, 2, 3, 1).reshape(batch, -1)
            logits, best = logits.topk(min(self.pre_nms, logits.shape[1]), dim=1)
            best_deltas = level_deltas.permute(0, 2, 3, 1).reshape(batch, -1, 4)
            best_deltas = best_deltas.gather(1, best[..., None].expand(-1, -1, 4))
            level_boxes = decode_boxes(best_deltas, level_anchors[best], self.weights)
            level_boxes = clip_boxes(level_boxes, sizes_wh)
            level_ranks = logits.float()
            usable = are_large(level_boxes, MIN_PROPOSAL_SIDE_PX)
            usable &= level_ranks.sigmoid() >= self.score_threshold
            boxes.append(level_boxes)
            # Ranked by logits: beyond about 15 probabilities are all 1, and who is kept would be chance.
            ranks.append(level_ranks.masked_fill(~usable, -torch.inf))
        kept, settled = self._suppress_levels(boxes, ranks, greedy)
        ranks = [r.masked_fill(~k, -torch.inf) for r, k in zip(ranks, kept, strict=True)]
        all_ranks = torch.cat(ranks, dim=1)
        best_ranks, best = all_ranks.topk(min(self.post_nms, all_ranks.shape[1]), dim=1)
        best_boxes = torch.cat(boxes, dim=1).gather(1, best[..., None].expand(-1, -1, 4))
        return Proposals(best_boxes, best_ranks > -torch.inf, settled)

    def _suppress_levels(
        self, boxes_xyxy: Sequence[torch.Tensor], scores: Sequence[torch.Tensor], greedy: bool
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """What each level keeps, bool `[B, N]` each, and `settled`."""
        if greedy:
            pairs = zip(boxes_xyxy, scores, strict=True)
            done = [suppress(b, s, self.iou_threshold, greedy=True) for b, s in pairs]
            return [kept for kept, _ in done], torch.stack([settled for _, settled in done]).all()
        # As further pictures of one batch: a fifth of the launches.
        counts = [level.shape[1] for level in scores]
        padding = [max(counts) - count for count in counts]
        stacked_boxes = torch.cat(
            [F.pad(b, (0, 0, 0, p)) for b, p in zip(boxes_xyxy, padding, strict=True)]
        )
        stacked_scores = torch.cat(
            [F.pad(s, (0, p), value=-torch.inf) for s, p in zip(scores, padding, strict=True)]
        )
        kept, settled = suppress(stacked_boxes, stacked_scores, self.iou_threshold, greedy=False)
        levels = kept.chunk(len(counts))
        return [level[:, :n] for level, n in zip(levels, counts, strict=True)], settled
