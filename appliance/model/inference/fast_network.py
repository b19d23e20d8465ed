"""A Faster R-CNN for inference only: the same answers as torchvision's, in fewer and larger operations."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection import FasterRCNN

from appliance.model.inference.boxes import AnchorCache, are_large, clip_boxes, decode_boxes
from appliance.model.inference.convolutions import can_fuse, fold_batch_norms, fuse_convolutions
from appliance.model.inference.pyramid import FastPyramid
from appliance.model.inference.roi_align import BINS, roi_align
from appliance.model.inference.selection import BatchDetections, BoxSelection
from appliance.model.inference.stage_times import StageTimes, measured
from appliance.model.inference.suppression import suppress

MIN_PROPOSAL_SIDE_PX = 1e-3
MIN_DETECTION_SIDE_PX = 1e-2
"""Smaller boxes are dropped, as in torchvision."""


class FastNetwork(nn.Module):
    """Runs a trained network on batches of equal shape.

    Args:
        network: Trained network; it is copied, not changed.
        selection: Which boxes to answer with.
        device: Where to run.
        dtype: Of trunk and box head; boxes and scores are float32 in any case.
    """

    def __init__(
        self,
        network: FasterRCNN,
        selection: BoxSelection,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.selection = selection
        self._dtype = dtype
        self._on_cpu = device.type == "cpu"
        copied: FasterRCNN = copy.deepcopy(network).eval().requires_grad_(False)
        fold_batch_norms(copied)
        copied = copied.to(device=device, dtype=dtype, memory_format=torch.channels_last)

        self._anchors = AnchorCache(network.rpn.anchor_generator, device)
        self._pre_nms = copied.rpn.pre_nms_top_n()
        self._post_nms = copied.rpn.post_nms_top_n()
        self._rpn_iou_threshold = network.rpn.nms_thresh
        self._rpn_score_threshold = network.rpn.score_thresh
        self._rpn_weights = network.rpn.box_coder.weights
        self._box_weights = network.roi_heads.box_coder.weights
        self._pooled_levels = network.roi_heads.box_roi_pool.featmap_names
        self.backbone, self.rpn_head = copied.backbone, copied.rpn.head
        self.box_head, self.box_predictor = (
            copied.roi_heads.box_head,
            copied.roi_heads.box_predictor,
        )
        self._head_is_flat = hasattr(self.box_head, "fc6")
        if self._head_is_flat:
            _read_bins_first(self.box_head.fc6)
        self.backbone.fpn = FastPyramid(self.backbone.fpn)
        if can_fuse(device):
            fuse_convolutions(self.backbone, device)
            fuse_convolutions(self.rpn_head, device)

    def forward(
        self,
        inputs: torch.Tensor,
        sizes_wh: torch.Tensor,
        *,
        greedy: bool = False,
        times: StageTimes | None = None,
    ) -> BatchDetections:
        """Detects on one batch.

        Args:
            inputs: float32 `[B, 3, H, W]`, normalised and padded.
            sizes_wh: float32 `[B, 2]`, width and height of each picture within it.
            greedy: Suppress one box after the other, as is always done on a CPU.
            times: Where to add the time of each stage.
        """
        greedy = greedy or self._on_cpu
        with measured(times, "trunk"):
            pyramid = self.backbone(inputs.to(self._dtype))
            objectness, deltas = self.rpn_head(list(pyramid.values()))
        with measured(times, "rpn"):
            anchors = self._anchors(inputs.shape[-2:], [o.shape[-2:] for o in objectness])
            proposals_xyxy, valid, rpn_settled = self._propose(
                anchors, objectness, deltas, sizes_wh, greedy
            )
        with measured(times, "roi"):
            pooled = [pyramid[name] for name in self._pooled_levels if name in pyramid]
            logits, box_deltas = self._classify(pooled, proposals_xyxy, inputs.shape[-2])
        with measured(times, "post"):
            boxes_xyxy = decode_boxes(box_deltas, proposals_xyxy[:, :, None], self._box_weights)
            boxes_xyxy = clip_boxes(boxes_xyxy, sizes_wh)
            scores = logits.softmax(-1)[..., 1:]
            usable = valid[..., None] & are_large(boxes_xyxy, MIN_DETECTION_SIDE_PX)
            scores = scores.masked_fill(~(usable & scores.isfinite()), -torch.inf)
            found = self.selection.select(boxes_xyxy, scores, greedy=greedy)
        return BatchDetections(
            found.boxes_xyxy, found.scores, found.class_ids, found.settled & rpn_settled
        )

    def _propose(
        self,
        anchors_xyxy: Sequence[torch.Tensor],
        objectness: Sequence[torch.Tensor],
        deltas: Sequence[torch.Tensor],
        sizes_wh: torch.Tensor,
        greedy: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The best boxes of the RPN: float32 `[B, P, 4]`, bool `[B, P]` which are valid, and `settled`."""
        batch = len(sizes_wh)
        boxes, scores = [], []
        for level_anchors, level_objectness, level_deltas in zip(
            anchors_xyxy, objectness, deltas, strict=True
        ):
            # Only the best are decoded; torchvision decodes every anchor first.
            logits = level_objectness.permute(0, 2, 3, 1).reshape(batch, -1)
            logits, best = logits.topk(min(self._pre_nms, logits.shape[1]), dim=1)
            best_deltas = level_deltas.permute(0, 2, 3, 1).reshape(batch, -1, 4)
            best_deltas = best_deltas.gather(1, best[..., None].expand(-1, -1, 4))
            level_boxes = decode_boxes(best_deltas, level_anchors[best], self._rpn_weights)
            level_boxes = clip_boxes(level_boxes, sizes_wh)
            level_scores = logits.float().sigmoid()
            usable = are_large(level_boxes, MIN_PROPOSAL_SIDE_PX)
            usable &= level_scores >= self._rpn_score_threshold
            boxes.append(level_boxes)
            scores.append(level_scores.masked_fill(~usable, -torch.inf))
        kept, settled = self._suppress_levels(boxes, scores, greedy)
        scores = [s.masked_fill(~k, -torch.inf) for s, k in zip(scores, kept, strict=True)]
        all_scores = torch.cat(scores, dim=1)
        best_scores, best = all_scores.topk(min(self._post_nms, all_scores.shape[1]), dim=1)
        best_boxes = torch.cat(boxes, dim=1).gather(1, best[..., None].expand(-1, -1, 4))
        valid = best_scores > -torch.inf
        if self._on_cpu:
            # The box head is most of the work after the trunk: no row for what is not there.
            count = max(1, int(valid.sum(1).max()))
            best_boxes, valid = best_boxes[:, :count], valid[:, :count]
        return best_boxes, valid, settled

    def _suppress_levels(
        self, boxes_xyxy: Sequence[torch.Tensor], scores: Sequence[torch.Tensor], greedy: bool
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """What each level keeps, bool `[B, N]` each, and `settled`."""
        if greedy:
            pairs = zip(boxes_xyxy, scores, strict=True)
            done = [suppress(b, s, self._rpn_iou_threshold, greedy=True) for b, s in pairs]
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
        kept, settled = suppress(
            stacked_boxes, stacked_scores, self._rpn_iou_threshold, greedy=False
        )
        levels = kept.chunk(len(counts))
        return [level[:, :n] for level, n in zip(levels, counts, strict=True)], settled

    def _classify(
        self, pooled: Sequence[torch.Tensor], proposals_xyxy: torch.Tensor, input_height: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 logits `[B, P, C + 1]`, and deltas `[B, P, C, 4]` without the background's."""
        batch, count = proposals_xyxy.shape[:2]
        owners = torch.arange(batch, device=proposals_xyxy.device)[:, None].expand(batch, count)
        strides_px = [input_height // level.shape[-2] for level in pooled]
        bins = roi_align(pooled, proposals_xyxy.reshape(-1, 4), owners.reshape(-1), strides_px)
        if not self._head_is_flat:
            bins = bins.transpose(1, 2).unflatten(2, (BINS, BINS))
        logits, deltas = self.box_predictor(self.box_head(bins))
        logits = logits.float().view(batch, count, -1)
        return logits, deltas.float().view(batch, count, -1, 4)[:, :, 1:]


def _read_bins_first(first: nn.Linear) -> None:
    """Lets the first layer of a box head read `[R, bins, C]`, as RoIAlign gives it, not `[R, C, bins]`."""
    by_channel = first.weight.unflatten(1, (-1, BINS * BINS))
    first.weight = nn.Parameter(
        by_channel.transpose(1, 2).flatten(1).contiguous(), requires_grad=False
    )
