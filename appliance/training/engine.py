"""The training loop in plain torch: one process's share of a run, on a CPU or GPU.

    batch -> step -> report -> (validation) -> (checkpoint) -> the next, or the end

It knows nothing of Ray, files or progress bars: those who call it pass functions for what happens after a
step, at a validation and at a checkpoint. On one machine, equal settings and seed give equal weights, whether a run was
interrupted or not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torchvision.models.detection import FasterRCNN

from appliance.annotations.dataset import AnnotatedImage
from appliance.errors import ConfigError, TrainingError, TrainingStopped
from appliance.model.faster_rcnn import freeze_stages
from appliance.model.host_memory import keep_freed_memory
from appliance.model.spec import ModelSpec
from appliance.training import agreement
from appliance.training.checkpoint import Checkpoint
from appliance.training.config import TrainingConfig
from appliance.training.data import Batch, BatchLoader, Share
from appliance.training.schedule import learning_rate_at
from appliance.training.step import Learner, StepResult


@dataclass(frozen=True)
class StepReport:
    """What one step did.

    Attributes:
        step: Steps done, from 1.
        steps: Steps of the whole run.
        loss: Sum of the losses.
        losses: Each of them by name.
        learning_rate: The rate this step used.
        gradient_norm: Before clipping.
        step_s: Wall seconds of the step, data included.
        data_wait_s: Of these, seconds spent waiting for the batch.
        images: Pictures of the step over all workers.
        objects: Objects that this worker learnt from in the step.
        objects_dropped: Objects that augmentation cut off so far that it did not.
        skipped: Whether the step was left out because its loss was not finite (`skip_bad_batches`).
        skipped_batches: How many steps of the run were left out so far.
    """

    step: int
    steps: int
    loss: float
    losses: dict[str, float]
    learning_rate: float
    gradient_norm: float
    step_s: float
    data_wait_s: float
    images: int
    objects: int
    objects_dropped: int
    skipped: bool = False
    skipped_batches: int = 0


@dataclass(frozen=True)
class TrainingOutcome:
    """How a run ended.

    Attributes:
        step: Steps done.
        stopped_early: Whether the validation metric had stopped improving.
        best_step: The step after which the validation metric was highest; None without validation.
        best_metric: Its value then.
    """

    step: int
    stopped_early: bool = False
    best_step: int | None = None
    best_metric: float | None = None


def train(
    network: FasterRCNN,
    spec: ModelSpec,
    images: Sequence[AnnotatedImage],
    config: TrainingConfig,
    *,
    steps: int,
    train_batch_norm: bool,
    device: torch.device,
    share: Share = Share(),
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_checkpoint: Callable[[Checkpoint], None] = lambda checkpoint: None,
    validate: Callable[[FasterRCNN, int], Mapping[str, float]] | None = None,
    on_validation: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> TrainingOutcome:
    """Trains `network` in place, up to `steps` steps counted from the very beginning of the run.

    Args:
        network: Weights to start from; left on `device`, with the averaged weights where
            `config.ema_decay` asks for an average.
        spec: What it was built from.
        images: The whole data set; every worker takes its share of each batch.
        config: How.
        steps: Length of the run; the schedule is laid over it.
        train_batch_norm: Whether BatchNorm learns its statistics.
        device: Where to compute.
        share: This worker's part; with more than one worker a process group must be there.
        checkpoint: Where to go on.
        on_step: Called after each step.
        on_checkpoint: Called every `config.checkpoint_every_steps`, after the best validation so far, and
            after the last step, however it came to be the last.
        validate: Called every `config.validate_every_steps` and after the last step, on the worker of rank
            0 alone, with the network to judge (averaged, where there is an average; in eval mode, to be
            left as it is) and the steps done; its metrics reach all workers.
        on_validation: Called with the steps done and the metrics, on all workers.
        stop_requested: Asked after each step, on all workers; one that says yes stops all.

    Raises:
        TrainingStopped: It was asked to, and has made a checkpoint.
        NonFiniteLossError: A loss became NaN or infinite, more often than `config.skip_bad_batches`.
        TrainingError: A loader process died, or `validate` did not give the metric that decides.
        ConfigError: More parts than pictures in a batch, or float16 without a GPU.
        ImageError: A picture cannot be read any more.
        StorageError: Nor its file.
    """
    check_parts(config, share.world_size)
    if device.type == "cpu":
        keep_freed_memory()
    network.to(device=device, memory_format=torch.channels_last)
    freeze_stages(network, spec, config.frozen_stages or 0)
    if config.regions_per_image is not None:
        network.roi_heads.fg_bg_sampler.batch_size_per_image = config.regions_per_image
    learner = Learner(
        network,
        spec,
        config,
        train_batch_norm=train_batch_norm,
        device=device,
        share=share,
        start=checkpoint,
    )
    first_step = checkpoint.step if checkpoint else 0
    step = first_step
    loader = BatchLoader(images, spec.label_map, spec, config, share, pin=device.type == "cuda")
    last_step = first_step if _has_stalled(learner, config) else steps
    with closing(loader.batches(first_step, last_step)) as batches:
        started_s = time.perf_counter()
        for step, parts in enumerate(batches, first_step + 1):
            loaded_s = time.perf_counter()
            learning_rate = learning_rate_at(step - 1, steps, config)
            result = learner.step(parts, step - 1, learning_rate)
            done_s = time.perf_counter()
            on_step(
                _report(
                    step,
                    steps,
                    parts,
                    result,
                    learning_rate=learning_rate,
                    step_s=done_s - started_s,
                    data_wait_s=loaded_s - started_s,
                    images=config.batch_size,
                    skipped_batches=learner.record.skipped_batches,
                )
            )
            reported_s = time.perf_counter()
            if validate is not None and _is_due(step, config.validate_every_steps, steps):
                metrics = _validate(learner, validate, step, share, device)
                learner.record = learner.record.after_validation(step, _decisive(metrics, config))
                on_validation(step, metrics)
            stopped = agreement.any_worker(stop_requested(), share, device)
            stalled = _has_stalled(learner, config)
            if (
                _is_due(step, config.checkpoint_every_steps, steps)
                or learner.record.best_step == step
                or stopped
                or stalled
            ):
                on_checkpoint(learner.capture(step))
            if stalled or step == steps:
                break
            if stopped:
                raise TrainingStopped(
                    f"Training was stopped after step {step} of {steps}", step=step
                )
            # What happens between steps is no part of any: it would count as waiting for data.
            started_s = done_s + time.perf_counter() - reported_s
    learner.finish()
    record = learner.record
    return TrainingOutcome(
        step,
        stopped_early=_has_stalled(learner, config) and step < steps,
        best_step=record.best_step,
        best_metric=record.best_metric,
    )


def check_parts(config: TrainingConfig, workers: int) -> None:
    """Refuses a batch of which some part would have no picture.

    Raises:
        ConfigError: It has fewer pictures than all workers have parts.
    """
    parts = workers * config.accumulation_steps
    if config.batch_size < parts:
        raise ConfigError(
            "A batch has fewer pictures than parts",
            got=f"batch size {config.batch_size}, {workers} workers and"
            f" accumulation_steps {config.accumulation_steps}",
            expected=f"a batch size of at least {parts}",
        )


def _is_due(step: int, every_steps: int, steps: int) -> bool:
    return step == steps or (every_steps > 0 and step % every_steps == 0)


def _has_stalled(learner: Learner, config: TrainingConfig) -> bool:
    """Whether validation has not been better for as long as patience lasts."""
    return 0 < config.patience <= learner.record.validations_since_best


def _validate(
    learner: Learner,
    validate: Callable[[FasterRCNN, int], Mapping[str, float]],
    step: int,
    share: Share,
    device: torch.device,
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if share.rank == 0:
        with learner.judged() as network, torch.no_grad():
            metrics = dict(validate(network, step))
    return agreement.from_first(metrics, share, device)


def _decisive(metrics: Mapping[str, float], config: TrainingConfig) -> float:
    if config.validation_metric not in metrics:
        raise TrainingError(
            "Validation did not give the metric that decides",
            got=", ".join(metrics) or "none",
            expected=config.validation_metric,
        )
    return metrics[config.validation_metric]


def _report(
    step: int,
    steps: int,
    parts: Sequence[Batch],
    result: StepResult,
    *,
    learning_rate: float,
    step_s: float,
    data_wait_s: float,
    images: int,
    skipped_batches: int,
) -> StepReport:
    return StepReport(
        step=step,
        steps=steps,
        loss=sum(result.losses.values()),
        losses=result.losses,
        learning_rate=learning_rate,
        gradient_norm=result.gradient_norm,
        step_s=step_s,
        data_wait_s=data_wait_s,
        images=images,
        objects=sum(len(target["labels"]) for batch in parts for target in batch.targets),
        objects_dropped=sum(batch.dropped for batch in parts),
        skipped=result.skipped,
        skipped_batches=skipped_batches,
    )
