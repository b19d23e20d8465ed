"""torchvision's cache, filled with random weights of the right names and shapes, for tests that have no network."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.models.detection.image_list import ImageList


def _smooth_picture() -> torch.Tensor:
    """Of a size that needs no resizing in a small network; values that uint8 can hold."""
    coarse = np.random.default_rng(4).integers(0, 255, (10, 10, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((320, 320), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


PIXELS = _smooth_picture()
PROPOSALS = 60
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


@pytest.fixture
def weights_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of torchvision, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # refuses at once
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def path_in(cache: Path, name: str) -> Path:
    return cache / torchvision.models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]


@functools.cache
def lively_detector(architecture: str) -> dict[str, torch.Tensor]:
    """Random weights of a detector that finds something of many classes, and never a class of the gaps."""
    torch.manual_seed(11)
    network = torchvision.models.get_model(
        architecture,
        weights=None,
        weights_backbone=None,
        num_classes=91,
        min_size=320,
        max_size=640,
        rpn_post_nms_top_n_test=PROPOSALS,
    )
    for module in network.backbone.body.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data *= 0.1  # small variances, so that what is added to them shows
    for module in network.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    head, predictor = network.rpn.head.cls_logits, network.roi_heads.box_predictor
    pixels = network.eval().transform([PIXELS])[0].tensors[..., :320, :320]
    with torch.no_grad():
        # In training mode one pass sets the statistics so that something arrives at the other end.
        features = network.backbone.train()(pixels)
        # The last layer of either head says different things of different places, but nothing extreme.
        head.weight *= 2 / network.rpn.head([features["0"]])[0][0].std()
        features = network.eval().backbone(pixels)
        proposals, _ = network.rpn(ImageList(pixels, [(320, 320)]), features)
        pooled = network.roi_heads.box_roi_pool(features, proposals, [(320, 320)])
        logits, _ = predictor(network.roi_heads.box_head(pooled))
        predictor.cls_score.weight *= 3 / logits.std(0).mean()
    predictor.cls_score.bias.data[list(COCO_GAPS)] = -1e4
    return network.state_dict()
