"""`appliance models list|show`: what is in a registry of models."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.options import Json, RegistryOption
from appliance.cli.tables import cell, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.registry.entry import ModelEntry, Version
    from appliance.registry.registry import Registry


def list_models(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Model whose versions to list.")
    ] = None,
    registry: RegistryOption = None,
    json: Json = False,
) -> None:
    """List the models of a registry, or the versions of one.

    Example: appliance models list fridge
    """
    from appliance.registry.references import checked_name
    from appliance.registry.registry import Registry

    opened = Registry(registry)
    if name is not None:
        entry = opened.entry(checked_name(name))
        if json:
            print_json(entry.to_json())
        else:
            _show_versions(entry)
        return
    entries = opened.entries()
    if json:
        models = [entry.to_json() for entry in entries]
        print_json({"registry": opened.root_uri, "models": models})
        return
    if not entries:
        print(f"No models in {opened.root_uri}.")
        return
    print_table(
        ("model", "latest", "versions", "aliases"),
        [
            (
                entry.name,
                entry.latest and entry.latest.number,
                len(entry.versions),
                ", ".join(f"{alias} {number}" for alias, number in sorted(entry.aliases.items()))
                or None,
            )
            for entry in entries
        ],
    )


def show(
    reference: Annotated[
        str, typer.Argument(metavar="NAME[:VERSION|@ALIAS]", help="Model, or one of its versions.")
    ],
    registry: RegistryOption = None,
    json: Json = False,
) -> None:
    """Show all that is known of one version, and what became of the aliases.

    Example: appliance models show fridge@production
    """
    from appliance.registry.references import Reference
    from appliance.registry.registry import Registry

    opened = Registry(registry)
    parsed = Reference.parse(reference)
    entry = opened.entry(parsed.name)
    version = entry.version(parsed)
    if json:
        print_json(_document(opened, entry, version))
    else:
        _show_version(opened, entry, version)


def _show_versions(entry: ModelEntry) -> None:
    print_table(
        ("version", "aliases", "metric", "added", "by", "note"),
        [
            (
                f"{entry.name}:{version.number}",
                ", ".join(entry.aliases_of(version.number)) or None,
                _metric(version.metrics),
                version.added_at,
                version.added_by,
                version.note,
            )
            for version in entry.versions
        ],
        dispensable=("note", "by"),
    )


def _show_version(registry: Registry, entry: ModelEntry, version: Version) -> None:
    rows: list[tuple[str, Any]] = [
        ("aliases", ", ".join(entry.aliases_of(version.number)) or None),
        ("architecture", version.architecture),
        ("labels", ", ".join(version.labels)),
        *((f"metric {name}", cell(value)) for name, value in version.metrics.items()),
        ("digest of its training data", version.dataset_digest),
        ("started from", version.parent),
        ("added from", version.source),
        ("added by", version.added_by),
        ("added at", version.added_at),
        ("note", version.note),
        ("size, bytes", cell(version.size_bytes)),
        ("SHA-256", version.sha256),
        ("file", registry.file_uri(entry.name, version)),
    ]
    # No table: addresses and digests are for copying, and stay in one piece.
    print(f"{entry.name}:{version.number}")
    width = max(len(what) for what, _ in rows)
    sys.stdout.writelines(f"  {what:<{width}}  {cell(value)}\n" for what, value in rows)
    for change in entry.history:
        after = "nothing" if change.after is None else f"version {change.after}"
        before = "nothing" if change.before is None else f"version {change.before}"
        print(
            f"{change.at}  {change.action} {change.alias}: {after}, before {before}, by {change.by}"
        )


def _document(registry: Registry, entry: ModelEntry, version: Version) -> dict[str, Any]:
    return {
        "name": entry.name,
        **asdict(version),
        "aliases": entry.aliases_of(version.number),
        "file_uri": registry.file_uri(entry.name, version),
        "history": [asdict(change) for change in entry.history],
    }


def _metric(metrics: Mapping[str, float]) -> str | None:
    """What a model is judged by: AP on pictures held out, or else what there is."""
    for name in ("map_50", "coco_ap", *metrics):
        if name in metrics:
            return f"{name} {metrics[name]:.4f}"
    return None
