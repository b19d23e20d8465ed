"""One optimizer step: the network with everything that changes it.

    parts of a batch -> losses -> do all workers have finite ones? -> gradients, averaged -> clip -> step -> average

A step in several parts (`accumulation_steps`) gives the gradient that as many workers with one part each
would give: each part draws from the random numbers of such a worker, and counts by its number of pictures.
Against one undivided batch the gradient differs as it does between numbers of workers: torchvision's losses
are means over the sampled anchors and regions of a batch, so that it is the same where every picture gives
equally many of them (the usual case for anchors), and BatchNorm that learns sees the pictures of a part only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.detection import FasterRCNN

from appliance.errors import NonFiniteLossError
from appliance.model.spec import ModelSpec
from appliance.training import agreement, checkpoint
from appliance.training.averaging import WeightAverage
from appliance.training.checkpoint import Checkpoint, RunRecord
from appliance.training.config import TrainingConfig
from appliance.training.data import Batch, Share
from appliance.training.frozen_norms import FrozenNorms
from appliance.training.losses import DetectionLosses
from appliance.training.optimizer import build_optimizer
from appliance.training.precision import autocast_dtype

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResult:
    """What came of a step.

    Attributes:
        losses: By name, mean over the pictures of this worker.
        gradient_norm: Before clipping; NaN where the step was left out.
        skipped: Whether it was left out.
    """

    losses: dict[str, float]
    gradient_norm: float
    skipped: bool = False


class Learner:
    """The network with its optimizer, loss scaler and average, on one of the workers.

    Args:
        network: On `device` already; trained in place.
        spec: What it was built from.
        config: How.
        train_batch_norm: Whether BatchNorm learns its statistics.
        device: Where to compute.
        share: This worker's part.
        start: Where to go on.

    Attributes:
        record: What the run has come to so far.
    """

    def __init__(
        self,
        network: FasterRCNN,
        spec: ModelSpec,
        config: TrainingConfig,
        *,
        train_batch_norm: bool,
        device: torch.device,
        share: Share = Share(),
        start: Checkpoint | None = None,
    ) -> None:
        self.record = start.record if start else RunRecord()
        self._network, self._spec, self._config = network, spec, config
        self._train_batch_norm = train_batch_norm
        self._device, self._share = device, share
        self._optimizer = build_optimizer(network, config, device)
        dtype = autocast_dtype(config, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        if start is not None:
            checkpoint.restore(start, network, self._optimizer, self._scaler)
        self._average: WeightAverage | None = None
        if config.ema_decay is not None:
            self._average = WeightAverage(network, config.ema_decay)
            if start is not None and start.average_state:
                self._average.network.load_state_dict(start.average_state)
        norms = None if train_batch_norm else FrozenNorms(network)
        self._losses_of = DetectionLosses(network, dtype, norms).to(device)
        self._model: nn.Module = self._losses_of
        if share.world_size > 1:
            self._model = DistributedDataParallel(
                self._losses_of,
                forward_sync_buffers=train_batch_norm,
                # Without it, gradients are grouped anew after the first step of every start, and three or
                # more workers of gloo then add in another order: a resumed run would differ in last bits.
                find_unused_parameters=device.type == "cpu" and share.world_size > 2,
            )
        set_mode(network, train_batch_norm=train_batch_norm)

    @contextmanager
    def judged(self) -> Iterator[FasterRCNN]:
        """The network that the run is for, in eval mode: the averaged one, where there is one."""
        try:
            yield self._average.network if self._average else self._network.eval()
        finally:
            set_mode(self._network, train_batch_norm=self._train_batch_norm)

    def finish(self) -> None:
        """Leaves in the learning network what the run is for."""
        if self._average is not None:
            self._network.load_state_dict(self._average.network.state_dict())

    def capture(self, steps_done: int) -> Checkpoint:
        """Everything there is, as copies on the CPU."""
        return checkpoint.capture(
            steps_done,
            self._network,
            self._optimizer,
            self._spec,
            self._config,
            average=self._average.network if self._average else None,
            scaler=self._scaler,
            record=self.record,
        )

    def step(self, parts: Sequence[Batch], step: int, learning_rate: float) -> StepResult:
        """One step, counted from 0.

        Raises:
            NonFiniteLossError: On all workers, before any weight is touched.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        statistics = self._statistics()
        losses, agreed = self._backward(parts, step)
        norm = math.nan
        if agreed:
            self._scaler.unscale_(self._optimizer)
            learnt = [p for group in self._optimizer.param_groups for p in group["params"]]
            norm = float(nn.utils.clip_grad_norm_(learnt, self._config.clip_gradient_norm))
        # A scaler finds its scale by trying: a gradient that overflows is its business. Without one, all
        # workers have the same gradient here and need not ask each other.
        if not agreed or not (math.isfinite(norm) or self._scaler.is_enabled()):
            self._leave_out(parts, step, losses, statistics)
            return StepResult(losses, norm, skipped=True)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update(self._network, step)
        return StepResult(losses, norm)

    def _backward(self, parts: Sequence[Batch], step: int) -> tuple[dict[str, float], bool]:
        """Losses and gradients of all parts; False as soon as a worker's loss is not finite."""
        totals: dict[str, float] = {}
        images = sum(len(batch.names) for batch in parts)
        finite = True
        for part, batch in enumerate(parts):
            is_last = part + 1 == len(parts)
            # Sampling inside the RPN and the box head draws from torch's own generator.
            torch.manual_seed(_stream_seed(self._config.seed, step, self._share.stream(part)))
            with nullcontext() if is_last else self._without_exchange():
                losses = self._model(*self._uploaded(batch))
                stacked = torch.stack(list(losses.values()))
                values = stacked.detach().tolist()
                finite = finite and math.isfinite(sum(values))
                for name, value in zip(losses, values, strict=True):
                    totals[name] = totals.get(name, 0.0) + value * (len(batch.names) / images)
                if is_last and agreement.any_worker(not finite, self._share, self._device):
                    return totals, False
                if finite:
                    self._scaler.scale(self._weighted(stacked.sum(), batch)).backward()
        return totals, True

    def _weighted(self, loss: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Each part counts by its pictures; the mean over workers is taken when they exchange."""
        weight = len(batch.names) * self._share.world_size / self._config.batch_size
        return loss if weight == 1 else loss * weight

    def _without_exchange(self) -> AbstractContextManager[None]:
        if not isinstance(self._model, DistributedDataParallel):
            return nullcontext()
        alone: AbstractContextManager[None] = self._model.no_sync()
        return alone

    def _uploaded(
        self, batch: Batch
    ) -> tuple[torch.Tensor, list[tuple[int, int]], list[dict[str, torch.Tensor]]]:
        # Without waiting: from page-locked memory the copy runs beside what the GPU still computes.
        pixels = batch.pixels.to(self._device, non_blocking=True)
        targets = [
            {name: value.to(self._device, non_blocking=True) for name, value in target.items()}
            for target in batch.targets
        ]
        return pixels, batch.sizes_hw, targets

    def _statistics(self) -> dict[str, torch.Tensor]:
        """Copies of what a forward pass changes, where a step may be left out."""
        if not (self._config.skip_bad_batches and self._train_batch_norm):
            return {}
        return {name: buffer.clone() for name, buffer in self._network.named_buffers()}

    def _leave_out(
        self,
        parts: Sequence[Batch],
        step: int,
        losses: dict[str, float],
        statistics: dict[str, torch.Tensor],
    ) -> None:
        """Undoes the step, as often as `skip_bad_batches` allows."""
        self._optimizer.zero_grad(set_to_none=True)
        buffers = dict(self._network.named_buffers())
        for name, before in statistics.items():
            buffers[name].copy_(before)
        names = [name for batch in parts for name in batch.names]
        allowed = self._config.skip_bad_batches
        error = _not_finite(step, agreement.from_all((losses, names), self._share, self._device))
        if self.record.skipped_batches == allowed:
            raise error
        self.record = replace(self.record, skipped_batches=self.record.skipped_batches + 1)
        if self._share.rank == 0:
            logger.warning(
                "%s; left out, %d of at most %d",
                error.message,
                self.record.skipped_batches,
                allowed,
            )


def _not_finite(
    step: int, workers: Sequence[tuple[Mapping[str, float], Sequence[str]]]
) -> NonFiniteLossError:
    """Names step, rank, pictures and losses; `workers` has losses and pictures of each."""
    bad = {r for r, (losses, _) in enumerate(workers) if not math.isfinite(sum(losses.values()))}
    shown = [
        (f"rank {rank}: " if len(workers) > 1 else "", names, losses)
        for rank, (losses, names) in enumerate(workers)
        if rank in bad or not bad
    ]
    return NonFiniteLossError(
        f"The {'loss' if bad else 'gradient'} is not finite at step {step + 1}",
        where="; ".join(rank + ", ".join(names) for rank, names, _ in shown),
        got="; ".join(
            rank + ", ".join(f"{name}={value:.3g}" for name, value in losses.items())
            for rank, _, losses in shown
        ),
        hint="Check these pictures' boxes with `appliance data check`, or lower the learning rate",
    )


def _stream_seed(seed: int, step: int, stream: int) -> int:
    return (seed * 1_000_003 + step) * 1_009 + stream


def set_mode(network: FasterRCNN, *, train_batch_norm: bool) -> None:
    """Training mode, with BatchNorm statistics learning or fixed."""
    network.train()
    if not train_batch_norm:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
