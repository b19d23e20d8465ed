"""How a model is trained: one frozen value, the same for flags, YAML and Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from appliance.errors import ConfigError
from appliance.model.spec import plain_number

Optimizer = Literal["sgd", "adamw"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Schedule = Literal["cosine", "one_cycle", "constant"]
RateScaling = Literal["none", "linear", "sqrt"]
ValidationMetric = Literal["map_50", "coco_ap"]

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

_COUNT = "at least 1"
# Single precision, in which optimizers count, ends at 3e38.
_HIGHEST_RATE = 1e30
_RATE = f"above 0, at most {_HIGHEST_RATE:g}"
# Settings, what they must satisfy (NaN never does), and how that is said. None is none of these.
_RANGES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("steps epochs batch_size accumulation_steps learning_rate_batch", lambda v: v >= 1, _COUNT),
    ("regions_per_image keep_checkpoints", lambda v: v >= 1, _COUNT),
    ("learning_rate", lambda v: 0 < v <= _HIGHEST_RATE, _RATE),
    ("clip_gradient_norm", lambda v: 0 < v < math.inf, "above 0"),
    (
        "warmup_fraction momentum scale_jitter colour_jitter ema_decay",
        lambda v: 0 <= v < 1,
        "0..1, below 1",
    ),
    ("flip flip_vertical crop blur mosaic min_visible", lambda v: 0 <= v <= 1, "0..1"),
    ("hue_jitter", lambda v: 0 <= v <= 0.5, "0..0.5"),
    ("rotate_degrees", lambda v: 0 <= v <= 45, "0..45"),
    ("crop_smallest", lambda v: 0 < v <= 1, "above 0, at most 1"),
    ("frozen_stages", lambda v: v in (0, 1, 2, 3), "0, 1, 2 or 3"),
    ("seed weight_decay cache_mb", lambda v: 0 <= v < math.inf, "at least 0"),
    ("skip_bad_batches loader_workers patience", lambda v: v >= 0, "at least 0"),
    ("checkpoint_every_steps validate_every_steps", lambda v: v >= 0, "at least 0"),
)
_WORDS: dict[str, tuple[str, ...]] = {
    "optimizer": get_args(Optimizer),
    "precision": get_args(Precision),
    "schedule": get_args(Schedule),
    "learning_rate_scaling": get_args(RateScaling),
    "validation_metric": get_args(ValidationMetric),
}


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one training run; every default can stay.

    Attributes:
        steps: Optimizer steps; None takes 30 a picture and batch, see `plan_training`.
        epochs: Passes over the data, instead of `steps`; `plan_training` turns it into steps.
        batch_size: Pictures a step over all workers and all parts of `accumulation_steps`.
        accumulation_steps: Parts in which every worker computes its pictures of a step, one after the
            other, where they do not fit into memory together; see `training.step` for what is equal.
        learning_rate: Peak of the schedule.
        schedule: How the rate goes from step to step, see `training.schedule`: "cosine" climbs in a line
            and falls in half a cosine to a hundredth, "one_cycle" is that of Smith as torch has it,
            "constant" climbs and stays.
        learning_rate_stages: Instead of a schedule: `learning_rate` up to the first step named, then the
            rate beside it, and so on: ((step1, learning_rate1), (step2, learning_rate2), ...).
        learning_rate_scaling: "linear" multiplies every rate by `batch_size / learning_rate_batch`, "sqrt"
            by its square root.
        learning_rate_batch: Pictures a step that the rate was chosen for; needed for scaling.
        warmup_fraction: Share of the steps in which the rate climbs to its peak, 0..1.
        optimizer: "sgd" or "adamw".
        momentum: Of SGD; the first beta of AdamW.
        weight_decay: On weights of convolutions and linear layers only.
        clip_gradient_norm: Gradients are scaled down to at most this norm.
        ema_decay: Share of the average that stays at every step when weights are averaged over the steps
            (fewer in the first ones, see `training.averaging`), 0..1; None averages nothing. The
            average is what is validated and kept as the model.
        skip_bad_batches: How often in a run a step whose loss is not finite is left out; the next one
            stops it.
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
        precision: "bfloat16" computes the convolutions in bfloat16; "float16" in float16 with a scaled
            loss, on a GPU only; "auto" takes bfloat16 where the machine has units for it (GPU, or a CPU
            with AMX), "float32" neither.
        bucket_by_size: Pictures of like input size come in the same batch, so that less is padded.
        loader_workers: Processes of each worker that decode and augment ahead of the step; 0 does it in
            a thread.
        cache_mb: Memory for decoded pictures, per worker with all its loader processes, in MiB.
        checkpoint_every_steps: Steps between checkpoints; 0 keeps only the last.
        keep_checkpoints: How many of the last checkpoints are kept; the best one besides.
        validate_every_steps: Steps between validations; 0 validates after the last step only.
        validation_metric: What decides which step was the best: "map_50" or "coco_ap".
        patience: Validations in a row without a better one after which training stops; 0 never stops it.
    """

    steps: int | None = None
    epochs: int | None = None
    batch_size: int = 4
    accumulation_steps: int = 1
    learning_rate: float = 0.02
    schedule: Schedule = "cosine"
    learning_rate_stages: tuple[tuple[int, float], ...] = ()
    learning_rate_scaling: RateScaling = "none"
    learning_rate_batch: int | None = None
    warmup_fraction: float = 0.1
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip_gradient_norm: float = 10.0
    ema_decay: float | None = None
    skip_bad_batches: int = 0
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
    bucket_by_size: bool = False
    loader_workers: int = 0
    cache_mb: int = 1024
    checkpoint_every_steps: int = 100
    keep_checkpoints: int = 2
    validate_every_steps: int = 0
    validation_metric: ValidationMetric = "map_50"
    patience: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            kind, value = str(field.type).split()[0], getattr(self, field.name)
            if value is not None and kind in ("int", "float"):
                number = plain_number(field.name, value, whole=kind == "int")
                object.__setattr__(self, field.name, number)
        for names, fits, expected in _RANGES:
            for name in names.split():
                value = getattr(self, name)
                if value is not None and not fits(value):
                    raise ConfigError(f"{name} is out of range", got=value, expected=expected)
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise ConfigError(
                    f"Unknown {name}",
                    got=getattr(self, name),
                    expected=f"one of {', '.join(words)}",
                )
        if self.steps is not None and self.epochs is not None:
            raise ConfigError(
                "steps and epochs are both given",
                got=f"steps {self.steps} and epochs {self.epochs}",
                expected="one of them",
            )
        starts = [step for step, _ in self.learning_rate_stages]
        rates = [rate for _, rate in self.learning_rate_stages]
        is_ascending = starts == sorted(set(starts)) and all(start >= 0 for start in starts)
        if not is_ascending or not all(0 < rate <= _HIGHEST_RATE for rate in rates):
            raise ConfigError(
                "The learning rate stages are wrong",
                got=self.learning_rate_stages,
                expected=f"ascending steps from 0 on, each with a rate {_RATE}",
            )
        if self.learning_rate_scaling != "none" and self.learning_rate_batch is None:
            raise ConfigError(
                "learning_rate_scaling does not know what to scale from",
                got="no learning_rate_batch",
                expected="the batch size that learning_rate was chosen for",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the model file and the checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Reads `to_json` back; JSON has turned the stages into lists."""
        stages = tuple((int(step), float(rate)) for step, rate in values["learning_rate_stages"])
        return cls(**{**values, "learning_rate_stages": stages})
