"""The model file: one `.safetensors` file, tensors plus a JSON document. Never pickle.

Layout: the tensors are the network's state dict; the metadata key `appliance` holds one JSON document
with `format_version`, `name`, `spec` (see `ModelSpec`), `training`, `metrics`, `dataset_digest`,
`versions` and `parent`. A file from an untrusted source can at worst be rejected. The version of a model
is the beginning of the SHA-256 of its file, so that equal files are equal versions wherever they lie. One
that a registry gives out has its name and number there instead; see `address`.

Format of safetensors itself: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePosixPath
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
import torchvision
from torchvision.models.detection import FasterRCNN

from appliance import storage
from appliance.errors import ApplianceError, ConfigError, ModelFileError
from appliance.model.address import ModelAddress
from appliance.model.faster_rcnn import build_hollow_network, fill_network
from appliance.model.file_header import (
    FORMAT_VERSION,
    MAX_HEADER_BYTES,
    METADATA_KEY,
    parse_metadata,
)
from appliance.model.spec import ModelSpec

_VERSION_DIGITS = 12

_T = TypeVar("_T")


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
    """A model file, read: the network in eval mode and all that is known of it.

    Attributes:
        network: In eval mode.
        spec: What it was built from.
        info: What else is known.
        name: In the registry that it came from, or else its own.
        version: Number in that registry, or else the beginning of `sha256`.
        sha256: Digest of the file.
    """

    network: FasterRCNN
    spec: ModelSpec
    info: ModelInfo
    name: str
    version: str
    sha256: str


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
    """Reads a model file, with at most the file and one copy of its tensors in memory.

    Args:
        model_uri: The file; or its address by a registry, which says what must be found there.

    Raises:
        StorageError: The file is not there or cannot be read.
        ModelFileError: It is no model file, is damaged, is another one than its address says, or is of a newer
            format.
    """
    address = ModelAddress.parse(str(model_uri))
    data = read(model_uri)
    metadata, tensors = parse_safetensors(data, source=address.uri)
    sha256 = hashlib.sha256(data).hexdigest()
    del data
    loaded = _assemble(metadata, tensors, sha256, source=address.uri)
    if address.name is None or address.version is None:
        return loaded
    return replace(loaded, name=address.name, version=address.version)


def read(model_uri: str) -> bytes:
    """The bytes of a model file, checked where its address says which they are.

    Raises:
        StorageError: It cannot be read.
        ModelFileError: It is another file than its address says.
    """
    address = ModelAddress.parse(str(model_uri))
    data = storage.read_bytes(address.uri)
    address.check(data)
    return data


def is_model_file(model_uri: str) -> bool:
    """Whether the appliance has written the file as a model, by its header alone.

    Raises:
        StorageError: It cannot be read.
    """
    if not storage.is_remote(model_uri) and not storage.local_path(model_uri).is_file():
        return False  # reading a pipe would wait for somebody to write
    header_bytes = int.from_bytes(storage.read_bytes(model_uri, max_bytes=8), "little")
    if header_bytes > MAX_HEADER_BYTES:
        return False
    try:
        header = json.loads(storage.read_bytes(model_uri, max_bytes=8 + header_bytes)[8:])
        return METADATA_KEY in header["__metadata__"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def version_of(model_uri: str) -> str:
    """The version of the model that is in a file, whatever is in it.

    Raises:
        StorageError: It cannot be read.
    """
    return _version(storage.read_bytes(model_uri))


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
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelFileError(
            "Not a model file",
            where=source,
            got=f"{len(data):,} bytes beginning {data[:8]!r} ({_first_line(error)})",
            expected="a .safetensors file that the appliance has written",
            hint="Train one with `appliance train`",
        ) from None
    return dict(header.get("__metadata__") or {}), tensors


def _assemble(
    metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor], sha256: str, *, source: str
) -> LoadedModel:
    document = parse_metadata(metadata, source=source)
    try:
        spec = _spec(document.get("spec"))
        info = ModelInfo(
            _entry(document, "training", dict) or {},
            _entry(document, "metrics", dict) or {},
            _entry(document, "dataset_digest", str),
            _entry(document, "parent", str),
        )
        name = _entry(document, "name", str) or "model"
        # Nothing of the size that the spec asks for is allocated before the tensors have proved it.
        network = build_hollow_network(spec)
        _check_tensors(network, tensors)
        fill_network(network, tensors)
    except (ApplianceError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        # The last four are how torch and torchvision refuse a network that cannot be.
        raise ModelFileError(
            "The model file is damaged", where=source, got=_first_line(error)
        ) from None
    network.eval()
    printable = "".join(letter if letter.isprintable() else "?" for letter in name)
    return LoadedModel(network, spec, info, printable, sha256[:_VERSION_DIGITS], sha256)


def _entry(document: Mapping[str, Any], key: str, kind: type[_T]) -> _T | None:
    value = document.get(key)
    if value is not None and not isinstance(value, kind):
        raise ConfigError(
            f"{key} has the wrong type", got=type(value).__name__, expected=kind.__name__
        )
    return value


def _spec(values: object) -> ModelSpec:
    """The spec, after a look at the types: JSON has NaN, nested lists and numbers where texts belong."""
    if not isinstance(values, dict):
        raise ConfigError("There is no spec", got=type(values).__name__, expected="an object")
    labels = values.get("labels")
    if not isinstance(labels, list) or len(set(map(str, labels))) != len(labels):
        raise ConfigError("The labels are unusable", expected="a list of different names")
    for field_ in fields(ModelSpec):
        value, default = values.get(field_.name), field_.default
        if value is not None and not _is_like(value, default):
            raise ConfigError(
                "A model setting has the wrong type",
                where=field_.name,
                got=repr(value)[:40],
                expected=f"something like {default!r}",
            )
    return ModelSpec.from_json(values)


def _is_like(value: object, default: object) -> bool:
    match default:
        case bool() | str():
            return isinstance(value, type(default))
        case int():
            return type(value) is int and abs(value) < 2**31
        case float():
            return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
        case tuple():
            return (
                isinstance(value, list)
                and len(value) == len(default)
                and all(map(_is_like, value, default))
            )
    return True  # required, or None by default: ModelSpec itself decides


def _check_tensors(network: FasterRCNN, tensors: Mapping[str, torch.Tensor]) -> None:
    own = network.state_dict()
    kinds = {
        "missing": own.keys() - tensors.keys(),
        "unknown": tensors.keys() - own.keys(),
        "of another shape or type": {
            name
            for name in own.keys() & tensors.keys()
            if (own[name].shape, own[name].dtype) != (tensors[name].shape, tensors[name].dtype)
        },
    }
    wrong = [f"{len(names)} {kind} such as {min(names)}" for kind, names in kinds.items() if names]
    if wrong:
        raise ModelFileError("Its tensors do not fit its spec", got="; ".join(wrong))
    # A sum is finite only if every value is, and needs no memory for a mask.
    odd = [name for name, tensor in tensors.items() if not torch.isfinite(tensor.sum())]
    if odd:
        raise ModelFileError("Its tensors are not all finite", got=f"{len(odd)} such as {odd[0]}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_VERSION_DIGITS]
