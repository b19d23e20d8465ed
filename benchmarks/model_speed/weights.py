"""Trained weights for the benchmark, made once and kept: how many proposals and detections there are
decides much of the time, and random weights have either none or all of them.

The weights of a case lie in the cache under a digest of everything that decides them.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.resnet import Bottleneck

from appliance.annotations.annotated_image import AnnotatedImage
from appliance.model import model_file
from appliance.model.faster_rcnn import build_network, initialise_score_bias
from appliance.model.model_file import LoadedModel, ModelInfo
from appliance.model.spec import ModelSpec
from appliance.training.engine import StepReport, train
from appliance.training.plan import settings_for
from benchmarks.model_speed.cases import Case, TrainingStage
from benchmarks.model_speed.pictures import PictureSet, draw_pictures

_REPORT_EVERY_STEPS = 10


def trained_model(
    spec: ModelSpec, case: Case, device: torch.device, cache_dir: Path
) -> LoadedModel:
    """The model of a case, trained unless it lies in the cache.

    Its `info.training` says how: the stages, the steps, the minutes, on which device.

    Args:
        spec: The network.
        case: Its pictures and the stages of its training.
        device: Where to train.
        cache_dir: Where weights and pictures are kept.

    Raises:
        StorageError: The cache cannot be written.
        TrainingError: The loss left the finite.
    """
    path = weights_path(spec, case, device, cache_dir)
    if not path.exists():
        images = draw_pictures(PictureSet("train", case.train_pictures, case.size_wh), cache_dir)
        network, training = _train(spec, case, images, device)
        path.parent.mkdir(parents=True, exist_ok=True)
        model_file.save(
            str(path), network, spec, name=spec.architecture, info=ModelInfo(training=training)
        )
    # Its weights count; what only inference knows of is as asked for now, not as it was then.
    return replace(model_file.load(str(path)), spec=spec)


def weights_path(spec: ModelSpec, case: Case, device: torch.device, cache_dir: Path) -> Path:
    """Where the weights of a case lie, whether they are there or not."""
    of_inference = ("proposals_pre_nms", "proposals_post_nms", "score_threshold", "max_detections")
    decisive = {
        "spec": {name: v for name, v in spec.to_json().items() if name not in of_inference},
        "size_wh": case.size_wh,
        "train_pictures": case.train_pictures,
        "stages": [asdict(stage) for stage in case.stages],
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": device.type,
    }
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]
    return cache_dir / f"{spec.architecture}-{device.type}-{digest}.safetensors"


def _train(
    spec: ModelSpec, case: Case, images: list[AnnotatedImage], device: torch.device
) -> tuple[FasterRCNN, dict[str, Any]]:
    torch.manual_seed(0)
    network = build_network(spec)
    initialise_score_bias(network)
    _start_as_identity(network)
    started_s = time.perf_counter()
    last_loss = 0.0
    for number, stage in enumerate(case.stages):
        last_loss = _train_stage(network, spec, stage, number, images, device)
    return network, {
        "steps": sum(stage.steps for stage in case.stages),
        "minutes": round((time.perf_counter() - started_s) / 60, 1),
        "last_loss": round(last_loss, 3),
        "stages": [asdict(stage) for stage in case.stages],
        "pictures": len(images),
        "device": device.type,
    }


def _train_stage(
    network: FasterRCNN,
    spec: ModelSpec,
    stage: TrainingStage,
    number: int,
    images: list[AnnotatedImage],
    device: torch.device,
) -> float:
    """Trains in place; returns the mean loss of the last steps."""
    scale = stage.shorter_side_px / spec.shorter_side_px
    stage_spec = spec.with_settings(
        shorter_side_px=stage.shorter_side_px, longer_side_px=round(spec.longer_side_px * scale)
    )
    losses: list[float] = []

    def on_step(report: StepReport) -> None:
        losses.append(report.loss)
        if report.step % _REPORT_EVERY_STEPS == 0 or report.step == report.steps:
            recent = losses[-_REPORT_EVERY_STEPS:]
            print(
                f"{spec.architecture} at {stage.shorter_side_px} px: step {report.step} of"
                f" {report.steps}, loss {sum(recent) / len(recent):.3f}, {report.step_s:.2f} s",
                file=sys.stderr,
            )

    # Another seed for each stage, or the second would see the first one's pictures in their order.
    config = settings_for("none", steps=stage.steps, learning_rate=stage.learning_rate, seed=number)
    train(
        network,
        stage_spec,
        images,
        config,
        steps=stage.steps,
        train_batch_norm=True,
        device=device,
        on_step=on_step,
    )
    recent = losses[-_REPORT_EVERY_STEPS:]
    return sum(recent) / len(recent)


def _start_as_identity(network: FasterRCNN) -> None:
    """Starts every residual block of a ResNet-50 as the identity, without which it hardly learns here.

    Source: section 5.1 of arXiv 1706.02677.
    """
    for module in network.modules():
        if isinstance(module, Bottleneck) and isinstance(module.bn3, nn.BatchNorm2d):
            nn.init.zeros_(module.bn3.weight)
