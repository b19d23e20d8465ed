"""Starts the Serve application. It is a package of its own (`serve_app`), so it is imported by name."""

from __future__ import annotations

import atexit
import importlib
import os
from collections.abc import Mapping
from typing import Any, Protocol

from appliance.config import parse_settings
from appliance.errors import ConfigError
from appliance.on_ray.cluster import connect, joins_a_cluster
from appliance.on_ray.scratch import ScratchFolder, remove_abandoned
from appliance.on_ray.service_log import replica_lines_on_stderr

# Short, and not below TMPDIR: Linux allows 107 characters for the path of a socket.
_PARENT = "/tmp"
_PREFIX = "serve-"


class RunningService(Protocol):
    """What `start_service` answers with."""

    url: str


def service_environment(host: str = "127.0.0.1") -> Mapping[str, str]:
    """Variables that must stand before a local cluster starts that is to serve.

    Args:
        host: Where the service is to listen.

    Raises:
        ServiceError: The program that starts HAProxy is not installed.
    """
    remove_abandoned(_PREFIX, _PARENT)
    folder = ScratchFolder(_PREFIX, _PARENT)
    atexit.register(folder.remove)
    environment: Mapping[str, str] = importlib.import_module(
        "serve_app.ingress.variables"
    ).local_serve_variables(folder.path, host=host)
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
    settings: Mapping[str, Any],
    *,
    host: str,
    port: int,
    address: str | None,
    grpc_port: int | None = None,
) -> None:
    """Serves until interrupted. A cluster that is started for it belongs to the service alone.

    Raises:
        StorageError: There is no such model file.
        ConfigError, ServiceError: See `start_service`.
    """
    own_cluster = not joins_a_cluster(address)
    if own_cluster:
        # As checked values: text from a command line may be no number.
        settings = {**whole_machine(_parsed(settings).model_dump()), **settings}
    _check(settings, host)
    if own_cluster:
        listening = importlib.import_module("serve_app.ingress.listening")
        listening.free_port(host, port)
        if grpc_port is not None:
            listening.free_port(host, grpc_port, option="--grpc-port")
        connect(
            address,
            environment=service_environment(host),
            jobs_api=_parsed(settings).trainer,
        )
        if settings.get("access_log", "-") == "-":
            with replica_lines_on_stderr() as pipe:
                settings = {**settings, "access_log": pipe}
                start_service(settings, host=host, port=port, grpc_port=grpc_port, blocking=True)
            return
    else:
        connect(address)
    start_service(settings, host=host, port=port, grpc_port=grpc_port, blocking=True)


def serve_detached(
    settings: Mapping[str, Any],
    *,
    host: str,
    port: int,
    address: str | None,
    grpc_port: int | None = None,
) -> RunningService:
    """Starts the service on a cluster that runs already, and leaves it there.

    Raises:
        StorageError: There is no such model file.
        ConfigError, ServiceError: There is no cluster; else see `start_service`.
    """
    _check(settings, host)
    _join(address, "--detach")
    return start_service(settings, host=host, port=port, grpc_port=grpc_port)


def stop_detached(*, address: str | None) -> None:
    """Stops what `serve_detached` has left on a cluster.

    Raises:
        ConfigError, ServiceError: There is no cluster, or no service on it.
    """
    _join(address, "--stop")
    stop_service()


def whole_machine(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Threads of the model and reserved CPUs, such that the replicas share the machine among them.

    Half of the CPUs stay free for Ray to give out, or a new version would find no place beside the old one.

    Args:
        settings: Those that the user has given; replicas count, the rest does not matter.
    """
    cpus = len(os.sched_getaffinity(0))
    replicas = settings.get("max_replicas") or settings.get("num_replicas") or 1
    return {"num_threads": max(1, cpus // replicas), "num_cpus": cpus / (2 * replicas)}


def _join(address: str | None, option: str) -> None:
    if not joins_a_cluster(address):
        raise ConfigError(
            f"{option} is for a Ray cluster that runs already",
            hint="Start one as README.md says (`ray start --head`), and give --address auto",
        )
    connect(address)


def _check(settings: Mapping[str, Any], host: str) -> None:
    """One clear sentence now, not a failed replica or a cluster started for nothing."""
    from appliance.model import model_file

    parsed = _parsed(settings)
    keys = importlib.import_module("serve_app.security.keys")
    keys.require_keys(host, parsed)
    keys.require_admin_key(parsed)
    if parsed.key_file is not None:
        keys.checked_key_file(parsed.key_file)
    for model in (parsed.model, *parsed.models.values()):
        model_file.load(model)


def _parsed(settings: Mapping[str, Any]) -> Any:
    settings_class = importlib.import_module("serve_app.settings").ServiceSettings
    return parse_settings(settings_class, settings, source="service settings")
