"""The training pass: pixels and targets in, four losses out."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import concat_box_prediction_layers

from appliance.model.faster_rcnn import IMAGE_MEAN, IMAGE_STD
from appliance.model.inference.proposals import ProposalSelection
from appliance.model.inference.roi_align import BINS, roi_align
from appliance.training.frozen_norms import FrozenNorms


class DetectionLosses(nn.Module):
    """Normalise -> trunk -> RPN -> box head, as one module that can be wrapped for several workers.

    Args:
        network: The network to train; it stays reachable as `.network`.
        autocast_dtype: The trunk (backbone and pyramid) is computed in it, on a GPU the layers of RPN and box
            head too; None keeps float32. Boxes, targets and losses are float32 in any case: coordinates do
            not survive eight bits of mantissa.
        frozen_norms: Those of the network, to be computed as parts of convolutions; None computes them, or
            lets them learn, one by one.
    """

    _mean: torch.Tensor
    _std: torch.Tensor

    def __init__(
        self,
        network: FasterRCNN,
        autocast_dtype: torch.dtype | None = None,
        frozen_norms: FrozenNorms | None = None,
    ) -> None:
        super().__init__()
        self._frozen_norms = frozen_norms
        self.network = network
        self._autocast_dtype = autocast_dtype
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (IMAGE_MEAN, IMAGE_STD))
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_std", std, persistent=False)

    def forward(
        self,
        pixels: torch.Tensor,
        sizes_hw: list[tuple[int, int]],
        targets: list[dict[str, torch.Tensor]],
    ) -> dict[str, torch.Tensor]:
        """Computes the losses of one batch.

        Args:
            pixels: float32 `[B, 3, H, W]`, 0..255.
            sizes_hw: Of each picture within `pixels`.
            targets: As in `Batch`.

        Returns:
            `loss_objectness`, `loss_rpn_box_reg`, `loss_classifier`, `loss_box_reg`.
        """
        normalised = (pixels - self._mean) / self._std
        inputs = normalised.contiguous(memory_format=torch.channels_last)
        folded = self._frozen_norms.folded() if self._frozen_norms else nullcontext()
        with self._autocast(inputs), folded:
            features: dict[str, torch.Tensor] = self.network.backbone(inputs)
        if not inputs.is_cuda:
            features = {level: values.float() for level, values in features.items()}
        proposals, rpn_losses = self._propose(ImageList(inputs, sizes_hw), features, targets)
        head_losses = self._classify(features, proposals, sizes_hw, targets, inputs.shape[-2])
        return {**rpn_losses, **head_losses}

    def _autocast(self, values: torch.Tensor, *, enabled: bool = True) -> torch.autocast:
        enabled = enabled and self._autocast_dtype is not None
        return torch.autocast(values.device.type, dtype=self._autocast_dtype, enabled=enabled)

    def _propose(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        targets: list[dict[str, torch.Tensor]],
    ) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """What torchvision's RPN does when it trains, with its layers in the type of the trunk on a GPU."""
        rpn, levels = self.network.rpn, list(features.values())
        with self._autocast(levels[0], enabled=levels[0].is_cuda):
            objectness, deltas = rpn.head(levels)
        objectness, deltas = [o.float() for o in objectness], [d.float() for d in deltas]
        anchors = rpn.anchor_generator(images, levels)
        proposals = self._chosen_at_once(images, anchors[0], objectness, deltas)
        anchors_per_level = [values[0].numel() for values in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        if proposals is None:
            decoded = rpn.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
            proposals, _ = rpn.filter_proposals(
                decoded, objectness, images.image_sizes, anchors_per_level
            )
        labels, matched = rpn.assign_targets_to_anchors(anchors, targets)
        regressed = rpn.box_coder.encode(matched, anchors)
        loss_objectness, loss_box = rpn.compute_loss(objectness, deltas, labels, regressed)
        return proposals, {"loss_objectness": loss_objectness, "loss_rpn_box_reg": loss_box}

    @torch.no_grad()
    def _chosen_at_once(
        self,
        images: ImageList,
        anchors_xyxy: torch.Tensor,
        objectness: list[torch.Tensor],
        deltas: list[torch.Tensor],
    ) -> list[torch.Tensor] | None:
        """The proposals of all pictures together, as a GPU likes it; None where it is to be done one by one."""
        if not anchors_xyxy.is_cuda:
            return None
        sizes_wh = torch.tensor([(w, h) for h, w in images.image_sizes], dtype=torch.float32)
        found = ProposalSelection.of(self.network.rpn).select(
            anchors_xyxy.split([values[0].numel() for values in objectness]),
            objectness,
            deltas,
            sizes_wh.to(anchors_xyxy.device),
            greedy=False,
        )
        counts = torch.stack((*found.valid.sum(1), found.settled.long())).tolist()
        if not counts.pop():
            return None
        return [boxes[:n] for boxes, n in zip(found.boxes_xyxy, counts, strict=True)]

    def _classify(
        self,
        features: dict[str, torch.Tensor],
        proposals: list[torch.Tensor],
        sizes_hw: list[tuple[int, int]],
        targets: list[dict[str, torch.Tensor]],
        input_height: int,
    ) -> dict[str, torch.Tensor]:
        """Likewise what torchvision's box head does."""
        heads = self.network.roi_heads
        sampled, _, labels, regressed = heads.select_training_samples(proposals, targets)
        names = [name for name in heads.box_roi_pool.featmap_names if name in features]
        levels = {name: features[name].float() for name in names}
        if not sampled[0].is_cuda:
            # torchvision's backward pass uses one core, and takes a fifth of a step.
            strides_px = [input_height // level.shape[-2] for level in levels.values()]
            counts = torch.tensor([len(boxes) for boxes in sampled])
            owners = torch.arange(len(sampled)).repeat_interleave(counts)
            bins = roi_align(list(levels.values()), torch.cat(sampled), owners, strides_px)
            pooled = bins.transpose(1, 2).unflatten(2, (BINS, BINS))
        else:
            pooled = heads.box_roi_pool(levels, sampled, sizes_hw)
        with self._autocast(pooled, enabled=pooled.is_cuda):
            logits, deltas = heads.box_predictor(heads.box_head(pooled))
        loss_classifier, loss_box = fastrcnn_loss(logits.float(), deltas.float(), labels, regressed)
        return {"loss_classifier": loss_classifier, "loss_box_reg": loss_box}
