"""The two sides that need nothing but torch: the plain loop, and the appliance's training in this process.

All sides of a round begin with the same weights, see the same pictures in batches of the same size, flipped by
chance and changed in no other way, and do the same number of steps. Everything else is each one's own: the
reference script's optimizer and rates there, the recipe of `appliance train` here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torchvision.models.detection import FasterRCNN

from appliance import storage
from appliance.annotations.annotated_image import AnnotatedImage
from appliance.images.decoding import decode_image
from appliance.model.faster_rcnn import build_network, freeze_stages
from appliance.model.host_memory import give_back_freed_memory
from appliance.model.predictor import Predictor
from appliance.training.engine import StepReport, train
from appliance.training.plan import TrainingPlan, plan_training, settings_for
from benchmarks.model_speed.accuracy import accuracy
from benchmarks.model_speed.memory import peak_memory
from benchmarks.model_speed.pictures import LABEL_MAP
from benchmarks.training_speed.cases import Case
from benchmarks.training_speed.phases import Window
from benchmarks.training_speed.plain_loop import PlainSettings, train_plainly


@dataclass(frozen=True, eq=False)
class SideRun:
    """One training of one side.

    Attributes:
        step_s: Mean wall seconds of a step, warm-up left out.
        split_s: Part of a step -> mean seconds.
        losses: Of every step: the sum of the four.
        wall_s: Of the whole training, start-up included.
        network: What came of it.
        peak_memory_mib: By how much memory grew; None where it was not measured.
    """

    step_s: float
    split_s: Mapping[str, float]
    losses: Sequence[float]
    wall_s: float
    network: FasterRCNN
    peak_memory_mib: float | None = None


@dataclass(frozen=True, eq=False)
class Bench:
    """What all sides share.

    Attributes:
        architecture: Of the network.
        case: Pictures, batch and steps.
        device: Where to compute.
        init: Starting weights: "none" or a file.
        precision: Of ours; see `TrainingConfig`.
        plain_frozen_stages: First stages of the backbone that the plain loop freezes.
        train_images: To learn from.
        test_images: To measure what was learnt.
    """

    architecture: str
    case: Case
    device: torch.device
    init: str
    precision: str
    plain_frozen_stages: int
    train_images: Sequence[AnnotatedImage]
    test_images: Sequence[AnnotatedImage]

    def plan(self, seed: int) -> TrainingPlan:
        """Our recipe for these starting weights, without augmentation beyond the plain loop's flips.

        Raises:
            ConfigError, StorageError, ModelFileError: The weights cannot be had.
        """
        config = settings_for(
            self.init,
            steps=self.case.steps,
            batch_size=self.case.batch_size,
            seed=seed,
            scale_jitter=0.0,
            colour_jitter=0.0,
            precision=self.precision,
            loader_workers=self.case.loader_workers,
            checkpoint_every_steps=0,
        )
        return plan_training(
            LABEL_MAP,
            images=len(self.train_images),
            dataset_digest="sample scenes and shelves",
            config=config,
            init=self.init,
            architecture=self.architecture,
            **self.case.settings,
        )

    def figures(self, run: SideRun, plan: TrainingPlan) -> dict[str, Any]:
        """One training as an object of the JSON; final loss is the mean over the last tenth of the steps."""
        last = run.losses[-max(1, len(run.losses) // 10) :]
        predictor = Predictor(run.network.eval(), plan.spec, device=str(self.device))
        detections = {}
        for index, image in enumerate(self.test_images):
            decoded = decode_image(
                storage.read_bytes(image.storage_path),
                source=image.storage_path,
                min_shorter_side_px=predictor.min_shorter_side_px,
            )
            detections[index] = predictor.predict([decoded])[0]
        found = accuracy(self.test_images, detections)
        return {
            "images_per_s": self.case.batch_size / run.step_s,
            "step_ms": run.step_s * 1000,
            "split_ms": {name: seconds * 1000 for name, seconds in run.split_s.items()},
            "peak_memory_mib": run.peak_memory_mib,
            "final_loss": fmean(last),
            "map_50": found.ap50,
            "coco_ap": found.coco_ap,
            "steps": len(run.losses),
            "wall_s": run.wall_s,
        }


def train_plain(bench: Bench, plan: TrainingPlan) -> SideRun:
    """The plain loop, on a network of its own with the plan's starting weights.

    Raises:
        TrainingError: The loss is not finite.
    """
    network = build_network(plan.spec)
    network.load_state_dict(plan.build_network().state_dict())
    freeze_stages(network, plan.spec, bench.plain_frozen_stages)
    window = Window(plan.steps, bench.case.warm_up_steps, bench.device)
    settings = PlainSettings(
        plan.steps,
        plan.config.batch_size,
        bool(plan.config.train_batch_norm),
        bench.case.plain_loader_workers,
        plan.config.seed,
    )
    with peak_memory(bench.device) as memory:
        started_s = time.perf_counter()
        give_back_freed_memory()  # as in a process where nothing of the appliance runs
        losses, phases = train_plainly(
            network, bench.train_images, plan.spec.label_map, settings, window
        )
        wall_s = time.perf_counter() - started_s
    split_s = phases.mean_s(bench.case.warm_up_steps)
    return SideRun(window.step_s, split_s, losses, wall_s, network, memory.growth_mib)


def train_ours(bench: Bench, plan: TrainingPlan) -> SideRun:
    """The appliance's training loop in this process, without a folder for the run.

    Raises:
        ApplianceError: See `training.engine.train`.
    """
    network = plan.build_network()
    window = Window(plan.steps, bench.case.warm_up_steps, bench.device)
    reports: list[StepReport] = []

    def on_step(report: StepReport) -> None:
        reports.append(report)
        window.step_done(report.step)

    with peak_memory(bench.device) as memory:
        started_s = time.perf_counter()
        train(
            network,
            plan.spec,
            bench.train_images,
            plan.config,
            steps=plan.steps,
            train_batch_norm=bool(plan.config.train_batch_norm),
            device=bench.device,
            on_step=on_step,
        )
        wall_s = time.perf_counter() - started_s
    counted = reports[bench.case.warm_up_steps :]
    split_s = split_of([(report.step_s, report.data_wait_s) for report in counted], window.step_s)
    losses = [report.loss for report in reports]
    return SideRun(window.step_s, split_s, losses, wall_s, network, memory.growth_mib)


def split_of(steps: Sequence[tuple[float, float]], step_s: float) -> dict[str, float]:
    """The parts of a step as our reports tell them apart.

    Args:
        steps: Seconds of each step and, of these, seconds waited for data.
        step_s: Mean wall seconds from step to step.

    Returns:
        `data` is the wait, `compute` the step without it, `between` what lies between two steps.
    """
    data_s = fmean(waited_s for _, waited_s in steps)
    whole_s = fmean(seconds for seconds, _ in steps)
    return {"data": data_s, "compute": whole_s - data_s, "between": step_s - whole_s}
