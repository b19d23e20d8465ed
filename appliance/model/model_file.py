"""The model file: one `.safetensors` file, tensors plus a JSON document. Never pickle.

Layout: the tensors are the network's state dict; the metadata key `appliance` holds one JSON document
with `format_version`, `name`, `spec` (see `ModelSpec`), `training`, `metrics`, `dataset_digest`,
`versions` and `parent`. A file from an untrusted source can at worst be rejected. The version of a model
is the beginning of the SHA-256 of its file, so that equal files are equal versions wherever they lie.

Format of safetensors itself: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import safetensors
import safetensors.torch
import torch
import torchvision
from torchvision.models.detection import FasterRCNN

from appliance import storage
from appliance.errors import ApplianceError, ModelFileError
from appliance.model.faster_rcnn import build_network
from appliance.model.spec import ModelSpec

FORMAT_VERSION = 1
METADATA_KEY = "appliance"


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model besides its weights and its spec.

    Attributes:
        training: The configuration it was trained with.
        metrics: Name -> value, as measured after training.
        dataset_digest: `ObjectDetectionDataset.digest()` of the training data.
        parent: Where its starting weights came from.
    """

    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    dataset_digest: str | None = None
    parent: str | None = None


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model file, read: the network in eval mode and all that is known of it."""

    network: FasterRCNN
    spec: ModelSpec
    info: ModelInfo
    name: str
    version: str


def save(
    model_uri: str,
    network: FasterRCNN,
    spec: ModelSpec,
    *,
    name: str | None = None,
    info: ModelInfo | None = None,
) -> str:
    """Writes a model file in one piece and returns its version.

    Args:
        model_uri: Where to; `.safetensors` is customary.
        network: Its state dict is what is saved.
        spec: What to build it from again.
        name: Goes into every record; by default the file's name without its ending.
        info: What else is known.

    Raises:
        StorageError: It cannot be written.
    """
    info = info or ModelInfo()
    document = {
        "format_version": FORMAT_VERSION,
        "name": name or PurePosixPath(str(model_uri)).stem,
        "spec": spec.to_json(),
        "training": dict(info.training),
        "metrics": dict(info.metrics),
        "dataset_digest": info.dataset_digest,
        "parent": info.parent,
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
    }
    tensors = {
        key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()
    }
    data = safetensors.torch.save(tensors, {METADATA_KEY: json.dumps(document, sort_keys=True)})
    storage.write_bytes(model_uri, data)
    return _version(data)


def load(model_uri: str) -> LoadedModel:
    """Reads a model file.

    Raises:
        StorageError: The file is not there or cannot be read.
        ModelFileError: It is no model file, is damaged, or is of a newer format.
    """
    data = storage.read_bytes(model_uri)
    metadata, tensors = parse_safetensors(data, source=str(model_uri))
    document = _document(metadata, str(model_uri))
    try:
        spec = ModelSpec.from_json(document["spec"])
        info = ModelInfo(
            document.get("training") or {},
            document.get("metrics") or {},
            document.get("dataset_digest"),
            document.get("parent"),
        )
        name = str(document["name"])
        network = build_network(spec)
        network.load_state_dict(tensors)
    except (ApplianceError, KeyError, TypeError, ValueError, RuntimeError) as error:
        # RuntimeError is how load_state_dict tells of missing, foreign or misshapen tensors.
        raise ModelFileError(
            "The model file is damaged", where=model_uri, got=str(error).splitlines()[0]
        ) from None
    network.eval()
    return LoadedModel(network, spec, info, name, _version(data))


def parse_safetensors(
    data: bytes, *, source: str
) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """The metadata and tensors of a safetensors file.

    Raises:
        ModelFileError: The bytes are no safetensors file.
    """
    try:
        tensors = safetensors.torch.load(data)
        header_bytes = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + header_bytes])
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(
            "Not a model file",
            where=source,
            got=f"{len(data):,} bytes beginning {data[:8]!r} ({error})",
            expected="a .safetensors file that the appliance has written",
            hint="Train one with `appliance train`",
        ) from None
    return dict(header.get("__metadata__") or {}), tensors


def _document(metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    try:
        document = json.loads(metadata[METADATA_KEY])
        version = int(document["format_version"])
    except (KeyError, ValueError, TypeError):
        raise ModelFileError(
            "Not a model file of the appliance",
            where=source,
            got="safetensors without the appliance's metadata",
            hint="A plain state dict can be given as starting weights: `appliance train --init FILE`",
        ) from None
    if version > FORMAT_VERSION:
        raise ModelFileError(
            "The model file is of a newer format",
            where=source,
            got=f"format {version}",
            expected=f"at most {FORMAT_VERSION}",
            hint="Update the appliance",
        )
    return dict(document)


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
