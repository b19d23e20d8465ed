"""How a command is to train: the recipe for its starting weights, then a YAML file, then its flags.

A file may hold settings of training (`TrainingConfig`) and of the network (`ModelSpec`, and `architecture`)
side by side: `appliance tune` writes such files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from appliance.training.config import TrainingConfig

ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="YAML with settings of training, for instance of its augmentation; flags win.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting of training or of the network by its name, as in --config; again for more.",
    ),
]

# Two ways to say one thing: who says one does not mean the other.
_EITHER = ("steps", "epochs")


@dataclass(frozen=True)
class Settings:
    """What was wished, completed by the recipe.

    Attributes:
        training: All settings of training.
        open_settings: Those of them that nobody has wished: their values are the recipe's.
        network: Wished settings of `ModelSpec`.
        wished: All that was wished, as it was.
    """

    training: TrainingConfig
    open_settings: frozenset[str]
    network: Mapping[str, Any]
    wished: Mapping[str, Any]


def read_settings(
    init: str,
    config: str | None,
    flags: Mapping[str, Any],
    *,
    network_flags: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
) -> Settings:
    """Puts the settings together.

    Args:
        init: Starting weights by name or URI.
        config: A YAML file.
        flags: Fields of `TrainingConfig`; None leaves what the file or the recipe says.
        network_flags: Fields of `ModelSpec`, likewise.
        assignments: "name=value" each, the value as in YAML; they win over the file, flags over them.

    Raises:
        StorageError: There is no such file.
        ConfigError: There are no such weights, the file is no YAML, or a setting is unknown or out of range.
    """
    from appliance.config import load_yaml, parse_settings
    from appliance.model.spec import ModelSpec
    from appliance.model.weights import check_init
    from appliance.training.config import TrainingConfig
    from appliance.training.plan import settings_for

    check_init(init)
    recipe = asdict(settings_for(init))
    of_network = {field.name for field in fields(ModelSpec)} - {"labels"}
    wished: dict[str, Any] = {}
    network: dict[str, Any] = {}
    flags_given = {
        name: value
        for name, value in {**flags, **(network_flags or {})}.items()
        if value is not None
    }
    layers = [
        *([(config, load_yaml(config))] if config is not None else []),
        ("--set", dict(_assignment(text) for text in assignments)),
        ("command line", flags_given),
    ]
    for source, layer in layers:
        training = {name: value for name, value in layer.items() if name not in of_network}
        if any(name in training for name in _EITHER):
            wished |= {name: None for name in _EITHER if name not in training}
        wished |= training
        network |= {name: value for name, value in layer.items() if name in of_network}
        # Parsed one by one, so that a message names where the mistake is.
        parsed = parse_settings(TrainingConfig, recipe | wished, source=source)
        parsed_spec = parse_settings(ModelSpec, {"labels": ("any",), **network}, source=source)
    return Settings(
        parsed,
        frozenset(recipe) - {name for name, value in wished.items() if value is not None},
        {name: getattr(parsed_spec, name) for name in network},
        {**wished, **network},
    )


def training_settings(init: str, config: str | None, flags: Mapping[str, Any]) -> TrainingConfig:
    """The settings of training alone; arguments and errors as in `read_settings`."""
    return read_settings(init, config, flags).training


def _assignment(text: str) -> tuple[str, Any]:
    import yaml

    from appliance.errors import ConfigError

    name, mark, value = text.partition("=")
    try:
        if not mark:
            raise ValueError("no =")
        return name.strip().replace("-", "_"), yaml.safe_load(value)
    except (ValueError, yaml.YAMLError):
        raise ConfigError("--set is wrong", got=repr(text), expected="NAME=VALUE") from None
