"""The ways to train that are compared, and one training of each.

The plain loop and ours run in this process, as in `benchmarks.training_speed`; Detecto in its own environment. All
begin with the same weights and see the same pictures in batches of two.
"""

from __future__ import annotations

import csv
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision

from appliance.annotations.annotated_image import AnnotatedImage
from appliance.model.faster_rcnn import build_network
from appliance.training.plan import TrainingPlan
from benchmarks.peers.preparation import plain_settings
from benchmarks.peers.processes import Running
from benchmarks.training_speed import plain_loop
from benchmarks.training_speed.sides import Bench, SideRun, train_ours, train_plain

OURS = "ours"
_TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Training:
    """One side of the comparison; attributes as of `benchmarks.peers.turns.Side`."""

    name: str
    packages: tuple[str, ...]
    user_code: tuple[Path, ...] = ()
    requirements: str | None = None
    settings: str = ""


TRAININGS = {
    training.name: training
    for training in (
        Training(
            OURS, ("torch",), settings="the recipe of appliance train; one command and no code"
        ),
        Training(
            "plain",
            ("torch", "torchvision"),
            (Path(plain_loop.__file__),),
            settings="torchvision's reference script as a plain loop; its lines hold the timing, too",
        ),
        Training(
            "detecto",
            ("detecto",),
            (Path(__file__).with_name("detecto_fit.py"),),
            requirements="detecto",
            settings="Model.fit with its defaults, batches of two; its own network replaced by that of all sides",
        ),
    )
}


def train_side(training: Training, python: Path, bench: Bench, number: int) -> dict[str, Any]:
    """One training of one side.

    Raises:
        PeerFailedError: It fails.
        ApplianceError: Ours or the plain loop fails.
    """
    plan = bench.plan(seed=number)
    if training.name == "detecto":
        run, peak_mib = _detecto(python, bench, plan)
    else:
        run = (train_ours if training.name == OURS else train_plain)(bench, plan)
        peak_mib = None if run.peak_memory_mib is None else round(run.peak_memory_mib)
    figures = bench.figures(run, plan)
    return {**figures, "peak_mib": peak_mib}


def _detecto(python: Path, bench: Bench, plan: TrainingPlan) -> tuple[SideRun, int]:
    epochs = max(1, round(bench.case.steps * bench.case.batch_size / len(bench.train_images)))
    with tempfile.TemporaryDirectory(prefix="peer-") as scratch:
        folder = Path(scratch)
        pictures = _write_csv(folder / "data.csv", bench.train_images)
        network = plan.build_network()
        start = {
            "state_dict": network.state_dict(),
            "settings": plain_settings(plan.spec, network),
            "labels": list(plan.spec.labels),
        }
        torch.save(start, folder / "start.pt")
        _fill_cache(folder)
        words = [folder / "data.csv", pictures, folder / "start.pt", folder / "out.pt", epochs]
        command = [str(python), "-m", "benchmarks.peers.training.detecto_fit", *map(str, words)]
        began_s = time.perf_counter()
        with Running(command, {"TORCH_HOME": str(folder)}, folder) as running:
            with running.watched() as samples_mib:
                running.wait(_TIMEOUT_S)
            told: Mapping[str, Any] = json.loads(running.said().splitlines()[-1])
        wall_s = time.perf_counter() - began_s
        trained = build_network(plan.spec)
        trained.load_state_dict(torch.load(folder / "out.pt", weights_only=True))
    steps = told["images"] // bench.case.batch_size
    step_s = told["seconds"] / steps
    # It tells no losses.
    return SideRun(step_s, {}, [float("nan")] * steps, wall_s, trained), max(samples_mib)


def _write_csv(path: Path, images: Sequence[AnnotatedImage]) -> str:
    """The pictures as Detecto's table; gives their folder."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax", "image_id"]
        )
        for index, image in enumerate(images):
            height, width = image.size_hw
            for label, box in zip(image.label_names, image.boxes_xyxy.tolist(), strict=True):
                rows.writerow([image.name, width, height, label, *map(round, box), index])
    return str(Path(images[0].storage_path).parent)


def _fill_cache(folder: Path) -> None:
    """Random weights where Detecto's constructor would download some, which are never used."""
    weights = torchvision.models.get_model_weights("mobilenet_v3_large").IMAGENET1K_V1
    checkpoints = folder / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    network = torchvision.models.mobilenet_v3_large(weights=None)
    torch.save(network.state_dict(), checkpoints / weights.url.rpartition("/")[2])
