"""Starting weights: where they come from, what of them fits, and what did not."""

from __future__ import annotations

import difflib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torchvision.models.detection import FasterRCNN

from appliance import storage
from appliance.errors import ConfigError, ModelFileError
from appliance.labels import LabelMap
from appliance.model import model_file, torchvision_weights
from appliance.model.faster_rcnn import extract_body
from appliance.model.file_header import METADATA_KEY
from appliance.model.spec import COMPACT, COMPACT_BACKBONES, ModelSpec, backbone_of

logger = logging.getLogger(__name__)

NAMED_WEIGHTS = ("none", "imagenet", "coco")
_BODY_PREFIX = "backbone.body."
_BOX_PREDICTOR_PREFIX = "roi_heads.box_predictor."
_CLASSIFIER_PREFIXES = ("fc.", "classifier.")
_COUNTER = "num_batches_tracked"
"""Frozen BatchNorm, as torchvision trains with, has no such counter, and nothing depends on it."""


@dataclass(frozen=True, eq=False)
class StartingWeights:
    """Tensors to begin with, named as in a detector's state dict where they have a place in one.

    Attributes:
        tensors: Empty when training starts from random weights.
        source: "none", "imagenet", "coco" or the URI of a file.
        parent_spec: The spec of the model file they came from, if they did.
        backbone: The torchvision name of the backbone they fit, if known.
        labels: The classes they can tell apart, if they have a box predictor.
    """

    tensors: Mapping[str, torch.Tensor]
    source: str
    parent_spec: ModelSpec | None = None
    backbone: str | None = None
    labels: tuple[str, ...] | None = None

    @property
    def are_pretrained(self) -> bool:
        """Whether there is anything to start from."""
        return bool(self.tensors)


@dataclass(frozen=True)
class WeightsFit:
    """What became of starting weights in one network. All lists are names of tensors.

    Attributes:
        source: Where the weights came from.
        taken: Have a place of their shape.
        missing: The network's that the weights do not have; they stay random.
        misshapen: Both have them, in another shape or for other classes; they stay random.
        unused: The weights' that the network has no place for.
    """

    source: str
    taken: tuple[str, ...]
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def left_random(self) -> list[str]:
        """The network's tensors that the weights say nothing of."""
        return [*self.missing, *self.misshapen]

    def __str__(self) -> str:
        """One sentence for the user, by parts of the network rather than by tensors."""
        total = len(self.taken) + len(self.left_random)
        parts = [f"{self.source}: {len(self.taken)} of the network's {total} tensors taken"]
        for reason, names in (
            ("left random because the weights lack them", self.missing),
            (
                "left random because those of the weights are of another shape or for other classes",
                self.misshapen,
            ),
            ("of the weights not used", self.unused),
        ):
            if names:
                parts.append(f"{len(names)} {reason} ({_by_part(names)})")
        return "; ".join(parts)


def check_init(init: str) -> None:
    """Refuses a word that names no starting weights, before anything is read.

    Raises:
        ConfigError: It is neither one of the names nor a file.
    """
    if init in NAMED_WEIGHTS or (init and storage.local_path(init).exists()):
        return
    if not re.fullmatch(r"\w*", init):
        return  # a path: that nothing is there is told where it is read
    near = difflib.get_close_matches(init, NAMED_WEIGHTS, n=1)
    raise ConfigError(
        "There are no such starting weights",
        got=repr(init),
        expected=f"{', '.join(NAMED_WEIGHTS)}, or a file",
        hint=f"Did you mean {near[0]}" if near else None,
    )


def read_starting_weights(
    init: str, architecture: str = COMPACT, backbone: str | None = None
) -> StartingWeights:
    """Finds starting weights by name or URI.

    Args:
        init: "none", "imagenet" or "coco" (torchvision's own, downloaded once), or the URI of a model
            file or of a torchvision backbone's state dict, as safetensors.
        architecture: Which network they are for.
        backbone: Which backbone they are for, with the compact architecture. None takes resnet18 for
            "imagenet" and for "coco" mobilenet_v3_large, the smaller of the two that have been trained
            on COCO.

    Raises:
        ConfigError: There are no such weights for this architecture.
        StorageError: The file cannot be read, or torchvision's cannot be downloaded.
        ModelFileError: The file is of neither kind.
    """
    check_init(init)
    if init == "none":
        return StartingWeights({}, "none")
    if init == "imagenet":
        name = backbone_of(architecture, backbone or "resnet18")
        tensors = torchvision_weights.imagenet(name)
        return StartingWeights(_as_body(tensors), init, None, name)
    if init == "coco":
        return _coco(architecture, backbone)
    metadata, tensors = model_file.parse_safetensors(model_file.read(init), source=init)
    if METADATA_KEY in metadata:
        loaded = model_file.load(init)
        spec = loaded.spec
        return StartingWeights(
            loaded.network.state_dict(), init, spec, spec.backbone, labels=spec.labels
        )
    own = None if architecture == COMPACT else backbone_of(architecture, None)
    candidates = [name for name in (own or backbone,) if name] or COMPACT_BACKBONES
    for name in candidates:
        if _fits_backbone(tensors, name):
            return StartingWeights(_as_body(tensors), init, None, name)
    raise ModelFileError(
        "Not starting weights",
        where=init,
        got=f"{len(tensors)} tensors such as {next(iter(tensors), 'none')!r}",
        expected=f"a model file, or the state dict of {' or '.join(candidates)}",
    )


