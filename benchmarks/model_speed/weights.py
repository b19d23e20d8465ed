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
from statistics import fmean
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.resnet import Bottleneck

from appliance.model import model_file
from appliance.model.faster_rcnn import build_network, initialise_score_bias
from appliance.model.model_file import LoadedModel, ModelInfo
from appliance.model.spec import ModelSpec
from appliance.training.engine import StepReport, train
from appliance.training.plan import settings_for
from benchmarks.model_speed.cases import Case
from benchmarks.model_speed.pictures import PictureSet, draw_pictures

_REPORT_EVERY_STEPS = 10


def trained_model(
    spec: ModelSpec, case: Case, device: torch.device, cache_dir: Path
) -> LoadedModel:
    """The model of a case, trained as far as it does not lie in the cache already.

    Its `info.training` says how: the stages, the steps, the minutes, on which device.

    Args:
        spec: The network.
        case: Its pictures and the stages of its training.
        device: Where to train.
        cache_dir: Where pictures and the weights after every stage are kept.

    Raises:
        StorageError: The cache cannot be written.
        TrainingError: The loss left the finite.
    """
    paths = [
        weights_path(spec, replace(case, stages=case.stages[:count]), device, cache_dir)
        for count in range(1, len(case.stages) + 1)
    ]
    done = max((count for count, path in enumerate(paths, 1) if path.exists()), default=0)
    for number in range(done, len(case.stages)):
        network, training = _begin(spec, paths[number - 1] if number else None)
        training = _train_stage(network, spec, case, number, training, device, cache_dir)
        paths[number].parent.mkdir(parents=True, exist_ok=True)
        info = ModelInfo(training=training)
        model_file.save(str(paths[number]), network, spec, name=spec.architecture, info=info)
    # Its weights count; what only inference knows of is as asked for now, not as it was then.
    return with_spec(model_file.load(str(paths[-1])), spec)


def with_spec(model: LoadedModel, spec: ModelSpec) -> LoadedModel:
    """The same weights with other settings of inference, such as numbers of proposals.

    Args:
        model: Stays as it is.
        spec: Of the same layers.
    """
    network = build_network(spec)
    network.load_state_dict(model.network.state_dict())
    return replace(model, network=network.eval(), spec=spec)


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


def _begin(spec: ModelSpec, path: Path | None) -> tuple[FasterRCNN, dict[str, Any]]:
    """The network after the stage before, or with random weights, and how it came about."""
    if path is not None:
        before = model_file.load(str(path))
        return before.network, dict(before.info.training)
    torch.manual_seed(0)
    network = build_network(spec)
    initialise_score_bias(network)
    _start_as_identity(network)
    return network, {"steps": 0, "minutes": 0.0, "stages": []}


def _train_stage(
    network: FasterRCNN,
    spec: ModelSpec,
    case: Case,
    number: int,
    training: dict[str, Any],
    device: torch.device,
    cache_dir: Path,
) -> dict[str, Any]:
    """Trains in place; returns how the network came about, this stage included."""
    images = draw_pictures(PictureSet("train", case.train_pictures, case.size_wh), cache_dir)
    stage = case.stages[number]
    scale = stage.shorter_side_px / spec.shorter_side_px
    stage_spec = spec.with_settings(
        shorter_side_px=stage.shorter_side_px, longer_side_px=round(spec.longer_side_px * scale)
    )
    losses: list[float] = []

    def on_step(report: StepReport) -> None:
        losses.append(report.loss)
        if report.step % _REPORT_EVERY_STEPS == 0 or report.step == report.steps:
            print(
                f"{spec.architecture} at {stage.shorter_side_px} px: step {report.step} of"
                f" {report.steps}, loss {fmean(losses[-_REPORT_EVERY_STEPS:]):.3f},"
                f" {report.step_s:.2f} s",
                file=sys.stderr,
            )

    # Another seed for each stage, or the second would see the first one's pictures in their order.
    config = settings_for("none", steps=stage.steps, learning_rate=stage.learning_rate, seed=number)
    started_s = time.perf_counter()
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
    minutes = (time.perf_counter() - started_s) / 60
    return {
        "steps": training["steps"] + stage.steps,
        "minutes": round(training["minutes"] + minutes, 1),
        "last_loss": round(fmean(losses[-_REPORT_EVERY_STEPS:]), 3),
        "stages": [*training["stages"], asdict(stage)],
        "pictures": len(images),
        "device": device.type,
    }


def _start_as_identity(network: FasterRCNN) -> None:
    """Starts every residual block of a ResNet-50 as the identity, without which it hardly learns here.

    Source: section 5.1 of arXiv 1706.02677.
    """
    for module in network.modules():
        if isinstance(module, Bottleneck) and isinstance(module.bn3, nn.BatchNorm2d):
            nn.init.zeros_(module.bn3.weight)
