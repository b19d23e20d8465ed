"""`appliance serve`: a model in, an HTTP service in the foreground or on a running cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance.cli.options import (
    AddressOption,
    KeysOption,
    NoKeysOption,
    RegistryOption,
    SettingsOption,
    further_settings,
)
from appliance.errors import ConfigError


def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Model file; NAME, NAME:VERSION or NAME@ALIAS in the registry; models:/NAME/VERSION of MLflow.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    grpc_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Also answer the Open Inference Protocol over gRPC."),
    ] = None,
    keys: KeysOption = None,
    no_keys: NoKeysOption = False,
    trainer: Annotated[
        bool,
        typer.Option("--trainer", help="Train on the cluster when holders of an admin key ask."),
    ] = False,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MODEL", help="A further model; may be given several times."),
    ] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="A fixed number of replicas.")] = None,
    min_replicas: Annotated[int | None, typer.Option(min=0, help="Autoscale from ...")] = None,
    max_replicas: Annotated[int | None, typer.Option(min=1, help="... to.")] = None,
    further: SettingsOption = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave it to a running cluster, and return.")
    ] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop the service that --detach has left.")
    ] = False,
    registry: RegistryOption = None,
    address: AddressOption = None,
) -> None:
    """Serve a detector over HTTP until interrupted.

    Example: appliance serve fridge.safetensors --port 8000
    """
    from appliance.on_ray.serving import serve_detached, serve_in_foreground, stop_detached
    from appliance.registry.registry import find_model

    if stop:
        if model is not None or detach:
            raise ConfigError("--stop takes neither MODEL nor --detach")
        stop_detached(address=address)
        return
    if model is None:
        raise ConfigError("No model file is given", hint="appliance serve fridge.safetensors")
    further_models = _further_models(also or [])
    settings = {
        "model": find_model(model, registry),
        "models": {name: find_model(one, registry) for name, one in further_models.items()} or None,
        "key_file": keys,
        "no_keys": no_keys or None,
        "trainer": trainer or None,
        "registry": registry,
        "num_replicas": replicas,
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    given |= further_settings(further or [], given)
    if not detach:
        serve_in_foreground(given, host=host, port=port, grpc_port=grpc_port, address=address)
        return
    service = serve_detached(given, host=host, port=port, grpc_port=grpc_port, address=address)
    where = "" if address is None else f" --address {address}"
    print(f"{service.url} answers until: appliance serve --stop{where}")


def _further_models(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for text, (name, _, path) in zip(texts, pairs, strict=True):
        if not name or not path:
            raise ConfigError("--also names a model", got=repr(text), expected="NAME=MODEL")
    names = [name for name, _, _ in pairs]
    if len(set(names)) < len(names):
        raise ConfigError("--also gives a name twice", got=", ".join(sorted(names)))
    return {name: path for name, _, path in pairs}
