"""torchvision's own weights: fetched once into its cache, read without running pickles, named as ours are.

Two things about its COCO weights are easily missed. Their files have names of 2019, which its modules
translate while they load. And its ResNet-50 was trained with a BatchNorm that adds nothing to the
variance, where every network built today adds 1e-5.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import torchvision
from torch import nn

from appliance.errors import StorageError

logger = logging.getLogger(__name__)

COCO_BACKBONES = {
    "mobilenet_v3_large": "fasterrcnn_mobilenet_v3_large_fpn",
    "resnet50": "fasterrcnn_resnet50_fpn",
}
"""Backbones that torchvision has trained on COCO, and the detector to take each from."""

_BACKGROUND = "__background__"
_NO_CLASS = "N/A"
_COUNTER = "num_batches_tracked"
_BODY_PREFIX = "backbone.body."
_NETWORK_EPS = 1e-5
"""What every BatchNorm of torchvision's detectors adds to the variance ..."""
_TRAINED_EPS = {"fasterrcnn_resnet50_fpn": 0.0}
"""... and what it added when the COCO weights were trained, where that is another value."""


def imagenet(backbone: str) -> dict[str, torch.Tensor]:
    """The state dict of torchvision's classifier, trained on ImageNet.

    Raises:
        StorageError: It is neither in torchvision's cache nor can it be downloaded, or it is damaged.
    """
    return _state_dict(torchvision.models.get_model_weights(backbone).DEFAULT)


def coco(architecture: str) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The weights of a torchvision detector for the 80 classes of COCO.

    COCO numbers its classes up to 90 and leaves out ten; the rows of the box predictor for these are left
    out here. Where torchvision gives them a probability of p in all, scores are larger than torchvision's
    by the factor 1 / (1 - p). No object ever was of these classes, so every step of training has lowered
    their logits, and p is next to nothing.

    Returns:
        Tensors for `build_network` of that architecture and these labels, and the labels, id 1 first.

    Raises:
        StorageError: As for `imagenet`.
    """
    entry = torchvision.models.get_model_weights(architecture).DEFAULT
    categories = list(entry.meta["categories"])
    tensors = _with_todays_names(architecture, _state_dict(entry), len(categories))
    norms = _norms(tensors)
    for name in norms:
        _move_eps(tensors, name, _TRAINED_EPS.get(architecture, _NETWORK_EPS), _NETWORK_EPS)
    rows = [row for row, name in enumerate(categories) if name != _NO_CLASS]
    _keep_classes(tensors, rows, len(categories))
    labels = tuple(categories[row] for row in rows if categories[row] != _BACKGROUND)
    return tensors, labels


def coco_for_classifier_body(backbone: str, body: nn.Module) -> dict[str, torch.Tensor]:
    """All COCO weights of a detector with that backbone, for a network whose backbone is `body`.

    Args:
        backbone: One of `COCO_BACKBONES`.
        body: Tells what each BatchNorm adds to the variance: torchvision's MobileNet v3 classifiers add
            1e-3 where its detectors add 1e-5.

    Raises:
        StorageError: As for `imagenet`.
    """
    tensors, _ = coco(COCO_BACKBONES[backbone])
    for name, module in body.named_modules():
        full_name = _BODY_PREFIX + name
        if isinstance(module, nn.BatchNorm2d) and f"{full_name}.running_var" in tensors:
            _move_eps(tensors, full_name, _NETWORK_EPS, module.eps)
    return tensors


def _with_todays_names(
    architecture: str, tensors: Mapping[str, torch.Tensor], num_classes: int
) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        network = torchvision.models.get_model(
            architecture, weights=None, weights_backbone=None, num_classes=num_classes
        )
    try:
        missing, unknown = network.load_state_dict(dict(tensors), strict=False, assign=True)
    except RuntimeError as error:
        raise _damaged(architecture, str(error).splitlines()[-1].strip()) from None
    missing = [name for name in missing if not name.endswith(_COUNTER)]
    if missing or unknown:
        odd = f"{len(missing)} tensors missing and {len(unknown)} unknown"
        raise _damaged(architecture, f"{odd}, such as {(missing + unknown)[0]}")
    return {name: tensor for name, tensor in network.state_dict().items() if not tensor.is_meta}


def _damaged(architecture: str, got: str) -> StorageError:
    entry = torchvision.models.get_model_weights(architecture).DEFAULT
    return StorageError(
        "The file in torchvision's cache does not hold the weights it is named after",
        where=_cached_path(entry),
        got=got,
        hint=f"Replace it by {entry.url}",
    )


def _norms(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    return [name.removesuffix(".running_var") for name in tensors if name.endswith(".running_var")]


def _move_eps(tensors: dict[str, torch.Tensor], norm: str, trained: float, now: float) -> None:
    """Rescales a BatchNorm's weight so that with another eps it computes what it was trained to."""
    if trained == now:
        return
    variance = tensors[f"{norm}.running_var"].double()
    scale = torch.sqrt((variance + now) / (variance + trained))
    weight = tensors[f"{norm}.weight"]
    # A channel without any variance is one that torchvision itself cannot compute.
    tensors[f"{norm}.weight"] = torch.where(
        variance + trained > 0, (weight * scale).to(weight.dtype), weight
    )


def _keep_classes(tensors: dict[str, torch.Tensor], rows: list[int], num_classes: int) -> None:
    for layer, values_per_class in (("cls_score", 1), ("bbox_pred", 4)):
        for kind in ("weight", "bias"):
            name = f"roi_heads.box_predictor.{layer}.{kind}"
            whole = tensors[name]
            per_class = whole.reshape(num_classes, values_per_class, *whole.shape[1:])
            tensors[name] = per_class[rows].reshape(-1, *whole.shape[1:])


def _state_dict(entry: Any) -> dict[str, torch.Tensor]:
    path = _cached_path(entry)
    was_cached = path.exists()
    if (
        not was_cached
    ):  # a warning, for it takes a while, and people whose program logs nothing wonder too
        megabytes = entry.meta.get("_file_size", 0)
        logger.warning("downloading %s (%.0f MB) to %s", entry.url, megabytes, path)
    try:
        # What torch says about a download belongs beside the results, not among them.
        with contextlib.redirect_stdout(sys.stderr):
            tensors = entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, pickle.PickleError) as error:
        got = (str(error).splitlines() or [type(error).__name__])[0]
        if was_cached:
            raise StorageError(
                "The file in torchvision's cache is damaged or no file of weights",
                where=path,
                got=got,
                hint=f"Replace it by {entry.url}",
            ) from None
        raise StorageError(
            f"Cannot download the weights {entry}",
            got=got,
            hint=f"Fetch {entry.url} on another machine and put it at {path}",
        ) from None
    _check_hash(path)
    if not isinstance(tensors, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in tensors.values()
    ):
        raise StorageError(
            "The file in torchvision's cache is no file of weights",
            where=path,
            hint=f"Replace it by {entry.url}",
        )
    return dict(tensors)


def _check_hash(path: Path) -> None:
    """Says when a file is not the one its name promises; torch looks only at what it has fetched itself."""
    promised = re.search(r"-([0-9a-f]{8,})\.", path.name)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if promised and not digest.startswith(promised[1]):
        logger.warning(
            "%s is not the original: its SHA-256 begins %s, not %s. It is used as it is.",
            path,
            digest[: len(promised[1])],
            promised[1],
        )


def _cached_path(entry: Any) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(entry.url).path).name
