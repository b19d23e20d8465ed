"""The training loop in plain torch: one process's share of a run, on a CPU or GPU.

    batch -> losses -> gradients -> (averaged over workers) -> optimizer step -> report

It knows nothing of Ray, files or progress bars: those who call it pass functions for what happens after a
step and at a checkpoint. On one machine, equal settings and seed give equal weights, whether a run was
interrupted or not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.detection import FasterRCNN

from appliance.annotations.dataset import AnnotatedImage
from appliance.errors import NonFiniteLossError
from appliance.model.faster_rcnn import freeze_stages
from appliance.model.spec import ModelSpec
from appliance.training import checkpoint as checkpoints
from appliance.training.checkpoint import Checkpoint
from appliance.training.config import TrainingConfig
from appliance.training.data import Batch, BatchLoader, Share
from appliance.training.losses import DetectionLosses


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
) -> None:
    """Trains `network` in place, up to `steps` steps counted from the very beginning of the run.

    Args:
        network: Weights to start from; left on `device`.
        spec: What it was built from.
        images: The whole data set; every worker takes its share of each batch.
        config: How.
        steps: Length of the run; the schedule is laid over it.
        train_batch_norm: Whether BatchNorm learns its statistics.
        device: Where to compute.
        share: This worker's part; with more than one worker a process group must be there.
        checkpoint: Where to go on.
        on_step: Called after each step.
        on_checkpoint: Called every `config.checkpoint_every_steps` and after the last step.

    Raises:
        NonFiniteLossError: A loss became NaN or infinite.
        ImageError: A picture cannot be read any more.
        StorageError: Nor its file.
    """
    network.to(device=device, memory_format=torch.channels_last)
    freeze_stages(network, spec, config.frozen_stages or 0)
    if config.regions_per_image is not None:
        network.roi_heads.fg_bg_sampler.batch_size_per_image = config.regions_per_image
    optimizer = build_optimizer(network, config)
    first_step = 0
    if checkpoint is not None:
        checkpoints.restore(checkpoint, network, optimizer)
        first_step = checkpoint.step
    losses_of = DetectionLosses(network, autocast_dtype(config, device)).to(device)
    model: nn.Module = losses_of
    if share.world_size > 1:
        model = DistributedDataParallel(losses_of, broadcast_buffers=train_batch_norm)
    set_mode(network, train_batch_norm=train_batch_norm)

    loader = BatchLoader(images, spec.label_map, spec, config, share)
    started_s = time.perf_counter()
    for step, batch in enumerate(loader.batches(first_step, steps), start=first_step):
        loaded_s = time.perf_counter()
        # Sampling inside the RPN and the box head draws from torch's own generator.
        torch.manual_seed(_step_seed(config.seed, step, share.rank))
        learning_rate = learning_rate_at(step, steps, config)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        losses, gradient_norm = train_step(model, optimizer, batch, device, config, step)
        done_s = time.perf_counter()
        on_step(
            StepReport(
                step=step + 1,
                steps=steps,
                loss=sum(losses.values()),
                losses=losses,
                learning_rate=learning_rate,
                gradient_norm=gradient_norm,
                step_s=done_s - started_s,
                data_wait_s=loaded_s - started_s,
                images=config.batch_size,
                objects=sum(len(target["labels"]) for target in batch.targets),
                objects_dropped=batch.dropped,
            )
        )
        every = config.checkpoint_every_steps
        if step + 1 == steps or (every and (step + 1) % every == 0):
            on_checkpoint(checkpoints.capture(step + 1, network, optimizer, spec, config))
        started_s = time.perf_counter() if step + 1 == steps else done_s


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    device: torch.device,
    config: TrainingConfig,
    step: int,
) -> tuple[dict[str, float], float]:
    """One optimizer step; returns the losses by name and the gradient norm before clipping.

    Raises:
        NonFiniteLossError: Before any weight is touched.
    """
    targets = [{key: value.to(device) for key, value in t.items()} for t in batch.targets]
    losses = model(batch.pixels.to(device), batch.sizes_hw, targets)
    loss = torch.stack(list(losses.values())).sum()
    values = {name: float(value.detach()) for name, value in losses.items()}
    if not math.isfinite(sum(values.values())):
        raise NonFiniteLossError(
            f"The loss is not finite at step {step + 1}",
            where=", ".join(batch.names),
            got=", ".join(f"{name}={value:.3g}" for name, value in values.items()),
            hint="Check these pictures' boxes with `appliance data check`, or lower the learning rate",
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, config.clip_gradient_norm)
    optimizer.step()
    return values, float(norm)


def build_optimizer(network: FasterRCNN, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of a run; weight decay on matrices and kernels, none on biases and norms."""
    learning = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.momentum, 0.999))
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)


def learning_rate_at(step: int, steps: int, config: TrainingConfig) -> float:
    """The rate of a step, counted from 0.

    One cycle, a linear climb to the peak and then a half cosine down to a hundredth of it; or the
    stages, where there are any.
    """
    if config.learning_rate_stages:
        reached = [rate for start, rate in config.learning_rate_stages if step >= start]
        return reached[-1] if reached else config.learning_rate
    warmup_steps = max(1, round(config.warmup_fraction * steps))
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return config.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


def set_mode(network: FasterRCNN, *, train_batch_norm: bool) -> None:
    """Training mode, with BatchNorm statistics learning or fixed."""
    network.train()
    if not train_batch_norm:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def autocast_dtype(config: TrainingConfig, device: torch.device) -> torch.dtype | None:
    """bfloat16 where it is asked for, or "auto" and faster: a GPU, or a CPU with AMX units.

    A CPU without AMX emulates bfloat16 and is slower with it than without.
    """
    if config.precision == "auto":
        faster = device.type == "cuda" or cpu_has_amx()
        return torch.bfloat16 if faster else None
    return torch.bfloat16 if config.precision == "bfloat16" else None


def cpu_has_amx() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (Intel's AMX tiles)."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def _step_seed(seed: int, step: int, rank: int) -> int:
    return (seed * 1_000_003 + step) * 1_009 + rank
