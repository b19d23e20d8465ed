"""Checkpoints: everything a run needs to go on as if it had never stopped, in one safetensors file.

Weights and the optimizer's state are tensors; the step and the settings are JSON in the metadata. Order, augmentation
and sampling are functions of seed and step (see `training.data`), so there is no random state to keep.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torchvision.models.detection import FasterRCNN

from appliance import storage
from appliance.errors import ModelFileError
from appliance.model.model_file import parse_safetensors
from appliance.model.spec import ModelSpec
from appliance.training.config import TrainingConfig

METADATA_KEY = "appliance_checkpoint"
FILE_NAME = "checkpoint.safetensors"
_NETWORK, _OPTIMIZER = "network.", "optimizer."


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run between two steps.

    Attributes:
        step: Steps already done.
        network_state: State dict of the network.
        optimizer_state: `<parameter name>/<state name>` -> tensor.
        spec: Of the network.
        config: Of the run.
    """

    step: int
    network_state: dict[str, torch.Tensor]
    optimizer_state: dict[str, torch.Tensor]
    spec: ModelSpec
    config: TrainingConfig


def capture(
    step: int,
    network: FasterRCNN,
    optimizer: torch.optim.Optimizer,
    spec: ModelSpec,
    config: TrainingConfig,
) -> Checkpoint:
    """The state after `step` steps; tensors are copies on the CPU."""
    optimizer_state = {
        f"{name}/{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }
    return Checkpoint(step, _copied(network.state_dict()), _copied(optimizer_state), spec, config)


def restore(checkpoint: Checkpoint, network: FasterRCNN, optimizer: torch.optim.Optimizer) -> None:
    """Puts the state back into a network and optimizer built from the same spec and settings."""
    network.load_state_dict(checkpoint.network_state)
    parameters = dict(network.named_parameters())
    for name, saved in checkpoint.optimizer_state.items():
        parameter_name, _, key = name.rpartition("/")
        parameter = parameters[parameter_name]
        if saved.shape == parameter.shape:
            # Into the parameter's own memory format, or the next step would be slower than the last.
            optimizer.state[parameter][key] = torch.empty_like(parameter).copy_(saved)
        else:
            optimizer.state[parameter][key] = saved


def save(uri: str, checkpoint: Checkpoint) -> None:
    """Writes the checkpoint in one piece.

    Raises:
        StorageError: It cannot be written.
    """
    tensors = {_NETWORK + key: value for key, value in checkpoint.network_state.items()}
    tensors |= {_OPTIMIZER + key: value for key, value in checkpoint.optimizer_state.items()}
    document = {
        "step": checkpoint.step,
        "spec": checkpoint.spec.to_json(),
        "config": checkpoint.config.to_json(),
    }
    metadata = {METADATA_KEY: json.dumps(document, sort_keys=True)}
    storage.write_bytes(uri, safetensors.torch.save(tensors, metadata))


def load(uri: str) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        StorageError: It cannot be read.
        ModelFileError: It is no checkpoint.
    """
    metadata, tensors = parse_safetensors(storage.read_bytes(uri), source=uri)
    try:
        document: dict[str, Any] = json.loads(metadata[METADATA_KEY])
        spec = ModelSpec.from_json(document["spec"])
        config = TrainingConfig.from_json(document["config"])
        step = int(document["step"])
    except (KeyError, ValueError, TypeError):
        raise ModelFileError(
            "Not a training checkpoint", where=uri, hint="Start again without --resume"
        ) from None
    return Checkpoint(
        step, _with_prefix(tensors, _NETWORK), _with_prefix(tensors, _OPTIMIZER), spec, config
    )


def _copied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()
    }


def _with_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
