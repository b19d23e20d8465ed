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
from torch.overrides import TorchFunctionMode
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

_STRIDES_OF_BODY_PX = (2, 4, 8, 16, 32)
_RESNET = (("relu", 64), ("layer1", 64), ("layer2", 128), ("layer3", 256), ("layer4", 512))
_RESNET_50 = (("relu", 64), ("layer1", 256), ("layer2", 512), ("layer3", 1024), ("layer4", 2048))
_LAST_AT_STRIDE = {
    "resnet18": _RESNET,
    "resnet34": _RESNET,
    "resnet50": _RESNET_50,
    "mobilenet_v2": (("1", 16), ("3", 24), ("6", 32), ("13", 96), ("18", 1280)),
    "mobilenet_v3_small": (("0", 16), ("1", 16), ("3", 24), ("8", 48), ("12", 576)),
    "mobilenet_v3_large": (("1", 16), ("3", 24), ("6", 40), ("12", 112), ("16", 960)),
}
"""For each backbone, by these strides: the last child that works at it, with its number of output channels. To run
a network in order to see that takes longer than to build it."""


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
    with torch.device("meta"), _NothingDrawn():
        return build_network(spec)


_DRAWING = (
    nn.init.kaiming_uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
)


class _NothingDrawn(TorchFunctionMode):
    """Leaves out drawing random weights, which on the meta device have no values.

    torch would go through its compiler for that, whose import takes longer than to load a model.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func in _DRAWING:
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)


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
    last_at_stride = zip(_STRIDES_OF_BODY_PX, _LAST_AT_STRIDE[backbone_name], strict=True)
    return getattr(classifier, "features", classifier), dict(last_at_stride)


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
