"""Starts and stops the service on a running Ray cluster, which stays its owner's.

Importing this module costs neither Ray nor torch. The variables that Ray Serve wants before a cluster
starts are in `ingress/variables.py`.
"""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from appliance.errors import ServiceError
from serve_app.applications import replicas_of

if TYPE_CHECKING:
    from serve_app.settings import ServiceSettings

logger = logging.getLogger(__name__)

DEFAULT_NAME = "appliance"

NOT_WELL = ("DEPLOY_FAILED", "UNHEALTHY")
"""What Serve calls an application whose replicas do not start or do not stay."""

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
    grpc_port: int | None = None,
    name: str = DEFAULT_NAME,
    route_prefix: str = "/",
    blocking: bool = False,
    timeout_s: float = 120,
) -> RunningService:
    """Deploys the service on the Ray cluster of this process and waits until it is ready.

    A second call with the same name, host and port replaces the running version without a gap, and returns
    when that has answered its last. The service belongs to the cluster: it outlives this process unless
    `blocking`.

    Args:
        settings: What to serve and within which limits.
        host: Address to listen on; anything but loopback is reachable by others, and wants keys.
        port: Port to listen on; 0 takes a free one.
        grpc_port: Port for gRPC of the Open Inference Protocol; None does without.
        name: Name of the Serve application.
        route_prefix: Where the routes hang.
        blocking: Return only at Ctrl-C or SIGTERM, after answering what was accepted.
        timeout_s: Longest time to wait for the first answer.

    Raises:
        ConfigError: The service would be open to others without a key.
        ModelFileError: There is no such model file.
        ServiceError: There is no cluster, the port is taken, or the model does not start.
    """
    import ray

    from serve_app.security.keys import require_keys

    require_keys(host, settings)
    if not ray.is_initialized():
        raise ServiceError(
            "No Ray cluster is connected",
            hint="Connect first, with appliance.on_ray.cluster.local_cluster or ray.init",
        )
    from ray import serve
    from ray.serve.exceptions import RayServeException

    from serve_app.app import build_app
    from serve_app.ingress.listening import listen, url_of
    from serve_app.training.jobs import require_jobs_api

    app = build_app(settings)
    require_jobs_api(settings)
    prefix = "/" + route_prefix.strip("/")
    with quiet_serve():
        port = listen(host, port, grpc_port=grpc_port)
    service = RunningService(name, url_of(host, port) + prefix.rstrip("/"))
    old = replicas_of(name)
    try:
        with quiet_serve():
            try:
                serve.run(app, name=name, route_prefix=prefix)
            except RuntimeError as error:
                raise start_error(name, error) from None
            except RayServeException as error:  # such as: another service has that prefix
                reason = getattr(error, "cause", error)
                raise ServiceError("The service does not start", where=name, got=reason) from None
        _wait_until_ready(service, old, timeout_s)
        logger.info("service %s answers at %s", name, service.url)
        if blocking:
            _wait_for_the_end()
    except (KeyboardInterrupt, SystemExit):
        # HAProxy lets requests in a little before Serve tells us so: those are answered, too.
        if not blocking or reason_for_silence(service.url) is not None:
            raise
    if blocking:
        logger.info("answering what was accepted, then stopping")
        stop_service(name)
    return service


def stop_service(name: str = DEFAULT_NAME) -> None:
    """Takes the service down when it has answered what it accepted; with the last one, Serve itself.

    The cluster goes on.

    Raises:
        ServiceError: There is no such service.
    """
    from ray import serve

    with quiet_serve():
        applications = serve.status().applications
        if name not in applications:
            raise ServiceError(
                "There is no such service on this cluster",
                got=name,
                expected=" or ".join(applications) or "any, but none runs",
            )
        serve.delete(name)
        if not serve.status().applications:
            _stop_serve()


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
def quiet_serve() -> Iterator[None]:
    """Keeps Serve's own running commentary out of ours; its warnings pass."""
    serve_logger = logging.getLogger("ray.serve")
    level = serve_logger.level
    serve_logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        serve_logger.setLevel(level)


def start_error(name: str, error: RuntimeError | None = None) -> ServiceError:
    """One sentence out of Serve's reports on a service, which hold the traceback of a replica.

    Args:
        name: Of the service.
        error: What Serve has raised about it, if anything.
    """
    from ray import serve

    reports = [] if error is None else [str(error)]
    if name in (applications := serve.status().applications):
        application = applications[name]
        reports += [application.message]
        reports += [part.message for part in application.deployments.values()]
    text = "\n".join(reports)
    ours = re.findall(r"appliance\.errors\.\w+: (.+)", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return ServiceError(
        "The service does not start",
        where=name,
        got=(ours or lines or ["no reason"])[-1],
        hint="A version that was running before goes on",
    )


def _wait_until_ready(service: RunningService, old: frozenset[str], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while (reason := _reason_to_wait(service, old)) is not None:
        if time.monotonic() > deadline_s:
            raise ServiceError(
                "The service does not answer",
                where=service.url,
                got=reason,
                expected=f"an answer within {timeout_s:g} s",
                hint="Look at `serve status` and at the logs of its replicas",
            )
        time.sleep(_POLL_S)


def _reason_to_wait(service: RunningService, old: frozenset[str]) -> object:
    """None when replicas answer, and none of the version before is left.

    Raises:
        ServiceError: The new version does not start.
    """
    from ray import serve

    if (reason := reason_for_silence(service.url)) is not None:
        return reason
    if not replicas_of(service.name) & old:
        return None
    if serve.status().applications[service.name].status in NOT_WELL:
        raise start_error(service.name)
    return "the version before"


def reason_for_silence(url: str) -> OSError | None:
    """None when the service at an address answers that it is ready."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5):  # noqa: S310 - ours
            return None
    except OSError as error:  # urllib's own errors are such, too
        return error


def _wait_for_the_end() -> NoReturn:
    """Ends at Ctrl-C or SIGTERM, which the command line makes an exception; a second one is not held up."""
    while True:
        signal.pause()
