"""What `appliance train` does with a registry: start from a model of it, and add what was trained."""

from __future__ import annotations

import re
from typing import Annotated

import typer

RegisterOption = Annotated[
    str | None,
    typer.Option("--register", metavar="NAME", help="Add the model to the registry under a name."),
]


def find_init(init: str, registry: str | None) -> str:
    """Starting weights as given, but `NAME:VERSION` and `NAME@ALIAS` made into the address of that file.

    A mere name is one of weights that are known without a registry.

    Raises:
        ConfigError: There is no such version.
        StorageError: The registry cannot be read.
    """
    from appliance.registry.registry import find_model

    return find_model(init, registry) if re.search("[:@]", init) else init


def check_register(name: str | None, registry: str | None) -> None:
    """Finds out before a training whether its model can be added to the registry.

    Raises:
        ConfigError: The name will not do.
        StorageError: The registry cannot be written.
    """
    from appliance import storage
    from appliance.registry.references import checked_name
    from appliance.registry.registry import Registry

    if name is not None:
        place = storage.join(Registry(registry).root_uri, checked_name(name), "_model.json")
        storage.check_writable(place)


def register(name: str, model_uri: str, registry: str | None) -> int:
    """Adds a model that was trained.

    Returns:
        Its number.

    Raises:
        ApplianceError: It cannot be added; the message says how to do so later.
    """
    from appliance.errors import ApplianceError
    from appliance.registry.registry import Registry

    try:
        return Registry(registry).add(name, model_uri).version.number
    except ApplianceError as error:
        where = "" if registry is None else f" --registry {registry}"
        error.hint = f"The model is trained, and can be added later: appliance models add {name} {model_uri}{where}"
        raise
