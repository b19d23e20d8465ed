"""`appliance serve`: a model file in, an HTTP service in the foreground."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance.cli.options import AddressOption, ModelArgument


def serve(
    model: ModelArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    replicas: Annotated[int | None, typer.Option(min=1, help="A fixed number of replicas.")] = None,
    min_replicas: Annotated[int | None, typer.Option(min=0, help="Autoscale from ...")] = None,
    max_replicas: Annotated[int | None, typer.Option(min=1, help="... to.")] = None,
    address: AddressOption = None,
) -> None:
    """Serve a detector over HTTP until interrupted.

    Example: appliance serve fridge.safetensors --port 8000
    """
    from appliance.on_ray.serving import serve_in_foreground

    settings = {
        "model": model,
        "num_replicas": replicas,
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    serve_in_foreground(given, host=host, port=port, address=address)
