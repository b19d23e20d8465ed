"""Deploys, switches, goes back and deletes: replica by replica, and as before where that fails.

Serve starts a replica of the new release beside the old ones and stops an old one when it answers; so one more
than usual has to find room, and there are never fewer than before. Replicas of a release that cannot start take
nothing away. What is left to do here is to wait, to look at the new release for a while, and to make the old one
what Serve aims at again when the new one is not well; whoever interrupts that gets the old one back, too.

Who is killed outright cannot. Then Serve goes on by itself, and the record says what answered before: the next
command takes it from there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from appliance.errors import ApplianceError, ServiceError
from appliance.registry.registry import now, who
from serve_app.applications import answering_replicas, replicas_of
from serve_app.deployments.found import Deployed, deployment_of, existing
from serve_app.deployments.record import Record, Release
from serve_app.ingress.listening import listen
from serve_app.settings import ServiceSettings
from serve_app.start import NOT_WELL, quiet_serve, reason_for_silence, start_error, stop_service

logger = logging.getLogger(__name__)

DEFAULT_PORT = 8000
_RUNNING = "RUNNING"
_POLL_S = 0.1
_BACK_WITHIN_S = 60.0


def deploy(
    name: str,
    settings: Mapping[str, Any],
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    timeout_s: float = 300.0,
    watch_s: float = 10.0,
) -> Deployed:
    """Makes a deployment, or lets one that runs take another release.

    Args:
        name: Of the deployment; it answers below `/NAME`.
        settings: Fields of `ServiceSettings`; the model at an address that stays what it is.
        host: Where to listen, if Serve of this cluster does not yet.
        port: Likewise; None takes what it listens on, or else 8000.
        timeout_s: How long the switch may take.
        watch_s: How long the new release is watched after the switch.

    Raises:
        ConfigError: Another application has that name.
        ServiceError: The release does not start, or is not well; all is as before.
    """
    before = deployment_of(name)
    release = Release(dict(settings), now(), who())
    answering = None if before is None else before.answering
    record = Record(release) if answering is None else answering.followed_by(release)
    listen_for(host, port)
    return _switch(name, record, before, timeout_s=timeout_s, watch_s=watch_s)


def roll_back(name: str, *, timeout_s: float = 300.0, watch_s: float = 10.0) -> Deployed:
    """Lets a deployment serve what it served before, at the scale of now; once more goes one further back.

    Raises:
        ConfigError: There is no such deployment, or nothing to go back to.
        ServiceError: As `deploy`.
    """
    before = existing(name)
    record = before.record.rolled_back(is_over=before.is_switched)
    return _switch(name, record, before, timeout_s=timeout_s, watch_s=watch_s)


def delete(name: str) -> None:
    """Ends a deployment when it has answered what it accepted.

    Raises:
        ConfigError: There is none of that name.
    """
    existing(name)
    stop_service(name)


def listen_for(host: str, port: int | None) -> int:
    """Has Serve of this cluster listen, where it does not yet; gives the port.

    Raises:
        ServiceError: The port is taken, or Serve listens elsewhere already.
    """
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client(raise_if_no_controller_running=False)
    if port is None and client is not None:
        return int(client.http_config.port)
    with quiet_serve():
        return listen(host, DEFAULT_PORT if port is None else port)


def _switch(
    name: str, record: Record, before: Deployed | None, *, timeout_s: float, watch_s: float
) -> Deployed:
    deadline_s = time.monotonic() + timeout_s
    answering = None if before is None else before.answering
    # Serve keeps the replicas of a release that differs in scale alone, and those of a switch that is not over.
    there = [] if before is None else [before.record, answering or before.record]
    stays = record.current.code_version in [one.current.code_version for one in there]
    old = frozenset() if stays else replicas_of(name)
    try:
        _run(name, record.replacing(answering))
        _wait_until_running(name, old, deadline_s, timeout_s)
        _wait_until_ready(existing(name).url, deadline_s, timeout_s)
        if before is not None:  # else there is nothing to go back to
            _watch(name, watch_s)
    except BaseException as error:
        _restore(name, record, before)
        if not isinstance(error, _NotWellError):
            raise
        raise _failure(name, record, before, error) from None
    deployed = existing(name)
    if deployed.record != record:
        raise ServiceError(
            "Somebody else has switched the deployment meanwhile",
            where=name,
            got=f"{deployed.record.current.model} by {deployed.record.current.by}",
            expected=record.current.model,
        )
    return deployed


class _NotWellError(Exception):
    """A release that does not come up, or does not stay up."""

    def __init__(self, reason: object, hint: str | None = None) -> None:
        super().__init__(str(reason))
        self.hint = hint


def _run(name: str, record: Record) -> None:
    from ray import serve
    from ray.serve.exceptions import RayServeException

    from serve_app.app import build_deployment  # costs torch, which nobody needs to delete

    settings = ServiceSettings(**record.current.settings)
    app = build_deployment(
        settings, record=record.to_json(), code_version=record.current.code_version
    )
    target = serve.RunTarget(target=app, name=name, route_prefix=f"/{name}")
    with quiet_serve():
        try:
            serve.run_many([target], wait_for_applications_running=False)
        except RayServeException as error:  # such as: another service has that prefix
            raise _NotWellError(getattr(error, "cause", error)) from None


def _wait_until_running(
    name: str, old: frozenset[str], deadline_s: float, timeout_s: float
) -> None:
    while (status := _status(name)) != _RUNNING or answering_replicas(name) & old:
        if status in NOT_WELL:
            raise _NotWellError(start_error(name).got)
        if time.monotonic() > deadline_s:
            raise _NotWellError(
                f"its replicas are not up after {timeout_s:g} s",
                hint="See with `ray status` whether there is room for one replica more",
            )
        time.sleep(_POLL_S)


def _wait_until_ready(url: str, deadline_s: float, timeout_s: float) -> None:
    while (reason := reason_for_silence(url)) is not None:
        if time.monotonic() > deadline_s:
            raise _NotWellError(f"no answer after {timeout_s:g} s: {reason}")
        time.sleep(_POLL_S)


def _watch(name: str, watch_s: float) -> None:
    end_s = time.monotonic() + watch_s
    while time.monotonic() < end_s:
        if _status(name) in NOT_WELL:
            raise _NotWellError(start_error(name).got)
        time.sleep(_POLL_S)


def _status(name: str) -> str:
    from ray import serve

    found = serve.status().applications.get(name)
    if found is None:
        raise _NotWellError("somebody has deleted it meanwhile")
    return found.status.value


def _restore(name: str, tried: Record, before: Deployed | None) -> None:
    """Makes what was there what Serve aims at again; only says so where it cannot, since it follows a failure.

    What somebody else has deployed meanwhile stays.
    """
    from ray import serve
    from ray.exceptions import RayError

    try:
        if before is None:
            if name in serve.status().applications:
                stop_service(name)
        # Serve takes a moment to show what it was told.
        elif existing(name).record in (tried, before.record):
            record = before.answering or before.record
            _run(name, record.replacing(before.answering))
            end_s = time.monotonic() + _BACK_WITHIN_S
            _wait_until_running(name, frozenset(), end_s, _BACK_WITHIN_S)
    except (ApplianceError, _NotWellError, RayError) as error:
        logger.warning("%s is not as it was before: %s", name, error)


def _failure(
    name: str, record: Record, before: Deployed | None, error: _NotWellError
) -> ServiceError:
    model = record.current.model
    if before is None:
        return ServiceError(f"{model} cannot be deployed", where=name, got=error, hint=error.hint)
    return ServiceError(
        f"{name} keeps {before.model}, because {model} is not well",
        got=error,
        hint=error.hint,
    )
