"""A Faster R-CNN for inference only: the same answers as torchvision's, in fewer and larger operations."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN

from appliance.model.inference.boxes import AnchorCache, are_large, clip_boxes, decode_boxes
from appliance.model.inference.convolutions import can_fuse, fold_batch_norms, fuse_convolutions
from appliance.model.inference.proposals import ProposalSelection
from appliance.model.inference.pyramid import FastPyramid
from appliance.model.inference.roi_align import BINS, roi_align
from appliance.model.inference.selection import BatchDetections, BoxSelection
from appliance.model.inference.stage_times import StageTimes, measured

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
        self._proposals = ProposalSelection.of(copied.rpn)
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
            proposals = self._proposals.select(anchors, objectness, deltas, sizes_wh, greedy=greedy)
            proposals_xyxy, valid = proposals.boxes_xyxy, proposals.valid
            if self._on_cpu:
                # The box head is most of the work after the trunk: no row for what is not there.
                count = max(1, int(valid.sum(1).max()))
                proposals_xyxy, valid = proposals_xyxy[:, :count], valid[:, :count]
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
            found.boxes_xyxy, found.scores, found.class_ids, found.settled & proposals.settled
        )

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
