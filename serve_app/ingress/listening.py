"""Where the service listens: Serve's proxies of the cluster, started once."""

from __future__ import annotations

import os
import socket
from typing import Any

from appliance.errors import ServiceError
from appliance.ports import unused_ports
from serve_app.inference_protocol.grpc_servicer import grpc_options
from serve_app.ingress.haproxy import HOST_VARIABLE

_LOOPBACK = "127.0.0.1"
_ANY_HOST = {"0.0.0.0": _LOOPBACK, "::": "::1"}  # noqa: S104 - read, not listened on


def listen(host: str, port: int, *, grpc_port: int | None = None) -> int:
    """Starts Serve's proxies, or finds them listening there already.

    Args:
        host: Address to listen on.
        port: Port for HTTP; 0 takes a free one.
        grpc_port: Port for gRPC; None does without.

    Returns:
        The port for HTTP.

    Raises:
        ServiceError: A port is taken, or Serve of this cluster listens elsewhere.
    """
    from ray import serve
    from ray.exceptions import RayActorError
    from ray.serve.context import _get_global_client

    # HAProxy listens where we are asked to; what is behind it on this machine stays on loopback.
    serve_host = _LOOPBACK if os.environ.get(HOST_VARIABLE) == host else host
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        # Serve has one address per cluster; it cannot be changed while it runs.
        running = client.http_config
        if running.host != serve_host or port not in (0, running.port):
            raise ServiceError(
                "Ray Serve of this cluster listens elsewhere",
                got=f"{running.host}:{running.port}",
                expected=f"{host}:{port}",
                hint="Use that address, or stop the running services first",
            )
        return int(running.port)
    port = free_port(host, port)
    if grpc_port is not None:
        free_port(host, grpc_port, option="--grpc-port")
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": serve_host, "port": port},
            grpc_options=None if grpc_port is None else grpc_options(grpc_port),
        )
    except (RayActorError, TimeoutError) as error:
        raise ServiceError(
            "Ray Serve does not start",
            where=f"{host}:{port}",
            got=str(error).splitlines()[-1].strip(),
            hint="Look whether the machine is overloaded, and start it again",
        ) from error
    return port


def listening_host() -> str:
    """Where others reach this service, asked from within a replica."""
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client()
    return os.environ.get(HOST_VARIABLE) or client.http_config.host or ""


def url_of(host: str, port: int) -> str:
    """The address for a client on this machine."""
    shown = _ANY_HOST.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def free_port(host: str, port: int, *, option: str = "--port") -> int:
    """The port, or for 0 one that is free.

    Raises:
        ServiceError: It is in use, or there is no such host or port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port or unused_ports(host)[0]))
        except (OSError, OverflowError) as error:
            raise ServiceError(
                "Cannot listen there",
                where=f"{host}:{port}",
                got=getattr(error, "strerror", None) or error,
                hint=f"Stop what uses the port, or choose another one with {option}",
            ) from None
        return int(probe.getsockname()[1])
