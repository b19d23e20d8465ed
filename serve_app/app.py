"""The Ray Serve application.

    serve run serve_app/config.yaml
    serve run serve_app.app:build_app model=/path/to/model.safetensors key_file=/path/to/keys.txt

The latter has Serve listen on all addresses, where it wants keys, or `no_keys=true`. A model may also be NAME,
NAME:VERSION or NAME@ALIAS in the registry of `APPLIANCE_REGISTRY`.

One deployment is ingress and model at once. A second hop would cost more than the model of a small
picture does, and buys nothing here: decoding and inference want the same machine, and replicas scale
together. Everything that decides is free of Serve: `scoring`, `security`, `http`.
"""

# No `from __future__ import annotations` here: Serve looks for the settings model in the builder's
# signature as an object, and would take a text for "no model given".

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from appliance import storage
from appliance.errors import ModelFileError
from appliance.model import model_file
from appliance.model.address import ModelAddress
from appliance.registry.registry import default_root, find_model
from appliance.storage.context import Context
from serve_app.deployments.record import DEPLOYMENT_NAME
from serve_app.http.api import create_api
from serve_app.inference_protocol.grpc_service import InferenceGrpcMethods
from serve_app.ingress.haproxy import PROGRAM_VARIABLE
from serve_app.ingress.listening import listening_host
from serve_app.ingress.variables import DRAINING_S
from serve_app.scoring.models import ModelPool
from serve_app.security.admission import RETRY_AFTER_S
from serve_app.security.keys import checked_key_file, require_admin_key, require_keys
from serve_app.settings import ServiceSettings
from serve_app.telemetry.access_log import write_access_log_to
from serve_app.telemetry.counts import Key
from serve_app.telemetry.replicas import NodeCounts, Replica, open_metrics

_SPARE_REQUESTS = 64
"""Serve lets so many more requests into a replica than the replica works on or keeps waiting, so that it
is ours to refuse them, in JSON; and so that health checks pass under overload."""


_LOOK_EVERY_S, _LOOK_BACK_S = 1.0, 5.0
"""Autoscaling looks at the load this often, not each 10 s, and goes by the mean of so many seconds, not 30:
a burst is over by then."""


class DetectionService(InferenceGrpcMethods):
    """A replica: the models and the HTTP interface on top of them; gRPC on top of that."""

    def __init__(self, settings: ServiceSettings) -> None:
        # `serve run` and `serve deploy` choose where to listen, and do not know of keys.
        require_keys(listening_host(), settings)
        if PROGRAM_VARIABLE in os.environ:  # then our HAProxy names the client
            proxies = settings.proxies_in_front + 1
            settings = settings.model_copy(update={"proxies_in_front": proxies})
        self._settings = settings
        write_access_log_to(settings.access_log)
        self._replica = Replica.of_this_process()
        self._metrics = open_metrics(settings.metrics_dir, self._replica)
        self._pool = ModelPool.load(settings, self._metrics.observe_batch)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve after the constructor; its routes are this replica's."""
        api = create_api(self._pool, self._settings, metrics=self._metrics, replica=self._replica)
        has_keys = bool(self._settings.keys or self._settings.key_file)
        self.serve_grpc_with(api, loopback_only=not has_keys and not self._settings.no_keys)
        return api

    async def check_health(self) -> None:
        """Called by Serve from time to time; raising has the replica replaced.

        Raises:
            ServiceError: A model does not answer.
        """
        await self._pool.check_health()

    def reconfigure(self, record: dict[str, Any]) -> None:
        """Called by Serve with the record of a deployment, which it keeps there; a replica obeys its settings."""

    async def counts_of_node(self) -> tuple[str, dict[Key, float]]:
        """Called by replicas on other machines, whose `/metrics` is asked for."""
        return await NodeCounts(self._metrics, self._replica).own()


def build_app(settings: ServiceSettings) -> serve.Application:
    """The application for `serve.run`, `serve run` and `serve deploy`.

    Raises:
        ModelFileError: There is no file at the path that `model` or one of `models` names, or it is no
            model file.
        StorageError, ConfigError: `key_file` is none, or the registry has no such model.
    """
    settings = _checked(settings)
    return _deployment(settings).bind(settings)


