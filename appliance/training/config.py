"""How a model is trained: one frozen value, the same for flags, YAML and Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from appliance.errors import ConfigError

Optimizer = Literal["sgd", "adamw"]
Precision = Literal["auto", "float32", "bfloat16"]

AUGMENTATION_SETTINGS = (
    "flip",
    "flip_vertical",
    "scale_jitter",
    "crop",
    "crop_smallest",
    "rotate_degrees",
    "min_visible",
    "colour_jitter",
    "hue_jitter",
    "blur",
    "mosaic",
)


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one training run; every default can stay.

    Attributes:
        steps: Optimizer steps; None takes 30 a picture and batch, see `resolved`.
        batch_size: Pictures a step over all workers.
        learning_rate: Peak of the one-cycle schedule, for `batch_size` pictures a step.
        learning_rate_stages: Instead of one cycle: `learning_rate` up to the first step named, then the
            rate beside it, and so on: ((step1, learning_rate1), (step2, learning_rate2), ...).
        warmup_fraction: Share of the steps in which the rate climbs to its peak, 0..1.
        optimizer: "sgd" or "adamw".
        momentum: Of SGD; the first beta of AdamW.
        weight_decay: On weights of convolutions and linear layers only.
        clip_gradient_norm: Gradients are scaled down to at most this norm.
        regions_per_image: Proposals of a picture that the box head learns from in a step; None leaves
            the architecture's number.
        train_batch_norm: Whether BatchNorm learns its statistics (from random weights it must; with
            few pictures a step and good starting weights it must not). None decides by the weights.
        frozen_stages: First stages of the backbone that stay as they are, 0 to 3; None freezes one where
            the starting weights are pretrained (compact architecture only).
        flip: Probability of a horizontal flip, 0..1.
        flip_vertical: Probability of a vertical flip, 0..1; for pictures without an up and down.
        scale_jitter: The picture is scaled by a factor in [1 - this, 1 + this].
        crop: Probability of taking a part of the picture that holds one of its objects whole, 0..1.
        crop_smallest: Sides of the smallest such part as a share of the picture's, 0..1.
        rotate_degrees: The picture is turned by an angle in [-this, this], at most 45; boxes become
            those around the turned ones, which fit worse the larger the angle.
        min_visible: An object of which a smaller share than this is left in the picture is not learnt.
        colour_jitter: Strength of brightness, contrast and saturation changes, 0..1.
        hue_jitter: The hue moves by at most this share of the colour circle, 0..0.5.
        blur: Probability of a slight blur, 0..1.
        mosaic: Probability of a sample made of this picture and three others, 0..1.
        seed: Of weights, order and augmentation; equal seeds give equal runs on one machine.
        precision: "bfloat16" computes the convolutions in bfloat16; "auto" does so where the machine
            has units for it (GPU, or a CPU with AMX), "float32" never.
        checkpoint_every_steps: Steps between checkpoints; 0 keeps only the last.
        cache_mb: Memory for decoded pictures, per worker, in MiB.
    """

    steps: int | None = None
    batch_size: int = 4
    learning_rate: float = 0.02
    learning_rate_stages: tuple[tuple[int, float], ...] = ()
    warmup_fraction: float = 0.1
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip_gradient_norm: float = 10.0
    regions_per_image: int | None = None
    train_batch_norm: bool | None = None
    frozen_stages: int | None = None
    flip: float = 0.5
    flip_vertical: float = 0.0
    scale_jitter: float = 0.2
    crop: float = 0.0
    crop_smallest: float = 0.5
    rotate_degrees: float = 0.0
    min_visible: float = 0.4
    colour_jitter: float = 0.3
    hue_jitter: float = 0.0
    blur: float = 0.0
    mosaic: float = 0.0
    seed: int = 0
    precision: Precision = "auto"
    checkpoint_every_steps: int = 100
    cache_mb: int = 1024

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps", "regions_per_image"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(
                    f"{name} is out of range", got=getattr(self, name), expected=">= 1"
                )
        for name in ("learning_rate", "clip_gradient_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(
                    f"{name} is out of range", got=getattr(self, name), expected="> 0"
                )
        for name in ("warmup_fraction", "momentum", "scale_jitter", "colour_jitter"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} is out of range", got=getattr(self, name), expected="0..1"
                )
        for name, highest in (
            *((name, 1) for name in ("flip", "flip_vertical", "crop", "blur", "mosaic")),
            ("min_visible", 1),
            ("hue_jitter", 0.5),
            ("rotate_degrees", 45),
        ):
            if not 0 <= getattr(self, name) <= highest:
                raise ConfigError(
                    f"{name} is out of range", got=getattr(self, name), expected=f"0..{highest}"
                )
        if self.seed < 0:
            raise ConfigError("seed is out of range", got=self.seed, expected="at least 0")
        if not 0 < self.crop_smallest <= 1:
            raise ConfigError(
                "crop_smallest is out of range",
                got=self.crop_smallest,
                expected="above 0, at most 1",
            )
        starts = [step for step, _ in self.learning_rate_stages]
        if starts != sorted(set(starts)) or any(rate <= 0 for _, rate in self.learning_rate_stages):
            raise ConfigError(
                "The learning rate stages are wrong",
                got=self.learning_rate_stages,
                expected="ascending steps, each with a rate above 0",
            )
        if self.frozen_stages not in (None, 0, 1, 2, 3):
            raise ConfigError(
                "frozen_stages is out of range", got=self.frozen_stages, expected="0, 1, 2 or 3"
            )
        for name in ("weight_decay", "checkpoint_every_steps", "cache_mb"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"{name} is out of range", got=getattr(self, name), expected=">= 0"
                )
        if self.optimizer not in ("sgd", "adamw"):
            raise ConfigError("Unknown optimizer", got=self.optimizer, expected="sgd or adamw")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ConfigError(
                "Unknown precision", got=self.precision, expected="auto, float32 or bfloat16"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the model file and the checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Reads `to_json` back; JSON has turned the stages into lists."""
        stages = tuple((int(step), float(rate)) for step, rate in values["learning_rate_stages"])
        return cls(**{**values, "learning_rate_stages": stages})
