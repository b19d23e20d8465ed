"""What a run will take, from a few real steps on a copy: time, memory. Trains nothing, writes nothing."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torchvision.models.detection import FasterRCNN

from appliance.annotations.annotated_image import AnnotatedImage
from appliance.model.device import resolve_device
from appliance.training.engine import StepReport, train
from appliance.training.memory import peak_memory
from appliance.training.plan import TrainingPlan
from appliance.training.validation import Validator

STEPS = 10
_WARM_UP_STEPS = 2
_PICTURES_VALIDATED = 4


@dataclass(frozen=True)
class DryRun:
    """What was measured, and what follows from it for the run.

    Attributes:
        steps: Steps that were done.
        step_s: Median seconds of a step, without the first two.
        images_per_s: Pictures a second, over all workers.
        data_wait_share: Share of the time in which a step waited for its pictures, 0..1.
        training_s: Seconds for all steps of the run, without the start of workers.
        validation_s: Seconds for all its validations.
        peak_bytes: Most memory in use during the steps, of one worker with the pictures it has in memory by
            then; None where the machine does not tell.
        on_gpu: Whether that is memory of a GPU.
    """

    steps: int
    step_s: float
    images_per_s: float
    data_wait_share: float
    training_s: float
    validation_s: float
    peak_bytes: int | None
    on_gpu: bool


def dry_run(
    plan: TrainingPlan,
    images: Sequence[AnnotatedImage],
    *,
    validation: Sequence[AnnotatedImage] = (),
    device: str = "cpu",
    workers: int = 1,
) -> DryRun:
    """Does the first steps of the share of one worker in this process.

    Args:
        plan: The run.
        images: The training data.
        validation: Pictures to validate on; a few of them are timed.
        device: "cpu", "cuda" or "auto".
        workers: They share each batch and, on a CPU, the cores of this machine; what their talking to each
            other costs is not in the estimate.

    Raises:
        TrainingError, ImageError, StorageError: As training itself.
    """
    where = resolve_device(device)
    config = replace(
        plan.config,
        batch_size=max(plan.config.accumulation_steps, plan.config.batch_size // workers),
        checkpoint_every_steps=0,
        validate_every_steps=0,
    )
    steps = min(STEPS, plan.steps)
    reports: list[StepReport] = []
    threads_before = torch.get_num_threads()
    if where.type == "cpu" and workers > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    try:
        network = plan.build_network()
        with peak_memory(where) as peak:
            train(
                network,
                plan.spec,
                images,
                config,
                steps=steps,
                train_batch_norm=bool(config.train_batch_norm),
                device=where,
                on_step=reports.append,
            )
        validation_s = _validation_s(plan, validation, network, device) if validation else 0.0
    finally:
        torch.set_num_threads(threads_before)
    timed = reports[_WARM_UP_STEPS:] or reports
    step_s = statistics.median(report.step_s for report in timed)
    waited_s = sum(report.data_wait_s for report in timed)
    return DryRun(
        steps=steps,
        step_s=step_s,
        images_per_s=plan.config.batch_size / step_s,
        data_wait_share=waited_s / sum(report.step_s for report in timed),
        training_s=step_s * plan.steps,
        validation_s=validation_s,
        peak_bytes=peak.peak_bytes,
        on_gpu=where.type == "cuda",
    )


def _validation_s(
    plan: TrainingPlan, images: Sequence[AnnotatedImage], network: FasterRCNN, device: str
) -> float:
    """Seconds for all validations of the run, from one on a few pictures that show something."""
    few = sorted(images, key=len, reverse=True)[:_PICTURES_VALIDATED]
    validator = Validator(few, plan.spec, device=device)
    started_s = time.perf_counter()
    validator(network, 0)
    picture_s = (time.perf_counter() - started_s) / len(few)
    every = plan.config.validate_every_steps or plan.steps
    return picture_s * len(images) * math.ceil(plan.steps / every)
