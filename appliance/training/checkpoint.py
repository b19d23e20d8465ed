"""Checkpoints: everything a run needs to go on as if it had never stopped, in one safetensors file.

Weights, their average and the optimizer's state are tensors; the step, the settings, the loss scaler and what
the run has come to are JSON in the metadata. Order, augmentation, sampling and learning rate are functions of
seed and step (see `training.batching`), so there is no random state, sampler or schedule to keep.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import safetensors.torch
import torch
from torch.amp import GradScaler
from torchvision.models.detection import FasterRCNN

from appliance import storage
from appliance.errors import ModelFileError
from appliance.model.model_file import parse_safetensors
from appliance.model.spec import ModelSpec
from appliance.training.config import TrainingConfig

METADATA_KEY = "appliance_checkpoint"
FILE_NAME = "checkpoint.safetensors"
# 1 had network, optimizer, step, spec and config; 2 has the average, the scaler and the record besides.
FORMAT_VERSION = 2
_NETWORK, _OPTIMIZER, _AVERAGE = "network.", "optimizer.", "average."


@dataclass(frozen=True)
class RunRecord:
    """What a run has come to, apart from its weights.

    Attributes:
        best_step: Step after which the validation metric was highest; None before any validation.
        best_metric: Its value then.
        validations_since_best: Validations after that one.
        skipped_batches: Steps left out because their loss was not finite.
    """

    best_step: int | None = None
    best_metric: float | None = None
    validations_since_best: int = 0
    skipped_batches: int = 0

    def after_validation(self, step: int, metric: float) -> RunRecord:
        """The record with one more validation; a metric that is NaN is none better."""
        if metric > (-math.inf if self.best_metric is None else self.best_metric):
            return replace(self, best_step=step, best_metric=metric, validations_since_best=0)
        return replace(self, validations_since_best=self.validations_since_best + 1)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run between two steps.

    Attributes:
        step: Steps already done.
        network_state: State dict of the network.
        optimizer_state: `<parameter name>/<state name>` -> tensor.
        spec: Of the network.
        config: Of the run.
        average_state: State dict of the averaged network; empty where nothing is averaged.
        scaler_state: Of the loss scaler of float16; empty without one.
        record: What the run has come to so far.
    """

    step: int
    network_state: dict[str, torch.Tensor]
    optimizer_state: dict[str, torch.Tensor]
    spec: ModelSpec
    config: TrainingConfig
    average_state: dict[str, torch.Tensor] = field(default_factory=dict)
    scaler_state: dict[str, float] = field(default_factory=dict)
    record: RunRecord = RunRecord()

    @property
    def model_state(self) -> dict[str, torch.Tensor]:
        """State dict of the network that the run is for: the averaged one, where there is one."""
        return self.average_state or self.network_state

    @property
    def is_best(self) -> bool:
        """Whether the last validation was after this very step, and the best so far."""
        return self.record.best_step == self.step


def capture(
    step: int,
    network: FasterRCNN,
    optimizer: torch.optim.Optimizer,
    spec: ModelSpec,
    config: TrainingConfig,
    *,
    average: FasterRCNN | None,
    scaler: GradScaler,
    record: RunRecord,
) -> Checkpoint:
    """The state after `step` steps; tensors are copies on the CPU."""
    optimizer_state = {
        f"{name}/{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }
    return Checkpoint(
        step,
        _copied(network.state_dict()),
        _copied(optimizer_state),
        spec,
        config,
        average_state=_copied(average.state_dict()) if average else {},
        scaler_state=scaler.state_dict(),
        record=record,
    )


def restore(
    checkpoint: Checkpoint,
    network: FasterRCNN,
    optimizer: torch.optim.Optimizer,
    scaler: GradScaler,
) -> None:
    """Puts the state back into what was built from the same spec and settings.

    The average is put back by who has it.
    """
    network.load_state_dict(checkpoint.network_state)
    parameters = dict(network.named_parameters())
    for name, saved in checkpoint.optimizer_state.items():
        parameter_name, _, key = name.rpartition("/")
        parameter = parameters[parameter_name]
        if saved.shape == parameter.shape:
            # Into the parameter's own memory format, or the next step would be slower than the last.
            optimizer.state[parameter][key] = torch.empty_like(parameter).copy_(saved)
        else:
            # AdamW's number of steps; where one kernel does it all, it is read there.
            fused = optimizer.param_groups[0].get("fused")
            optimizer.state[parameter][key] = saved.to(parameter.device) if fused else saved
    if checkpoint.scaler_state:
        scaler.load_state_dict(checkpoint.scaler_state)


def save(uri: str, checkpoint: Checkpoint) -> None:
    """Writes the checkpoint in one piece.

    Raises:
        StorageError: It cannot be written.
    """
    tensors = {_NETWORK + key: value for key, value in checkpoint.network_state.items()}
    tensors |= {_OPTIMIZER + key: value for key, value in checkpoint.optimizer_state.items()}
    tensors |= {_AVERAGE + key: value for key, value in checkpoint.average_state.items()}
    document = {
        "format": FORMAT_VERSION,
        "step": checkpoint.step,
        "spec": checkpoint.spec.to_json(),
        "config": checkpoint.config.to_json(),
        "scaler": checkpoint.scaler_state,
        "record": asdict(checkpoint.record),
    }
    metadata = {METADATA_KEY: json.dumps(document, sort_keys=True)}
    storage.write_bytes(uri, safetensors.torch.save(tensors, metadata))


def load(uri: str) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        StorageError: It cannot be read.
        ModelFileError: It is no checkpoint, or of a newer format.
    """
    metadata, tensors = parse_safetensors(storage.read_bytes(uri), source=uri)
    try:
        document: dict[str, Any] = json.loads(metadata[METADATA_KEY])
        _refuse_newer(document.get("format", 1), uri)
        spec = ModelSpec.from_json(document["spec"])
        config = TrainingConfig.from_json(document["config"])
        step = int(document["step"])
        # Files of the first format have neither.
        scaler_state: dict[str, float] = document.get("scaler", {})
        record = RunRecord(**document.get("record", {}))
    except (KeyError, ValueError, TypeError, AttributeError):
        raise ModelFileError(
            "Not a training checkpoint", where=uri, hint="Start again without --resume"
        ) from None
    return Checkpoint(
        step,
        _with_prefix(tensors, _NETWORK),
        _with_prefix(tensors, _OPTIMIZER),
        spec,
        config,
        average_state=_with_prefix(tensors, _AVERAGE),
        scaler_state=scaler_state,
        record=record,
    )


def _refuse_newer(version: int, uri: str) -> None:
    if version > FORMAT_VERSION:
        raise ModelFileError(
            "A newer version has written this training checkpoint",
            where=uri,
            got=f"format {version}",
            expected=f"at most {FORMAT_VERSION}",
            hint="Go on with the version of the appliance that began the run",
        )


def _copied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()
    }


def _with_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
