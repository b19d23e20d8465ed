"""What the data, the starting weights and the machine say about a run, each with its reason.

A wish of the user always stands. What is decided here is shown before training starts and kept in
`plan.json`; that nothing had to be changed is a decision too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch

from appliance.annotations.annotated_image import AnnotatedImage
from appliance.model.spec import COMPACT, ModelSpec
from appliance.training import memory
from appliance.training.anchors import SMALL_OBJECT_PX, Objects, propose_anchors, propose_sides
from appliance.training.config import TrainingConfig

PASSES = 30
"""Passes over up to `FEW_IMAGES` pictures; fewer over more, down to `LEAST_PASSES`, COCO's usual dozen."""
FEW_IMAGES = 1000
LEAST_PASSES = 12
VALIDATIONS = 10
_MIB = 2**20


@dataclass(frozen=True)
class Decision:
    """One thing decided.

    Attributes:
        name: What it is about.
        value: What was decided, as text.
        reason: Why, as a part of a sentence.
    """

    name: str
    value: str
    reason: str


def passes_for(images: int) -> float:
    """How often a run sees each of so many pictures."""
    return max(LEAST_PASSES, PASSES * min(1.0, math.sqrt(FEW_IMAGES / images)))


def decide_steps(config: TrainingConfig, images: int) -> tuple[TrainingConfig, Decision]:
    """The length of the run in steps: as wished in steps or epochs, or from the number of pictures."""
    if config.steps is not None:
        return config, Decision("steps", f"{config.steps:,}", "as given")
    passes = config.epochs or passes_for(images)
    steps = max(1, math.ceil(passes * images / config.batch_size))
    reason = f"{passes:.3g} passes over {images:,} pictures"
    return (
        replace(config, steps=steps, epochs=None),
        Decision("steps", f"{steps:,}", reason + (" as given" if config.epochs else "")),
    )


def decide_batch(
    config: TrainingConfig, open_settings: Collection[str], workers: int
) -> tuple[TrainingConfig, Decision]:
    """A batch that every worker has a picture of, where the user has not given one."""
    if "batch_size" in open_settings and config.batch_size % workers:
        config = replace(config, batch_size=config.batch_size * workers)
        reason = f"the recipe's for each of {workers} workers"
    else:
        reason = "the recipe's" if "batch_size" in open_settings else "as given"
    return config, Decision("batch size", str(config.batch_size), reason)


def decide_sides(
    spec: ModelSpec,
    images: Sequence[AnnotatedImage],
    *,
    given: Collection[str],
    inherited: bool,
) -> tuple[ModelSpec, Decision]:
    """The size at which pictures enter the network: larger for small objects."""
    reason = "the standard size: the objects are large enough in it"
    if {"shorter_side_px", "longer_side_px"} & set(given):
        reason = "as given"
    elif inherited:
        reason = "that of the starting weights"
    elif spec.architecture != COMPACT:
        reason = "the architecture's"
    elif not images:
        reason = "the standard size"
    elif (sides := propose_sides(images, spec)) is not None:
        spec = spec.with_settings(shorter_side_px=sides[0], longer_side_px=sides[1])
        reason = f"small objects would be less than {SMALL_OBJECT_PX:.0f} pixels large in the standard size"
    value = f"shorter side {spec.shorter_side_px}, longer at most {spec.longer_side_px}"
    return spec, Decision("input size, pixels", value, reason)


