"""Starts the Serve application. It is a package of its own (`serve_app`), so it is imported by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from appliance.config import parse_settings
from appliance.on_ray.cluster import connect, joins_a_cluster


class RunningService(Protocol):
    """What `start_service` answers with."""

    url: str


def service_environment() -> Mapping[str, str]:
    """Variables that must stand before a cluster starts that is to serve."""
    environment: Mapping[str, str] = importlib.import_module(
        "serve_app.start"
    ).RAY_SERVE_ENVIRONMENT
    return environment


def start_service(
    settings: Mapping[str, Any], *, host: str = "127.0.0.1", port: int = 8000, **options: Any
) -> RunningService:
    """Starts the service on the cluster this process is connected to; see `serve_app.start`.

    Args:
        settings: Fields of `serve_app.settings.ServiceSettings`.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        **options: Further options of `serve_app.start.start_service`.

    Raises:
        ConfigError: A setting is wrong.
        ServiceError: The port is in use, or the service does not come up.
    """
    service: RunningService = importlib.import_module("serve_app.start").start_service(
        _parsed(settings), host=host, port=port, **options
    )
    return service


def stop_service() -> None:
    """Stops the service; the cluster goes on."""
    importlib.import_module("serve_app.start").stop_service()


def serve_in_foreground(
    settings: Mapping[str, Any], *, host: str, port: int, address: str | None
) -> None:
    """Serves until interrupted.

    Raises:
        StorageError: There is no such model file.
        ConfigError, ServiceError: See `start_service`.
    """
    from appliance.model import model_file

    # One clear sentence now, not a failed replica or a cluster started for nothing.
    _parsed(settings)
    model_file.load(str(settings["model"]))
    if not joins_a_cluster(address):
        importlib.import_module("serve_app.start").free_port(host, port)
    connect(address, environment=service_environment())
    start_service(settings, host=host, port=port, blocking=True)


def _parsed(settings: Mapping[str, Any]) -> Any:
    """The settings as the service wants them, or a `ConfigError`."""
    settings_class = importlib.import_module("serve_app.settings").ServiceSettings
    return parse_settings(settings_class, settings, source="service settings")
