"""Options that several commands share, so that they read and mean the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import typer

from appliance.errors import ConfigError

Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON document, last on stdout.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Model file; NAME, NAME:VERSION or NAME@ALIAS in the registry; models:/NAME/VERSION of MLflow.",
    ),
]
RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry",
        metavar="URI",
        help="Registry of models, a folder or in an object store; default APPLIANCE_REGISTRY, or one at home.",
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Ray cluster to use, host:port; by default RAY_ADDRESS, or a local one for the time being.",
    ),
]
FormatOption = Annotated[
    Literal["auto", "voc", "coco", "yolo", "csv"],
    typer.Option("--format", help="How the annotations are written."),
]
ImagesOption = Annotated[
    str | None,
    typer.Option(
        "--images",
        metavar="DIR",
        help="Folder or bucket of the pictures, if they lie outside of that of the annotations.",
    ),
]
OnePartArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Folder or file of annotated pictures in any format; DATA#train for one part of divided data.",
    ),
]
# What commands that make a service have in common.
KeysOption = Annotated[
    str | None,
    typer.Option("--keys", metavar="FILE", help="Ask for one of the keys of `appliance keys`."),
]
NoKeysOption = Annotated[
    bool, typer.Option("--no-keys", help="Let others reach the service without any key.")
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting of the service by its name, such as num_cpus=2 or access_log=FILE; again for more.",
    ),
]
# What batch and stream scoring have in common.
IncludeOption = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Only names like this, as *.jpg or a/**/*.png."),
]
ExcludeOption = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help="No names like this; DIR/ is a folder.")
]
MinScoreOption = Annotated[
    float | None, typer.Option(min=0, max=1, help="Lowest score kept; default the model's own.")
]
LabelsOption = Annotated[
    str | None, typer.Option(metavar="A,B", help="Keep only what has one of these labels.")
]
TileOption = Annotated[
    str | None,
    typer.Option(
        metavar="ROWSxCOLUMNS[:OVERLAP]",
        help="Score in overlapping tiles besides, as 2x2:0.2: for small objects on large pictures.",
    ),
]


def names_of(labels: str | None) -> tuple[str, ...] | None:
    """The labels of a `LabelsOption`."""
    return None if labels is None else tuple(name.strip() for name in labels.split(","))


def further_settings(texts: list[str], given: Mapping[str, object]) -> dict[str, str]:
    """The settings of `--set`.

    Args:
        texts: As given: NAME=VALUE.
        given: Those that have flags of their own, by the names of settings.

    Raises:
        ConfigError: A text is no such thing, or a setting is given twice.
    """
    settings: dict[str, str] = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not name or not mark:
            raise ConfigError("--set is wrong", got=repr(text), expected="NAME=VALUE")
        if name in settings or name in given:
            raise ConfigError("A setting is given twice", got=name)
        settings[name] = value
    return settings
