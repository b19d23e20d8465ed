"""How a command is to train: the recipe for its starting weights, then a YAML file, then its flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
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


def training_settings(init: str, config: str | None, flags: Mapping[str, Any]) -> TrainingConfig:
    """Puts the settings together.

    Args:
        init: Starting weights by name or URI.
        config: A YAML file with fields of `TrainingConfig`.
        flags: Fields of `TrainingConfig`; None leaves what the file or the recipe says.

    Raises:
        StorageError: There is no such file.
        ConfigError: It is no YAML, or a setting is unknown or out of range.
    """
    from appliance.config import load_yaml, parse_settings
    from appliance.training.config import TrainingConfig
    from appliance.training.plan import settings_for

    recipe = asdict(settings_for(init))
    if config is not None:
        # Parsed alone first, so that a message names the file and not the flags.
        recipe = asdict(parse_settings(TrainingConfig, recipe | load_yaml(config), source=config))
    given = {name: value for name, value in flags.items() if value is not None}
    return parse_settings(TrainingConfig, recipe | given, source="command line")