def spec_for(
    labels: LabelMap, weights: StartingWeights, architecture: str = COMPACT, **settings: object
) -> ModelSpec:
    """The spec of a new model that starts from `weights`: theirs where they carry one.

    Of `settings`, those that are None are left to the weights or the architecture. A model file of
    another architecture than the one asked for gives its weights, not its spec.
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    parent = weights.parent_spec
    if parent is not None and architecture in (COMPACT, parent.architecture):
        return parent.with_settings(labels=labels.names, **settings)
    if weights.backbone is not None and architecture == COMPACT:
        settings = {"backbone": weights.backbone, **settings}
    return ModelSpec.of(labels, architecture, **settings)


def apply_weights(
    network: FasterRCNN, weights: StartingWeights, labels: Iterable[str] | None = None
) -> WeightsFit:
    """Copies what fits by name and shape into the network, and says what did not.

    Args:
        network: Changed in place.
        weights: What to begin with.
        labels: The network's classes. The box predictor of other ones does not fit, even where their
            number is the same, and is trained anew. None takes any of the right shape.

    Raises:
        ModelFileError: Nothing at all fits: the weights are of another kind of network.
    """
    own = network.state_dict()
    given = weights.tensors
    other_classes = labels is not None and weights.labels not in (None, tuple(labels))
    fitting = {
        name: tensor
        for name, tensor in given.items()
        if name in own
        and own[name].shape == tensor.shape
        and not (other_classes and name.startswith(_BOX_PREDICTOR_PREFIX))
    }
    fit = WeightsFit(
        weights.source,
        taken=_without_counters(fitting),
        missing=_without_counters(own.keys() - given.keys()),
        misshapen=_without_counters(own.keys() & given.keys() - fitting.keys()),
        unused=_without_counters(given.keys() - own.keys()),
    )
    if weights.are_pretrained:
        if not fit.taken:
            raise ModelFileError(
                "The starting weights fit nowhere in the network",
                where=weights.source,
                got=_by_part(given),
                expected=_by_part(own),
                hint="Choose the architecture and backbone that they were made for",
            )
        logger.info("%s", fit)
    network.load_state_dict(fitting, strict=False)
    return fit


def _coco(architecture: str, backbone: str | None) -> StartingWeights:
    if architecture != COMPACT:
        tensors, labels = torchvision_weights.coco(architecture)
        return StartingWeights(tensors, "coco", labels=labels)
    backbone = backbone or "mobilenet_v3_large"
    if backbone not in torchvision_weights.COCO_BACKBONES:
        raise ConfigError(
            f"There are no COCO weights for the backbone {backbone}",
            got="init coco",
            expected=f"a backbone among {', '.join(torchvision_weights.COCO_BACKBONES)}",
            hint="Start from imagenet or from a file, or choose another backbone",
        )
    # The pyramid and the heads of the compact network have shapes of their own; that they did not fit
    # will be said.
    body = torchvision_weights.coco_for_classifier_body(backbone, extract_body(backbone)[0])
    return StartingWeights(body, "coco", None, backbone)


def _fits_backbone(tensors: Mapping[str, torch.Tensor], backbone: str) -> bool:
    with torch.device("meta"):
        body, _ = extract_body(backbone)
    own = {
        _BODY_PREFIX + name: value.shape
        for name, value in body.state_dict().items()
        if not name.startswith(_CLASSIFIER_PREFIXES) and not name.endswith(_COUNTER)
    }
    given = _as_body(tensors)
    return all(name in given and given[name].shape == shape for name, shape in own.items())


def _as_body(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A classifier's tensors under the names they have in a detector; its last layers keep their own."""
    return {
        name
        if name.startswith(_CLASSIFIER_PREFIXES)
        else _BODY_PREFIX + name.removeprefix("features."): tensor
        for name, tensor in tensors.items()
    }


def _without_counters(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in names if not name.endswith(_COUNTER)))


def _by_part(names: Iterable[str]) -> str:
    """`backbone.fpn 12, rpn.head 6`: how many tensors of which part, the first few parts."""
    parts = Counter(".".join(name.split(".")[:2]) for name in sorted(names))
    shown = [f"{part} {count}" for part, count in list(parts.items())[:6]]
    return ", ".join(shown + ["..."] * (len(parts) > 6))
