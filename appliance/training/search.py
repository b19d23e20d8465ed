"""What a search for settings tries, and what it found; `on_ray.tuning` does the searching."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from appliance import storage
from appliance.config import load_yaml
from appliance.errors import ConfigError
from appliance.model.spec import ModelSpec
from appliance.training.config import TrainingConfig

Scale = Literal["linear", "log"]

FORMS = "NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B,C"
# Trials are compared step by step, on the same figures, and the search has a seed of its own.
_FIXED = ("steps", "epochs", "validate_every_steps", "validation_metric", "seed", "labels")


@dataclass(frozen=True)
class SearchRange:
    """The values of one setting that may be tried.

    Attributes:
        name: A field of `TrainingConfig` or `ModelSpec`.
        choices: The values, if they are few; else they lie between `low` and `high`.
        low: Smallest value.
        high: Largest value, tried too where they are whole numbers.
        scale: "log" tries as many values between 1 and 10 as between 10 and 100.
        whole: Whether only whole numbers will do.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    scale: Scale = "linear"
    whole: bool = False

    @classmethod
    def parse(cls, text: str) -> SearchRange:
        """Reads "learning_rate=1e-4:1e-2:log" or "optimizer=sgd,adamw".

        Raises:
            ConfigError: It is neither, or there is no such setting to search for.
        """
        import yaml

        name, mark, values = (part.strip() for part in text.partition("="))
        name = name.replace("-", "_")
        wrong = ConfigError("Not a range to search", got=repr(text), expected=FORMS)
        if not mark or not values:
            raise wrong
        _check_name(name)
        parts = values.split(":")
        if len(parts) == 1:
            try:
                found = yaml.safe_load(f"[{values}]")
            except yaml.YAMLError:
                raise wrong from None
            choices = tuple(_number(value) for value in found)
            if all(choice == choices[0] for choice in choices):
                raise ConfigError(
                    "One value leaves nothing to search",
                    got=repr(text),
                    expected=FORMS,
                    hint=f"Give several, or fix it with --set {name}={values}",
                )
            return cls(name, choices)
        try:
            low, high = float(parts[0]), float(parts[1])
        except ValueError:
            raise wrong from None
        scale: Scale = "log" if parts[2:] == ["log"] else "linear"
        if parts[2:] not in ([], ["log"], ["linear"]):
            raise wrong
        if not (math.isfinite(low) and math.isfinite(high)) or low >= high:
            raise ConfigError("The range is empty", got=repr(text), expected="LOW below HIGH")
        if scale == "log" and low <= 0:
            raise ConfigError("A range on a log scale begins above 0", got=repr(text))
        return cls(name, (), low, high, scale, whole=_is_whole(name))

    def ends(self) -> tuple[Any, ...]:
        """Values that must be allowed if all of them are to be: the choices, or both ends."""
        if self.choices:
            return self.choices
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Whether a value is one of those tried."""
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Trial:
    """One set of values and how far it came.

    Attributes:
        number: From 1, in the order of their start.
        values: Setting -> value.
        step: Steps done; fewer than all where others were clearly better.
        best: Best value of the validation metric; None where it failed before the first validation.
        best_step: The step of it.
        seconds: It took.
        error: Why it failed, if it did.
    """

    number: int
    values: Mapping[str, Any]
    step: int
    best: float | None
    best_step: int | None
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        metric: What was compared: "map_50" or "coco_ap".
        steps: Of a whole trial.
        trials: The best first, failed ones last.
    """

    metric: str
    steps: int
    trials: tuple[Trial, ...]

    @classmethod
    def of(cls, metric: str, steps: int, trials: Sequence[Trial]) -> SearchResult:
        """Ranks trials: by their best value; of equal ones that first which came first."""
        worst = -math.inf
        ranked = sorted(
            trials, key=lambda trial: (-(worst if trial.best is None else trial.best), trial.number)
        )
        return cls(metric, steps, tuple(ranked))

    @property
    def best(self) -> Trial:
        """The best trial."""
        return self.trials[0]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def settings_document(best: Trial, wished: Mapping[str, Any], *, metric: str, command: str) -> str:
    """YAML that `appliance train --config` takes: what was wished, and the best values found.

    Args:
        best: The best trial.
        wished: Settings that all trials had in common by wish.
        metric: What was compared.
        command: How to train with it, for the comment on top.
    """
    import yaml

    comment = f"# {metric} {best.best:.4f} in trial {best.number}. {command}\n"
    return comment + "".join(
        # A line for each; None puts brackets around lists alone.
        yaml.safe_dump(
            {name: value}, default_flow_style=None if isinstance(value, list | tuple) else False
        )
        for name, value in sorted({**wished, **best.values}.items())
    )


def is_settings_document(uri: str) -> bool:
    """Whether a file holds settings of training or of a network, and nothing else.

    Raises:
        StorageError: It cannot be read.
    """
    if not storage.is_remote(uri) and not storage.local_path(uri).is_file():
        return False  # reading a pipe would wait for somebody to write
    try:
        return load_yaml(uri).keys() <= _known_settings()
    except ConfigError:
        return False


def _known_settings() -> set[str]:
    return {field.name for cls in (TrainingConfig, ModelSpec) for field in fields(cls)}


def _check_name(name: str) -> None:
    known = sorted(_known_settings() - set(_FIXED))
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(
        "No setting to search for",
        got=repr(name),
        expected=None if near else f"one of {', '.join(known)}",
        hint=f"Did you mean {near[0]!r}" if near else None,
    )


def _is_whole(name: str) -> bool:
    kinds = {
        field.name: str(field.type) for cls in (TrainingConfig, ModelSpec) for field in fields(cls)
    }
    return kinds[name] in ("int", "int | None")


def _number(value: Any) -> Any:
    """YAML takes 1e-3 for text, because it has no point; settings hold tuples, not lists."""
    if isinstance(value, list):
        return tuple(map(_number, value))
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
