"""The Ray Serve application.

    serve run serve_app.app:build_app model=/path/to/model.safetensors
    serve run serve_app/config.yaml

One deployment is ingress and model at once. A second hop would cost more than the model of a small
picture does, and buys nothing here: decoding and inference want the same machine, and replicas scale
together. Everything that decides is free of Serve: `engine.py`, `batching.py`, `http_api.py`.
"""

# No `from __future__ import annotations` here: Serve looks for the settings model in the builder's
# signature as an object, and would take a text for "no model given".

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from appliance import storage
from appliance.errors import ModelFileError, ServiceError
from appliance.model import model_file
from serve_app.http.api import create_api
from serve_app.scoring.models import ModelPool
from serve_app.security.admission import RETRY_AFTER_S
from serve_app.settings import ServiceSettings

_SPARE_REQUESTS = 64
"""Serve lets so many more requests into a replica than the replica works on or keeps waiting, so that it
is ours to refuse them, in JSON; and so that health checks pass under overload."""


class DetectionService:
    """A replica: one engine and the HTTP interface on top of it."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._pool = ModelPool.load(settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve after the constructor; its routes are this replica's."""
        return create_api(self._pool, self._settings)

    def check_health(self) -> None:
        """Called by Serve from time to time; raising has the replica replaced."""
        if not self._pool.ready:
            raise ServiceError("The model thread does not answer")


def build_app(settings: ServiceSettings) -> serve.Application:
    """The application for `serve.run`, `serve run` and `serve deploy`.

    Raises:
        ModelFileError: There is no file at the path that `model` names, or it is no model file.
    """
    settings = settings.model_copy(update={"model": _checked_model(settings.model)})
    deployment = serve.deployment(**_deployment_options(settings))(
        serve.ingress()(DetectionService)
    )
    return deployment.bind(settings)


def _checked_model(model: str) -> str:
    """The model's URI; a relative path made absolute, since replicas run in other folders.

    A local file is read here once, because a replica would tell of a bad one only after half a minute.
    """
    if storage.is_remote(model):
        return model
    path = storage.local_path(model).expanduser()
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
    model_file.load(str(path))
    return str(path.resolve())


def _deployment_options(settings: ServiceSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "name": "DetectionService",
        "ray_actor_options": {"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        "max_ongoing_requests": (
            settings.max_ongoing_requests + settings.max_queued_requests + _SPARE_REQUESTS
        ),
        # Serve's own queue, in front of replicas that are full or not there yet; it refuses in text.
        "max_queued_requests": settings.max_queued_requests + _SPARE_REQUESTS,
        "backpressure_config": BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_S),
        # A new version starts beside the old one, which goes on serving when the new one cannot start.
        "max_surge_percent": 100,
        "max_constructor_retry_count": 2,  # what fails here fails again, a slow store aside
        "graceful_shutdown_timeout_s": settings.request_timeout_s + 5,
    }
    if settings.max_replicas is None:
        return {**options, "num_replicas": settings.num_replicas or 1}
    return {
        **options,
        "autoscaling_config": AutoscalingConfig(
            min_replicas=settings.min_replicas or 0,
            max_replicas=settings.max_replicas,
            target_ongoing_requests=settings.target_ongoing_requests,
            upscale_delay_s=settings.upscale_delay_s,
            downscale_delay_s=settings.downscale_delay_s,
        ),
    }
