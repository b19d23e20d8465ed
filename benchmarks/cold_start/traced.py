"""A replica that notes how far its start has got; it is the service's own in all else."""

# ruff: noqa: E402 - what is imported is what is timed

from __future__ import annotations

from benchmarks.cold_start.marks import mark, mark_imports

mark("replica: our code")
mark_imports("replica", ("torch", "torchvision", "serve_app.app"))

from typing import Any

from appliance.scoring import ImageScorer
from serve_app.app import DetectionService
from serve_app.scoring import engine
from serve_app.settings import ServiceSettings

mark("replica: imported")


class TracedScorer(ImageScorer):
    """Notes when the model file is read."""

    @classmethod
    def load(cls, model_uri: str, **options: Any) -> ImageScorer:
        """As that of `ImageScorer`."""
        mark("replica: load")
        loaded = ImageScorer.load(model_uri, **options)
        mark("replica: loaded")
        return loaded


class TracedService(DetectionService):
    """Notes when its constructor begins and ends, and when it could answer."""

    def __init__(self, settings: ServiceSettings) -> None:
        mark("replica: constructor")
        engine.ImageScorer = TracedScorer  # type: ignore[attr-defined]
        super().__init__(settings)
        mark("replica: warmed up")

    def __serve_build_asgi_app__(self) -> Any:
        """As that of `DetectionService`."""
        api = super().__serve_build_asgi_app__()
        mark("replica: routes")
        return api
