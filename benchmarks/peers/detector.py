"""What every peer's user code shares: the detector in plain torchvision, as somebody has it who trained it without
the appliance. Its lines are counted with those of each peer.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock
from torchvision.transforms.functional import pil_to_tensor

WEIGHTS = "DETECTOR_WEIGHTS"
"""The variable that says where the weights are."""


class _NoExtraLevel(ExtraFPNBlock):
    def forward(
        self, results: list[torch.Tensor], x: list[torch.Tensor], names: list[str]
    ) -> tuple[list[torch.Tensor], list[str]]:
        return results, names


def load_detector(path: str | None = None) -> FasterRCNN:
    """The trained network in eval mode, float32 on the CPU.

    Args:
        path: What `torch.save` wrote: `state_dict` and `settings`; None takes the variable `DETECTOR_WEIGHTS`.
    """
    saved = torch.load(path or os.environ[WEIGHTS], weights_only=True)
    network = build_detector(saved["settings"])
    network.load_state_dict(saved["state_dict"])
    return network.eval()


def build_detector(settings: Mapping[str, Any]) -> FasterRCNN:
    """The Faster R-CNN of torchvision on a pyramid of three levels, with random weights.

    Args:
        settings: Names and values of the network, as `plain_settings` of `benchmarks.peers.preparation` has them.
    """
    classifier = torchvision.models.get_model(settings["backbone"], weights=None)
    levels = [str(level) for level in range(len(settings["layers"]))]
    backbone = BackboneWithFPN(
        getattr(classifier, "features", classifier),
        dict(zip(settings["layers"], levels, strict=True)),
        settings["layer_channels"],
        settings["fpn_channels"],
        extra_blocks=_NoExtraLevel(),
    )
    sizes = tuple((size,) for size in settings["anchor_sizes_px"])
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(
            sizes, (tuple(settings["anchor_ratios"]),) * len(levels)
        ),
        box_roi_pool=MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(settings["fpn_channels"] * 7 * 7, settings["box_head_channels"]),
        box_predictor=FastRCNNPredictor(settings["box_head_channels"], settings["classes"]),
        **settings["inference"],
        **settings["training"],
    )


def decode(jpeg: bytes) -> torch.Tensor:
    """An encoded picture as float `[3, H, W]`, RGB from 0 to 1."""
    return pil_to_tensor(Image.open(io.BytesIO(jpeg)).convert("RGB")).float() / 255


@torch.inference_mode()
def detect(network: nn.Module, images: Sequence[torch.Tensor]) -> list[dict[str, list[Any]]]:
    """`boxes` (x1, y1, x2, y2 in pixels), `scores` and `labels` of each picture, as plain lists."""
    return [
        {name: found[name].tolist() for name in ("boxes", "scores", "labels")}
        for found in network(list(images))
    ]
