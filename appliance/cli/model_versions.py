"""`appliance models add|promote|rollback|delete`: what changes a registry of models."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from appliance.cli.options import Json, RegistryOption
from appliance.cli.tables import print_json

AliasOption = Annotated[str, typer.Option(metavar="NAME", help="The alias.")]


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the model, new or known.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="Model file.")],
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Kept beside it.")] = None,
    registry: RegistryOption = None,
    json: Json = False,
) -> None:
    """Add a model file as the next version; metrics, labels and parent are taken from the file.

    Example: appliance models add fridge model.safetensors
    """
    from appliance.registry.registry import Registry

    added = Registry(registry).add(name, file, note=note)
    version = added.version
    if json:
        print_json({"name": name, "is_new": added.is_new, **asdict(version)})
    elif added.is_new:
        print(f"Added {file} as {name}:{version.number}.")
    else:
        print(f"{file} is {name}:{version.number} already; nothing was added.")


def promote(
    reference: Annotated[
        str, typer.Argument(metavar="NAME:VERSION", help="Version; NAME@ALIAS for what that names.")
    ],
    alias: AliasOption = "production",
    registry: RegistryOption = None,
    json: Json = False,
) -> None:
    """Let an alias name a version: what asks for the alias gets that version from then on.

    Example: appliance models promote fridge:7
    """
    from appliance.registry.references import Reference
    from appliance.registry.registry import Registry

    parsed = Reference.parse(reference)
    switched = Registry(registry).promote(parsed, alias)
    if json:
        print_json({"name": parsed.name, "alias": alias, **asdict(switched)})
        return
    print(_sentence(f"{parsed.name}@{alias}", switched.before, switched.after))


def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Model.")],
    alias: AliasOption = "production",
    registry: RegistryOption = None,
    json: Json = False,
) -> None:
    """Let an alias name the version that it had before; once more goes one further back.

    Example: appliance models rollback fridge
    """
    from appliance.registry.references import checked_name
    from appliance.registry.registry import Registry

    switched = Registry(registry).rollback(checked_name(name), alias)
    if json:
        print_json({"name": name, "alias": alias, **asdict(switched)})
        return
    print(_sentence(f"{name}@{alias}", switched.before, switched.after))


def delete(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="NAME:VERSION|NAME@ALIAS|NAME",
            help="A version with its file, an alias (its version stays), or a model with all of them.",
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="A model although it has aliases.")] = False,
    registry: RegistryOption = None,
    json: Json = False,
) -> None:
    """Delete a version, an alias or a whole model; what an alias names stays.

    Example: appliance models delete fridge:3
    """
    from appliance.registry.references import Reference
    from appliance.registry.registry import Registry

    parsed = Reference.parse(reference)
    Registry(registry).delete(parsed, with_aliases=yes)
    if json:
        print_json({"deleted": str(parsed)})
        return
    print(f"Deleted {parsed}.")


def _sentence(alias: str, before: int | None, after: int) -> str:
    if before == after:
        return f"{alias} is version {after} already."
    was = "" if before is None else f", before {before}"
    return f"{alias} is version {after} now{was}."
