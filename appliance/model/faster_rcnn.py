"""Builds the network: torchvision's Faster R-CNN, in its own sizes or as our compact one.

`fasterrcnn_compact` is the CPU default: any torchvision ResNet or MobileNet backbone, a feature pyramid
on strides 8, 16 and 32 (the stride-4 level costs more than all others together), few channels and a
small box head. Apart from that every module is torchvision's, so that its answers can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from appliance.model.spec import COMPACT, ModelSpec, backbone_of

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""ImageNet statistics of RGB in 0..1, which every torchvision backbone was trained with."""

STRIDES_PX = (8, 16, 32)

_LAST_AT_STRIDE: dict[str, dict[int, tuple[str, int]]] = {}


def build_network(spec: ModelSpec) -> FasterRCNN:
    """The network of `spec` with random weights, in training mode.

    Parts run on their own in the appliance (see `training.losses` and `model.predictor`): `backbone`,
    `rpn`, `roi_heads`. `transform` serves only those who call the whole network as torchvision does.
    """
    if spec.architecture == COMPACT:
        network = _build_compact(spec)
    else:
        network = torchvision.models.get_model(
            spec.architecture,
            weights=None,
            weights_backbone=None,
            num_classes=len(spec.labels) + 1,
            trainable_backbone_layers=None,
            **_common_settings(spec),
        )
    return network


def build_hollow_network(spec: ModelSpec) -> FasterRCNN:
    """The network of `spec` on torch's meta device: names, shapes and dtypes, but no memory behind them.

    A spec that asks for more than the machine has costs nothing here. `fill_network` makes it usable.

    Raises:
        RuntimeError: A tensor would be larger than torch can count.
    """
    with torch.device("meta"):
        return build_network(spec)


def fill_network(network: FasterRCNN, tensors: Mapping[str, torch.Tensor]) -> None:
    """Makes a hollow network real, in place, with these very tensors as its own: nothing is copied.

    Args:
        network: From `build_hollow_network`.
        tensors: One for every name of its state dict, of its shape and dtype.
    """
    network.load_state_dict(dict(tensors), assign=True)
    anchors = network.rpn.anchor_generator
    # Not part of the state dict: the only values of a network that are made when it is built.
    anchors.cell_anchors = [
        anchors.generate_anchors(sizes, ratios)
        for sizes, ratios in zip(anchors.sizes, anchors.aspect_ratios, strict=True)
    ]


def extract_body(backbone_name: str) -> tuple[nn.Module, dict[int, tuple[str, int]]]:
    """A torchvision classifier cut down to what a detector needs.

    Returns:
        The module whose children run in order; and for each stride in pixels (2, 4, ..., 32) the name
        of the last child that works at it with its number of output channels.
    """
    classifier = torchvision.models.get_model(backbone_name, weights=None)
    body = getattr(classifier, "features", classifier)
    # Nothing but the name decides, and to run it takes longer than to build it.
    if backbone_name not in _LAST_AT_STRIDE:
        _LAST_AT_STRIDE[backbone_name] = _last_at_stride(body)
    return body, dict(_LAST_AT_STRIDE[backbone_name])


def _last_at_stride(body: nn.Module) -> dict[int, tuple[str, int]]:
    last_at_stride: dict[int, tuple[str, int]] = {}
    side_px = 64
    values = torch.zeros(1, 3, side_px, side_px)
    body.eval()
    with torch.no_grad():
        for name, child in body.named_children():
            if name in ("avgpool", "fc"):
                break
            values = child(values)
            last_at_stride[side_px // values.shape[-1]] = (name, values.shape[1])
    body.train()
    return last_at_stride


def freeze_stages(network: FasterRCNN, spec: ModelSpec, stages: int) -> None:
    """Switches off learning in the first stages of a network's backbone.

    Args:
        network: Changed in place.
        spec: What it was built from.
        stages: 1 freezes down to stride 4, 2 to stride 8, 3 to stride 16; 0 nothing.
    """
    if stages == 0:
        return
    _, last_at_stride = extract_body(backbone_of(spec.architecture, spec.backbone))
    last_frozen, _ = last_at_stride[2 ** (stages + 1)]
    for name, child in network.backbone.body.named_children():
        child.requires_grad_(False)
        if name == last_frozen:
            break


def _build_compact(spec: ModelSpec) -> FasterRCNN:
    body, last_at_stride = extract_body(str(spec.backbone))
    taps = [last_at_stride[stride_px] for stride_px in STRIDES_PX]
    levels = [str(level) for level in range(len(taps))]
    pyramid = BackboneWithFPN(
        body,
        {name: level for (name, _), level in zip(taps, levels, strict=True)},
        [channels for _, channels in taps],
        spec.fpn_channels,
        extra_blocks=_NoExtraLevel(),
    )
    return FasterRCNN(
        pyramid,
        rpn_anchor_generator=AnchorGenerator(
            tuple((size,) for size in spec.anchor_sizes_px), (spec.anchor_ratios,) * len(levels)
        ),
        box_roi_pool=MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(spec.fpn_channels * 7 * 7, spec.box_head_channels),
        box_predictor=FastRCNNPredictor(spec.box_head_channels, len(spec.labels) + 1),
        # Fewer of everything than torchvision's defaults: each proposal costs time in the box head, and
        # pictures of a few dozen objects gain nothing from two thousand of them.
        rpn_pre_nms_top_n_train=500,
        rpn_post_nms_top_n_train=200,
        box_batch_size_per_image=128,
        **_common_settings(spec),
    )


def _common_settings(spec: ModelSpec) -> dict[str, Any]:
    return {
        "min_size": spec.shorter_side_px,
        "max_size": spec.longer_side_px,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "rpn_pre_nms_top_n_test": spec.proposals_pre_nms,
        "rpn_post_nms_top_n_test": spec.proposals_post_nms,
        "box_score_thresh": spec.score_threshold,
        "box_nms_thresh": spec.nms_iou_threshold,
        "box_detections_per_img": spec.max_detections,
    }


class _NoExtraLevel(torchvision.ops.feature_pyramid_network.ExtraFPNBlock):
    """Keeps the pyramid at its three levels; torchvision's default would add a pooled fourth."""

    def forward(
        self, results: list[torch.Tensor], x: list[torch.Tensor], names: list[str]
    ) -> tuple[list[torch.Tensor], list[str]]:
        return results, names


def initialise_score_bias(network: FasterRCNN, foreground_prior: float = 0.01) -> None:
    """Starts the RPN at a low objectness, so that the first steps are not spent on unlearning 0.5.

    Source: the prior of RetinaNet, section 4.1 of arXiv 1708.02002.
    """
    nn.init.constant_(
        network.rpn.head.cls_logits.bias, -math.log((1 - foreground_prior) / foreground_prior)
    )