def decide_anchors(
    spec: ModelSpec,
    images: Sequence[AnnotatedImage],
    *,
    given: Collection[str],
    inherited: bool,
) -> tuple[ModelSpec, Decision]:
    """The anchors: the standard ones unless those made from the data are clearly better."""
    if spec.architecture != COMPACT:
        return spec, Decision("anchors", "torchvision's", "the architecture's")
    proposal = propose_anchors(Objects.of(images, spec), spec)
    if proposal is None:
        reason = "the standard ones"
    else:
        reason = (
            f"mean best IoU with the objects {proposal.iou_before:.2f}; k-means proposes "
            f"{_anchors(proposal.sizes_px, proposal.ratios)} with {proposal.iou_after:.2f}"
        )
        if {"anchor_sizes_px", "anchor_ratios"} & set(given):
            reason = f"as given: {reason}"
        elif inherited:
            reason = f"those of the starting weights: {reason}"
        elif proposal.are_clearly_better:
            reason = (
                f"mean best IoU with the objects {proposal.iou_before:.2f} -> "
                f"{proposal.iou_after:.2f}, by k-means"
            )
            spec = spec.with_settings(
                anchor_sizes_px=proposal.sizes_px, anchor_ratios=proposal.ratios
            )
        else:
            reason = f"good enough: {reason}"
    return spec, Decision("anchors", _anchors(spec.anchor_sizes_px, spec.anchor_ratios), reason)


def decide_parts(
    spec: ModelSpec,
    config: TrainingConfig,
    images: Sequence[AnnotatedImage],
    *,
    open_settings: Collection[str],
    device: torch.device,
    workers: int,
) -> tuple[TrainingConfig, Decision]:
    """Splits the batch into parts that fit into memory one after the other, where it does not as a whole."""
    sizes_hw = [spec.resized_hw(image.size_hw) for image in images]
    largest_hw = max(sizes_hw, key=math.prod, default=(spec.shorter_side_px, spec.longer_side_px))
    need = memory.estimate(spec, config, largest_hw)
    usable = memory.usable_bytes(device, workers)
    each = max(1, config.batch_size // workers)
    reason = "memory of the machine unknown"
    if usable is not None:
        fitting = need.most_pictures(usable)
        wanted = math.ceil(each / max(1, fitting))
        if wanted > config.accumulation_steps and "accumulation_steps" in open_settings:
            config = replace(config, accumulation_steps=min(wanted, each))
        at_once = math.ceil(each / config.accumulation_steps)
        parts = f" in {config.accumulation_steps} parts" if config.accumulation_steps > 1 else ""
        reason = f"{at_once} at once{parts}; usable are {usable // _MIB:,} MiB"
        if at_once > fitting:
            reason += ": it will hardly fit, take a smaller --shorter-side"
    at_once = math.ceil(each / config.accumulation_steps)
    value = f"about {need.of_batch(at_once) // _MIB:,} MiB a worker"
    return config, Decision("memory", value, reason)


def decide_validation(
    config: TrainingConfig, validation_images: int, open_settings: Collection[str]
) -> tuple[TrainingConfig, Decision]:
    """About ten validations a run, where there is something to validate on."""
    if not validation_images:
        nothing = ", so that patience stops nothing" if config.patience else ""
        return config, Decision("validation", "none", f"no validation data{nothing}")
    reason = "as given"
    if "validate_every_steps" in open_settings and config.steps:
        config = replace(config, validate_every_steps=math.ceil(config.steps / VALIDATIONS))
        reason = f"about {VALIDATIONS} times a run"
    every = config.validate_every_steps
    value = f"every {every:,} steps" if every else "after the last step"
    patience = f", stops after {config.patience} without a better one" if config.patience else ""
    return config, Decision(
        "validation", value, f"{reason}, on {validation_images:,} pictures{patience}"
    )


def describe_recipe(
    config: TrainingConfig, open_settings: Collection[str], *, pretrained: bool
) -> list[Decision]:
    """What the recipe or the wishes say of optimizer and learning rate."""
    recipe = f"the recipe for {'pretrained' if pretrained else 'random'} weights"
    rates = (
        f"{config.learning_rate:g}, then in stages"
        if config.learning_rate_stages
        else f"{config.learning_rate:g}, {config.schedule}"
    )
    return [
        Decision(
            "optimizer", config.optimizer, recipe if "optimizer" in open_settings else "as given"
        ),
        Decision(
            "learning rate", rates, recipe if "learning_rate" in open_settings else "as given"
        ),
    ]


def _anchors(sizes_px: tuple[int, ...], ratios: tuple[float, ...]) -> str:
    sizes = ", ".join(str(size) for size in sizes_px)
    return f"{sizes} pixels x {', '.join(f'{ratio:g}' for ratio in ratios)}"
