"""What is there, and whether it answers: health, readiness, models."""

from __future__ import annotations

from fastapi import Depends, FastAPI

from serve_app.http.schemas import ModelAnswer, ModelsAnswer, StatusAnswer, error_responses
from serve_app.http.service import Service
from serve_app.scoring.engine import ScoringEngine
from serve_app.scoring.models import ModelPool


def add_routes(app: FastAPI, service: Service) -> None:
    """Adds `GET /healthz`, `/readyz`, `/v1/models` and `/v1/models/{name}`."""

    @app.get("/healthz", tags=["status"], summary="Is the service alive?")
    async def healthz() -> StatusAnswer:
        """Answers as long as the process does."""
        return StatusAnswer(status="alive")

    @app.get(
        "/readyz",
        tags=["status"],
        summary="Does the model answer?",
        responses=error_responses(503),
    )
    async def readyz() -> StatusAnswer:
        """Ready means that the model has answered a built-in picture, or others just now."""
        await service.require_ready()
        return StatusAnswer(status="ready")

    @app.get(
        "/v1/models",
        tags=["models"],
        summary="What answers here",
        dependencies=[Depends(service.identify)],
        responses=error_responses(401, 429),
    )
    async def models() -> ModelsAnswer:
        """The models by name, the default first; their labels and version once they are loaded."""
        loaded = service.pool.loaded
        return ModelsAnswer(
            models=[_answer(name, loaded.get(name), service.pool) for name in service.pool.names]
        )

    @app.get(
        "/v1/models/{name}",
        tags=["models"],
        summary="One model, its version and the labels it knows",
        dependencies=[Depends(service.identify)],
        responses=error_responses(401, 404, 429, 503),
    )
    async def model(name: str) -> ModelAnswer:
        """Loads the model if it is not in memory."""
        async with service.pool.lend(name) as engine:
            return _answer(name, engine, service.pool)


def _answer(name: str, engine: ScoringEngine | None, pool: ModelPool) -> ModelAnswer:
    is_default = name == pool.default_name
    if engine is None:
        return ModelAnswer(name=name, loaded=False, default=is_default)
    predictor = engine.scorer.predictor
    return ModelAnswer(
        name=name,
        loaded=True,
        default=is_default,
        version=predictor.model_version,
        architecture=predictor.spec.architecture,
        labels=list(predictor.labels.names),
        score_threshold=predictor.spec.score_threshold,
        max_detections=predictor.spec.max_detections,
    )
