"""Starting weights: where they come from, what of them fits, and what did not."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torchvision.models.detection import FasterRCNN

from appliance import storage
from appliance.errors import ConfigError, ModelFileError, StorageError
from appliance.labels import LabelMap
from appliance.model import model_file
from appliance.model.faster_rcnn import extract_body
from appliance.model.spec import COMPACT, COMPACT_BACKBONES, ModelSpec

logger = logging.getLogger(__name__)

NAMED_WEIGHTS = ("none", "imagenet", "coco")
_BODY_PREFIX = "backbone.body."
_CLASSIFIER_PREFIXES = ("fc.", "classifier.")


@dataclass(frozen=True, eq=False)
class StartingWeights:
    """Tensors to begin with, named as in a detector's state dict.

    Attributes:
        tensors: Empty when training starts from random weights.
        source: "none", "imagenet", "coco" or the URI of a file.
        parent_spec: The spec of the model file they came from, if they did.
        backbone: The torchvision name of the backbone they fit, if known.
    """

    tensors: Mapping[str, torch.Tensor]
    source: str
    parent_spec: ModelSpec | None = None
    backbone: str | None = None

    @property
    def are_pretrained(self) -> bool:
        """Whether there is anything to start from."""
        return bool(self.tensors)


def read_starting_weights(
    init: str, architecture: str = COMPACT, backbone: str | None = None
) -> StartingWeights:
    """Finds starting weights by name or URI.

    Args:
        init: "none", "imagenet" or "coco" (torchvision's own, downloaded once), or the URI of a model
            file or of a torchvision backbone's state dict, as safetensors.
        architecture: Which network "imagenet" and "coco" are for.
        backbone: Which backbone "imagenet" is for, with the compact architecture.

    Raises:
        ConfigError: There are no such weights for this architecture.
        StorageError: The file cannot be read, or torchvision's cannot be downloaded.
        ModelFileError: The file is of neither kind.
    """
    if init == "none":
        return StartingWeights({}, "none")
    if init in NAMED_WEIGHTS:
        return _torchvision_weights(init, architecture, backbone)
    metadata, tensors = model_file.parse_safetensors(storage.read_bytes(init), source=init)
    if model_file.METADATA_KEY in metadata:
        loaded = model_file.load(init)
        return StartingWeights(loaded.network.state_dict(), init, loaded.spec, loaded.spec.backbone)
    for name in COMPACT_BACKBONES if backbone is None else (backbone,):
        if _fits_backbone(tensors, name):
            return StartingWeights(_as_body(tensors), init, None, name)
    raise ModelFileError(
        "Not starting weights",
        where=init,
        got=f"{len(tensors)} tensors such as {next(iter(tensors), 'none')!r}",
        expected=f"a model file, or the state dict of {backbone or ' or '.join(COMPACT_BACKBONES)}",
    )


def spec_for(
    labels: LabelMap, weights: StartingWeights, architecture: str = COMPACT, **settings: object
) -> ModelSpec:
    """The spec of a new model that starts from `weights`: theirs where they carry one.

    Of `settings`, those that are None are left to the weights or the architecture.
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    if weights.parent_spec is not None:
        return weights.parent_spec.with_settings(labels=labels.names, **settings)
    if weights.backbone is not None and architecture == COMPACT:
        settings = {"backbone": weights.backbone, **settings}
    return ModelSpec.of(labels, architecture, **settings)


def apply_weights(network: FasterRCNN, weights: StartingWeights) -> list[str]:
    """Copies what fits by name and shape; returns the names of the network's tensors left random.

    The box predictor of another label set never fits and is trained anew; that and anything else left
    out is logged.
    """
    own = network.state_dict()
    fitting = {
        name: tensor
        for name, tensor in weights.tensors.items()
        if name in own and own[name].shape == tensor.shape
    }
    network.load_state_dict(fitting, strict=False)
    # Frozen BatchNorm, as torchvision trains with, has no such counter.
    left = [n for n in own if n not in fitting and not n.endswith("num_batches_tracked")]
    if weights.are_pretrained:
        logger.info(
            "%s: %d of %d tensors taken, left random: %s",
            weights.source,
            len(fitting),
            len(own),
            ", ".join(left[:6]) + (" ..." if len(left) > 6 else ""),
        )
    return left


def _torchvision_weights(init: str, architecture: str, backbone: str | None) -> StartingWeights:
    if init == "coco" and architecture == COMPACT:
        raise ConfigError(
            "There are no COCO weights for the compact architecture",
            got="init coco",
            hint="Start from imagenet or from a file, or choose a torchvision architecture",
        )
    if architecture != COMPACT and init == "imagenet":
        backbone = "resnet50" if "resnet50" in architecture else "mobilenet_v3_large"
    model_name = architecture if init == "coco" else backbone or "resnet18"
    entry = torchvision.models.get_model_weights(model_name).DEFAULT
    try:
        tensors = entry.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
        raise StorageError(
            f"Cannot download the {init} weights of {model_name}",
            got=error,
            hint=f"Fetch {entry.url} on another machine and put it at {cache}",
        ) from None
    if init == "coco":
        return StartingWeights(tensors, init)
    return StartingWeights(_as_body(tensors), init, None, backbone or "resnet18")


def _fits_backbone(tensors: Mapping[str, torch.Tensor], backbone: str) -> bool:
    body, _ = extract_body(backbone)
    own = {
        name: value.shape
        for name, value in body.state_dict().items()
        if not name.startswith(_CLASSIFIER_PREFIXES) and not name.endswith("num_batches_tracked")
    }
    given = _as_body(tensors)
    return all(
        _BODY_PREFIX + name in given and given[_BODY_PREFIX + name].shape == shape
        for name, shape in own.items()
    )


def _as_body(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        _BODY_PREFIX + name.removeprefix("features."): tensor
        for name, tensor in tensors.items()
        if not name.startswith(_CLASSIFIER_PREFIXES)
    }