def build_deployment(
    settings: ServiceSettings, *, record: dict[str, Any], code_version: str
) -> serve.Application:
    """The application of one of several deployments on a cluster, which carries what is known of it.

    Args:
        settings: As for `build_app`.
        record: Of `deployments.record`; Serve keeps it as `user_config`.
        code_version: Replicas of an equal one stay when the application is run again.

    Raises:
        ModelFileError, StorageError, ConfigError: As `build_app`.
    """
    settings = _checked(settings)
    deployment = _deployment(settings).options(
        user_config=record,
        version=code_version,
        # One replica more than usual has to find room, not twice as many.
        max_surge_percent=1,
        # Serve chooses a version by itself for each run, and replaces all replicas even to add one.
        _internal=True,
    )
    return deployment.bind(settings)


def _checked(settings: ServiceSettings) -> ServiceSettings:
    checked: dict[str, Any] = {
        "model": _checked_model(settings.model),
        "models": {name: _checked_model(path) for name, path in settings.models.items()},
    }
    if settings.canary_model is not None:
        checked["canary_model"] = _checked_model(settings.canary_model)
    if settings.key_file is not None:
        checked["key_file"] = checked_key_file(settings.key_file)
    if settings.trainer:
        require_admin_key(settings)
        folder = settings.trainer_dir or storage.join(
            Context.current().persistent_path, "trainings"
        )
        checked["trainer_dir"] = storage.absolute(folder)
        checked["registry"] = storage.absolute(settings.registry or default_root())
    return settings.model_copy(update=checked)


def _deployment(settings: ServiceSettings) -> serve.Deployment:
    ingress: serve.Deployment = serve.deployment(**_deployment_options(settings))(
        serve.ingress()(DetectionService)
    )
    return ingress


def _checked_model(model: str) -> str:
    """The model's address; a relative path made absolute, since replicas run in other folders.

    An alias of the registry is looked up here, once: all replicas have the same model, whenever they start. A
    local file is read here once, because a replica would tell of a bad one only after half a minute.
    """
    address = ModelAddress.parse(find_model(model))
    if storage.is_remote(address.uri):
        return str(address)
    path = storage.local_path(address.uri).expanduser()
    if not path.is_file():
        raise ModelFileError(
            "No such model file",
            where=path.absolute(),
            got="a folder" if path.is_dir() else "nothing",
            expected="a .safetensors file that the appliance has written",
            hint=None
            if path.is_absolute()
            else f"Relative paths count from {Path.cwd()}; give an absolute path",
        )
    checked = str(replace(address, uri=str(path.resolve())))
    model_file.load(checked)
    return checked


def _deployment_options(settings: ServiceSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "name": DEPLOYMENT_NAME,
        "ray_actor_options": {"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        "max_ongoing_requests": (
            settings.max_ongoing_requests + settings.max_queued_requests + _SPARE_REQUESTS
        ),
        # So many may wait for the first replica, in Serve's own proxy.
        "max_queued_requests": settings.max_queued_requests,
        "backpressure_config": BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_S),
        # A new version starts beside the old one, which goes on serving when the new one cannot start.
        "max_surge_percent": 100,
        "max_constructor_retry_count": 2,  # what fails here fails again, a slow store aside
        # Also for the last request that came while HAProxy had not learned of the end yet.
        "graceful_shutdown_timeout_s": settings.request_timeout_s + DRAINING_S + 5,
        "graceful_shutdown_wait_loop_s": 0.2,
        # A replica that hangs is replaced this soon, after three looks.
        "health_check_period_s": 2,
        "health_check_timeout_s": 10,
        # The access log is ours.
        "logging_config": {"enable_access_log": False},
    }
    if settings.max_replicas is None:
        return {**options, "num_replicas": settings.num_replicas or 1}
    autoscaling = AutoscalingConfig(
        min_replicas=settings.min_replicas or 0,
        max_replicas=settings.max_replicas,
        target_ongoing_requests=settings.target_ongoing_requests,
        upscale_delay_s=settings.upscale_delay_s,
        downscale_delay_s=settings.downscale_delay_s,
    )
    # Deprecated in favour of variables that Ray 2.60 reads and does not use.
    intervals = {"metrics_interval_s": _LOOK_EVERY_S, "look_back_period_s": _LOOK_BACK_S}
    return {**options, "autoscaling_config": autoscaling.model_copy(update=intervals)}
