"""Starts and stops the service on a running Ray cluster, which stays its owner's.

Importing this module costs neither Ray nor torch, so that whoever starts the cluster can read
`RAY_SERVE_ENVIRONMENT` first: Ray Serve reads its variables when it is imported.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from appliance.errors import ServiceError

if TYPE_CHECKING:
    from serve_app.settings import ServiceSettings

logger = logging.getLogger(__name__)

DEFAULT_NAME = "appliance"

RAY_SERVE_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # Requests are handled on a replica's main loop, which our engine keeps free ...
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # ... but without a port per replica, which only HAProxy needs and which makes stopping slow.
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
        # Load is looked at each second rather than each tenth, so that autoscaling follows a burst.
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    }
)
"""Variables to set before a local cluster starts.

HAProxy is left to clusters (`ray_cluster.yaml` switches it on), because it opens ports 8404 and 9101 on
all interfaces whatever the host, and because what it saves is little beside the time of a model on a
CPU. Median latency in ms on 2 busy cores, with 1 and with 8 clients:

| | no-op, 1 | no-op, 8 | scoring, 1 | scoring, 8 |
|---|---|---|---|---|
| Serve's defaults | 10.0 | 34 | 250 | 1477 |
| these variables | 6.5 | 32 | 231 | 1763 |
| HAProxy as well | 0.9 | 3.8 | 201 | 1841 |
"""

_ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not listened on
_POLL_S = 0.05


@dataclass(frozen=True)
class RunningService:
    """A service that answers.

    Attributes:
        name: Name of the Serve application.
        url: Where it answers, without a slash at the end.
    """

    name: str
    url: str


def start_service(
    settings: ServiceSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str = DEFAULT_NAME,
    route_prefix: str = "/",
    blocking: bool = False,
    timeout_s: float = 120,
) -> RunningService:
    """Deploys the service on the Ray cluster of this process and waits until it is ready.

    A second call with the same name, host and port replaces the running version without a gap.

    Args:
        settings: What to serve and within which limits.
        host: Address to listen on; anything but loopback is reachable by others.
        port: Port to listen on; 0 takes a free one.
        name: Name of the Serve application.
        route_prefix: Where the routes hang.
        blocking: Return only at Ctrl-C, after stopping the service.
        timeout_s: Longest time to wait for the first answer.

    Raises:
        ModelFileError: There is no such model file.
        ServiceError: There is no cluster, the port is taken, or the model does not start.
    """
    import ray

    if not ray.is_initialized():
        raise ServiceError(
            "No Ray cluster is connected",
            hint="Connect first, with appliance.on_ray.cluster.local_cluster or ray.init",
        )
    from ray import serve

    from serve_app.app import build_app

    app = build_app(settings)
    prefix = "/" + route_prefix.strip("/")
    with _quiet_serve():
        port = _listen(host, port)
        try:
            serve.run(app, name=name, route_prefix=prefix)
        except RuntimeError as error:
            raise _start_error(name, error) from None
    shown_host = _ANY_HOST.get(host, host)
    shown_host = f"[{shown_host}]" if ":" in shown_host else shown_host
    service = RunningService(name, f"http://{shown_host}:{port}{prefix.rstrip('/')}")
    _wait_until_ready(service, timeout_s)
    logger.info("service %s answers at %s", name, service.url)
    if blocking:
        _wait_for_interrupt()
        stop_service(name)
    return service


def stop_service(name: str = DEFAULT_NAME) -> None:
    """Takes the service down; with the last one, Serve itself. The cluster goes on."""
    from ray import serve

    with _quiet_serve():
        serve.delete(name)
        if not serve.status().applications:
            _stop_serve()


def _listen(host: str, port: int) -> int:
    """Starts Serve's HTTP proxy, or finds it listening there already; returns the port."""
    from ray import serve
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        # Serve has one address per cluster; it cannot be changed while it runs.
        running = client.http_config
        if running.host != host or port not in (0, running.port):
            raise ServiceError(
                "Ray Serve of this cluster listens elsewhere",
                got=f"{running.host}:{running.port}",
                expected=f"{host}:{port}",
                hint="Use that address, or stop the running services first",
            )
        return int(running.port)
    port = free_port(host, port)
    serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
    return port


def _stop_serve() -> None:
    """What `serve.shutdown` does, without the line on stdout that Ray prints about it.

    The controller ends itself in the call; with retries left, Ray reports that as a failure.
    """
    import ray
    from ray import serve
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    with contextlib.suppress(ray.exceptions.RayActorError):
        ray.get(controller.graceful_shutdown.options(max_task_retries=0).remote(), timeout=60)
    serve.shutdown()


@contextlib.contextmanager
def _quiet_serve() -> Iterator[None]:
    """Keeps Serve's own running commentary out of ours; its warnings pass."""
    serve_logger = logging.getLogger("ray.serve")
    level = serve_logger.level
    serve_logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        serve_logger.setLevel(level)


def free_port(host: str, port: int) -> int:
    """The port, or for 0 one that is free.

    Raises:
        ServiceError: It is in use, or there is no such host or port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ServiceError(
                "Cannot listen there",
                where=f"{host}:{port}",
                got=getattr(error, "strerror", None) or error,
                hint="Stop what uses the port, or choose another one with --port",
            ) from None
        return int(probe.getsockname()[1])


def _start_error(name: str, error: RuntimeError) -> ServiceError:
    """One sentence out of Serve's report, which holds the traceback of a replica."""
    from ray import serve

    reports = [str(error)]
    if name in (applications := serve.status().applications):
        reports += [part.message for part in applications[name].deployments.values()]
    text = "\n".join(reports)
    ours = re.findall(r"appliance\.errors\.\w+: (.+)", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return ServiceError(
        "The service does not start",
        where=name,
        got=ours[-1] if ours else lines[-1],
        hint="A version that was running before goes on",
    )


def _wait_until_ready(service: RunningService, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(f"{service.url}/readyz", timeout=5):  # noqa: S310 - ours
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline_s:
                raise ServiceError(
                    "The service does not answer",
                    where=service.url,
                    got=error,
                    expected=f"an answer within {timeout_s:g} s",
                    hint="Look at `serve status` and at the logs of its replicas",
                ) from None
        time.sleep(_POLL_S)


def _wait_for_interrupt() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        logger.info("stopping the service")
