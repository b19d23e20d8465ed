"""`appliance docker`: a model and its service as an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from appliance.cli.options import (
    Json,
    ModelArgument,
    RegistryOption,
    SettingsOption,
    further_settings,
)
from appliance.cli.tables import print_json


def docker(
    model: ModelArgument,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder to write; default docker/NAME.")
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="For machines without or with NVIDIA GPUs.")
    ] = "cpu",
    port: Annotated[
        int, typer.Option(min=1024, max=65535, help="Where the service listens.")
    ] = 8000,
    further: SettingsOption = None,
    build: Annotated[
        bool, typer.Option("--build", help="Also build the image, with the Docker engine here.")
    ] = False,
    tag: Annotated[str | None, typer.Option(metavar="NAME:TAG", help="Name of the image.")] = None,
    registry: RegistryOption = None,
    json: Json = False,
) -> None:
    """Write an image context of a model and its service; build it where a Docker engine is.

    Example: appliance docker fridge@production --device cuda --build
    """
    from appliance.operations.container.context import ContainerPlan, write_context
    from appliance.operations.container.engine import build_image
    from appliance.registry.registry import find_model

    settings = further_settings(further or [], {"model": model})
    plan = ContainerPlan(find_model(model, registry), device, port, settings)
    folder = Path(out) if out is not None else Path("docker") / plan.name
    name = tag or plan.tag
    files = write_context(plan, folder, tag=name)
    if not json:
        print(f"Wrote {folder}: {', '.join(files)}", flush=True)
    if build:
        build_image(folder, name)
    if json:
        print_json({"folder": str(folder), "files": files, "tag": name, "built": build})
    else:
        print(f"Built {name}." if build else f"Build it: docker build -t {name} {folder}")
