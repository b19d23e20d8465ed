"""The whole detector as one traceable function: no Python loop over pictures or classes, no list of pictures.

The answers are those of `Predictor`; the way there differs where a graph needs it. Every count that depends
on the picture is made constant by padding: with anchors that cannot win, proposals of no size, detections
of score 0. Resizing picks rows and columns itself: runtimes differ in how they round its coordinates.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torchvision
from torch import nn
from torch.onnx.operators import shape_as_tensor
from torchvision.models.detection import FasterRCNN

from appliance.model.faster_rcnn import IMAGE_MEAN, IMAGE_STD
from appliance.model.inference.convolutions import fold_batch_norms
from appliance.model.inference.fast_network import MIN_DETECTION_SIDE_PX
from appliance.model.inference.proposals import MIN_PROPOSAL_SIDE_PX
from appliance.model.inference.resizing import SIZE_DIVISOR
from appliance.model.spec import ModelSpec


class _Size(NamedTuple):
    """Scalars of one batch, as tensors: sizes in pixels as they come, as resized and as padded."""

    height: torch.Tensor
    width: torch.Tensor
    resized_height: torch.Tensor
    resized_width: torch.Tensor
    padded_height: torch.Tensor
    padded_width: torch.Tensor


class _Sampling(NamedTuple):
    """torch's bilinear resizing along one side, and beyond it what padding will cover.

    Attributes:
        low, high: int64 `[padded]`, the two neighbours of each place of the result.
        share: `[padded]`, of the higher one.
        are_inside: bool `[padded]`: False where there will be padding.
    """

    low: torch.Tensor
    high: torch.Tensor
    share: torch.Tensor
    are_inside: torch.Tensor

    @classmethod
    def along(
        cls,
        length: torch.Tensor,
        resized: torch.Tensor,
        padded: torch.Tensor,
        dtype: torch.dtype,
    ) -> _Sampling:
        place = _count_to(padded.long())
        # In the precision of the pixels, as torch counts: over two thousand of them it matters.
        last = length.to(dtype) - 1
        scale = length.to(dtype) / resized.to(dtype)
        source = ((place.to(dtype) + 0.5) * scale - 0.5).clamp(min=0)
        low = torch.minimum(source.floor(), last)
        high = torch.minimum(low + 1, last)
        share = (source - low).clamp(max=1)
        return cls(low.long(), high.long(), share, place < resized.long())

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """Resizes the last side."""
        low, high = values.index_select(3, self.low), values.index_select(3, self.high)
        return low * (1 - self.share) + high * self.share


class DetectorGraph(nn.Module):
    """Takes pictures of one size, gives padded detections.

    Args:
        network: Trained network; it is copied, not changed.
        spec: The settings it was built from.

    All of it computes in the precision of the network.
    """

    def __init__(self, network: FasterRCNN, spec: ModelSpec) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
        fold_batch_norms(self.network)  # as the predictor does: fewer steps, and the same rounding
        self.spec = spec
        self.num_classes = len(spec.labels)
        self.mean: torch.Tensor
        self.std: torch.Tensor
        dtype = next(self.network.parameters()).dtype
        for name, values in (("mean", IMAGE_MEAN), ("std", IMAGE_STD)):
            per_channel = torch.tensor(values, dtype=dtype).view(1, 3, 1, 1)
            self.register_buffer(name, per_channel * 255)
        self._scales, self._coarsest_scale = self._roi_scales()

    def forward(
        self, images: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Detects.

        Args:
            images: uint8 `[B, 3, H, W]`, RGB.

        Returns:
            Boxes float32 `[B, D, 4]` as x1, y1, x2, y2 in pixels of the pictures given; scores float32
            `[B, D]`, descending; class ids int64 `[B, D]` from 1; and how many of the D are detections,
            int64 `[B]`. The rest is zeros.
        """
        size = self._size(images)
        pixels = self._prepare(images, size)
        features = list(self.network.backbone(pixels).values())
        boxes, are_valid = self._propose(features, size, images.shape[0])
        logits, deltas = self._classify(features, boxes)
        return self._select(logits, deltas, boxes, are_valid, size, images.shape[0])

    def _roi_scales(self) -> tuple[list[float], float]:
        """The scale of each feature map that RoIAlign reads, found as torchvision finds it: by trying."""
        pool = self.network.roi_heads.box_roi_pool
        pool.scales = pool.map_levels = None
        side = 512
        with torch.inference_mode():
            features = self.network.backbone(self.mean.new_zeros(1, 3, side, side))
            box = self.mean.new_tensor([[0.0, 0.0, 9.0, 9.0]])
            pool(features, [box], [(side, side)])
        return list(pool.scales), float(pool.map_levels.k_max)

    def _size(self, images: torch.Tensor) -> _Size:
        height, width = shape_as_tensor(images)[2:].double().unbind()
        shorter, longer = torch.minimum(height, width), torch.maximum(height, width)
        # A number divided by a tensor would become its reciprocal, times the number: now and then that
        # is a little less, and rounding down then loses a pixel.
        limits = torch.tensor([self.spec.shorter_side_px, self.spec.longer_side_px]).double()
        scale = (limits / torch.stack([shorter, longer])).min()
        resized = [torch.floor(side * scale).clamp(min=1) for side in (height, width)]
        padded = [torch.ceil(side / SIZE_DIVISOR) * SIZE_DIVISOR for side in resized]
        return _Size(height, width, *resized, *padded)

    def _prepare(self, images: torch.Tensor, size: _Size) -> torch.Tensor:
        dtype = self.mean.dtype
        rows = _Sampling.along(size.height, size.resized_height, size.padded_height, dtype)
        columns = _Sampling.along(size.width, size.resized_width, size.padded_width, dtype)
        values = images.to(dtype)
        values = columns.of(rows.of(values.transpose(2, 3)).transpose(2, 3))
        inside = rows.are_inside[:, None] & columns.are_inside[None]
        return (values - self.mean) / self.std * inside.to(dtype)

    def _propose(
        self, features: list[torch.Tensor], size: _Size, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rpn = self.network.rpn
        pre_nms, post_nms = rpn.pre_nms_top_n(), rpn.post_nms_top_n()
        objectness, deltas = rpn.head(features)
        all_boxes, all_ranks = [], []
        cells = rpn.anchor_generator.cell_anchors
        for level, (level_logits, level_deltas) in enumerate(zip(objectness, deltas, strict=True)):
            anchors = _anchors(cells[level].to(level_deltas.dtype), features[level], size)
            logits = level_logits.permute(0, 2, 3, 1).reshape(batch, -1)
            offsets = level_deltas.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2)
            offsets = offsets.reshape(batch, -1, 4)
            # A small picture has fewer anchors than are asked for: as many that cannot win go on behind.
            never = logits.new_full((1, pre_nms), -1e4).expand(batch, -1)
            nowhere = offsets.new_zeros(1, pre_nms, 4).expand(batch, -1, -1)
            anchors = torch.cat([anchors, anchors.new_zeros(pre_nms, 4)])
            logits, best = torch.cat([logits, never], 1).topk(pre_nms, dim=1)
            offsets = torch.cat([offsets, nowhere], 1)
            offsets = offsets.gather(1, best[..., None].expand(-1, -1, 4))
            decoded = rpn.box_coder.decode_single(
                offsets.reshape(-1, 4), anchors[best].reshape(-1, 4)
            )
            boxes = _clip(decoded, size.resized_height, size.resized_width)
            # Ranked by logits: beyond about 15 probabilities are all 1, and the last bit of a runtime's sigmoid
            # would decide which box is kept.
            ranks = logits.reshape(-1)
            good = _are_at_least(boxes, MIN_PROPOSAL_SIDE_PX)
            good = good & (ranks.sigmoid() >= rpn.score_thresh)
            picture = torch.arange(batch)[:, None].expand(-1, pre_nms).reshape(-1)
            kept = self._nms(boxes, ranks, picture, good, rpn.nms_thresh, size)
            all_boxes.append(boxes.reshape(batch, -1, 4))
            all_ranks.append(torch.where(kept, ranks, -torch.inf).reshape(batch, -1))
        ranks, best = torch.cat(all_ranks, 1).topk(min(post_nms, pre_nms * len(cells)), dim=1)
        boxes = torch.cat(all_boxes, 1).gather(1, best[..., None].expand(-1, -1, 4))
        are_valid = ranks > -torch.inf
        return boxes * are_valid[..., None].to(boxes.dtype), are_valid

    def _classify(
        self, features: list[torch.Tensor], boxes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        heads = self.network.roi_heads
        picture = torch.arange(boxes.shape[0])[:, None, None].expand(-1, boxes.shape[1], 1)
        rois = torch.cat([picture.to(boxes.dtype), boxes], 2).reshape(-1, 5)
        areas = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
        mapper = heads.box_roi_pool.map_levels
        level = mapper.lvl0 + torch.log2(areas.sqrt() / mapper.s0) + mapper.eps
        level = level.floor().clamp(min=mapper.k_min, max=mapper.k_max) - mapper.k_min
        pooled, order = [], []
        # What is not a level of its own is never read, such as the pooled one that only the RPN uses.
        for index, scale in enumerate(self._scales):
            here = (level == index).nonzero()[:, 0]
            order.append(here)
            pooled.append(
                torchvision.ops.roi_align(
                    features[index],
                    rois[here],
                    heads.box_roi_pool.output_size,
                    scale,
                    heads.box_roi_pool.sampling_ratio,
                )
            )
        places = torch.cat(order)
        back = torch.zeros_like(places).scatter(0, places, torch.arange(places.shape[0]))
        logits, deltas = heads.box_predictor(heads.box_head(torch.cat(pooled)[back]))
        return logits, deltas

    def _select(
        self,
        logits: torch.Tensor,
        deltas: torch.Tensor,
        proposals: torch.Tensor,
        are_valid: torch.Tensor,
        size: _Size,
        batch: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        classes, heads = self.num_classes, self.network.roi_heads
        scores = logits.softmax(-1)[:, 1:].reshape(-1)
        decoded = heads.box_coder.decode_single(deltas, proposals.reshape(-1, 4))
        boxes = decoded.reshape(-1, classes + 1, 4)[:, 1:].reshape(-1, 4)
        boxes = _clip(boxes, size.resized_height, size.resized_width)
        good = _are_at_least(boxes, MIN_DETECTION_SIDE_PX) & (scores > self.spec.score_threshold)
        good = good & are_valid.reshape(-1, 1).expand(-1, classes).reshape(-1)
        per_picture = proposals.shape[1] * classes
        place = torch.arange(batch)[:, None] * classes + (torch.arange(per_picture) % classes)
        kept = self._nms(boxes, scores, place.reshape(-1), good, self.spec.nms_iou_threshold, size)
        ranked = torch.where(kept, scores, -1.0).reshape(batch, -1)
        count = min(self.spec.max_detections, self.spec.proposals_post_nms * classes)
        count = min(count, per_picture)
        scores, best = ranked.topk(count, dim=1)
        found = scores >= 0
        chosen = boxes.reshape(batch, -1, 4).gather(1, best[..., None].expand(-1, -1, 4))
        to_original = torch.stack(
            [size.width / size.resized_width, size.height / size.resized_height]
        )
        chosen = _clip(chosen * to_original.to(chosen.dtype).repeat(2), size.height, size.width)
        return (
            chosen * found[..., None].to(chosen.dtype),
            scores * found.to(scores.dtype),
            (best % classes + 1) * found.long(),
            found.sum(1),
        )

    def _nms(
        self,
        boxes: torch.Tensor,
        scores: torch.Tensor,
        group: torch.Tensor,
        good: torch.Tensor,
        iou_threshold: float,
        size: _Size,
    ) -> torch.Tensor:
        """Bool `[N]`: which of the good ones survive among their group."""
        among = good.nonzero()[:, 0]
        # Far apart, boxes of different groups never overlap: torchvision's own trick.
        shift = group[among].to(boxes.dtype) * (size.padded_height + size.padded_width).to(
            boxes.dtype
        )
        survivors = torchvision.ops.nms(
            boxes[among] + shift[:, None], scores[among], float(iou_threshold)
        )
        kept = torch.zeros_like(scores).scatter(0, among[survivors], 1.0)
        return kept > 0


def _count_to(length: torch.Tensor) -> torch.Tensor:
    """0, 1, ... of a length that the graph computes; torch takes a tensor here but does not say so."""
    return torch.arange(length)  # type: ignore[call-overload, no-any-return]


def _anchors(cells: torch.Tensor, feature: torch.Tensor, size: _Size) -> torch.Tensor:
    """`[h * w * A, 4]` of the type of `cells`, in the order of torchvision's AnchorGenerator."""
    height, width = shape_as_tensor(feature)[2:].unbind()
    stride_y = torch.div(size.padded_height.long(), height, rounding_mode="floor")
    stride_x = torch.div(size.padded_width.long(), width, rounding_mode="floor")
    y = (_count_to(height) * stride_y)[:, None].expand(-1, feature.shape[3]).reshape(-1)
    x = (_count_to(width) * stride_x)[None].expand(feature.shape[2], -1).reshape(-1)
    corners = torch.stack([x, y, x, y], 1).to(cells.dtype)
    return (corners[:, None] + cells[None]).reshape(-1, 4)


def _clip(boxes: torch.Tensor, height: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    limits = torch.stack([width, height, width, height]).to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limits)


def _are_at_least(boxes: torch.Tensor, side_px: float) -> torch.Tensor:
    return (boxes[:, 2] - boxes[:, 0] >= side_px) & (boxes[:, 3] - boxes[:, 1] >= side_px)
