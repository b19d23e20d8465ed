"""Whole detectors without training, and the best weights there are to begin a training with."""

from __future__ import annotations

import logging

import torch
from torchvision.models.detection import FasterRCNN

from appliance.errors import ConfigError, StorageError
from appliance.labels import LabelMap
from appliance.model.faster_rcnn import build_network
from appliance.model.model_file import ModelInfo
from appliance.model.spec import COMPACT, TORCHVISION_ARCHITECTURES, ModelSpec
from appliance.model.weights import (
    StartingWeights,
    apply_weights,
    read_starting_weights,
    spec_for,
)

logger = logging.getLogger(__name__)

_GPU_ARCHITECTURE = "fasterrcnn_resnet50_fpn"
_CPU_COCO_ARCHITECTURE = "fasterrcnn_mobilenet_v3_large_fpn"


def default_architecture() -> str:
    """What a detector of one's own is made of: ResNet-50 where there is a GPU, else the compact one."""
    return _GPU_ARCHITECTURE if torch.cuda.is_available() else COMPACT


def pretrained_detector(
    weights: str, architecture: str | None, **settings: float
) -> tuple[FasterRCNN, ModelSpec, ModelInfo]:
    """A detector of COCO's 80 classes, in eval mode; class ids count them without COCO's gaps.

    Args:
        weights: "coco", the only ones torchvision has for whole detectors.
        architecture: One of torchvision's; None takes ResNet-50 where there is a GPU and MobileNet v3
            where there is none.
        **settings: Settings of `ModelSpec`, such as `score_threshold`.

    Raises:
        ConfigError: There are no such weights.
        StorageError: They cannot be downloaded; the message says which file to put where.
    """
    default = _GPU_ARCHITECTURE if torch.cuda.is_available() else _CPU_COCO_ARCHITECTURE
    architecture = architecture or default
    if weights != "coco" or architecture not in TORCHVISION_ARCHITECTURES:
        raise ConfigError(
            "There is no such pretrained detector",
            got=f"weights {weights}, architecture {architecture}",
            expected=f"weights coco, architecture {' or '.join(TORCHVISION_ARCHITECTURES)}",
            hint="A model file is read with FasterRCNN.load",
        )
    starting = read_starting_weights(weights, architecture)
    spec = spec_for(LabelMap(starting.labels or ()), starting, architecture, **settings)
    network = build_network(spec)
    apply_weights(network, starting, spec.labels)
    return network.eval(), spec, ModelInfo(parent=weights)


def best_starting_weights(architecture: str) -> StartingWeights:
    """What is best to train an architecture from; random, with a warning, where it cannot be had."""
    best = "imagenet" if architecture == COMPACT else "coco"
    try:
        return read_starting_weights(best, architecture)
    except StorageError as error:
        logger.warning("%s Training starts from random weights.", error)
        return read_starting_weights("none")
