"""`/v1/train`: the trainer, where it is switched on, for holders of an admin key."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from starlette.requests import ClientDisconnect

from appliance.errors import ApplianceError
from appliance.registry.references import is_reference
from appliance.registry.registry import find_model
from serve_app.errors import RequestError
from serve_app.http.json_bodies import json_type, parse_json, validated, wrong_shape
from serve_app.http.media_types import content_type, require_json_type
from serve_app.http.schemas import error_responses
from serve_app.http.service import Service, body_too_large
from serve_app.training.answers import Training, TrainingsAnswer
from serve_app.training.jobs import TrainingJobs
from serve_app.training.requests import TrainRequest

_MAX_BODY_BYTES = 2**16
_EXAMPLE = {
    "data": "/data/shelves#train",
    "register": "fridge",
    "init": "fridge@production",
    "settings": {"epochs": 20},
    "promote": "production",
    "test": "/data/shelves#test",
}
_LOG: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/plain": {"schema": {"type": "string"}}},
        "headers": {
            "X-Next-Offset": {
                "description": "The offset of what comes next.",
                "schema": {"type": "integer"},
            },
            "X-Log-Complete": {
                "description": "true when the training has ended: nothing comes any more.",
                "schema": {"type": "boolean"},
            },
        },
    }
}
Offset = Annotated[int, Query(ge=0, description="Leave out so many characters at the beginning.")]


def add_routes(app: FastAPI, service: Service) -> None:
    """Adds `POST` and `GET /v1/train`, `GET` and `DELETE /v1/train/{id}`, `GET /v1/train/{id}/logs`."""
    settings = service.settings
    # Paths that are not known are of a service without Ray, whose requests end at its missing cluster.
    jobs = TrainingJobs(settings.trainer_dir or "trainings", settings.registry or "models")
    registry = settings.registry

    async def admin(request: Request) -> None:
        await service.identify_admin(request, enabled=settings.trainer)

    @app.post(
        "/v1/train",
        tags=["training"],
        summary="Train a version of a model on the cluster of the service",
        status_code=202,
        dependencies=[Depends(admin)],
        responses=error_responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": TrainRequest.model_json_schema(by_alias=True),
                        "example": _EXAMPLE,
                    }
                },
            }
        },
    )
    async def train(request: Request) -> Training:
        """Answers as soon as the cluster has taken the job, which does what `appliance train` does with the
        same options: looks at the data, trains, adds the model to the registry, and if asked to, compares it with
        the present one and promotes it. What is wrong with data or settings, the job says: `error` of the training.

        The holder of an admin key has the service's user read whatever is named as data, and use all of the cluster.
        """
        require_json_type(content_type(request))
        value = parse_json(await _body(request, service.timeout_s(request)))
        if not isinstance(value, dict):
            raise wrong_shape(f"The body must be an object, got {json_type(value)}")
        wish = validated(TrainRequest, value, "")
        await asyncio.to_thread(_check_init, wish.init, registry)
        return await jobs.submit(wish, str(request.state.notes.key_name))

    @app.get(
        "/v1/train",
        tags=["training"],
        summary="All trainings",
        dependencies=[Depends(admin)],
        responses=error_responses(401, 403, 404, 429, 503),
    )
    async def trainings() -> TrainingsAnswer:
        """Those that the cluster remembers, of all services on it, the newest first."""
        return TrainingsAnswer(trainings=await jobs.list())

    @app.get(
        "/v1/train/{training_id}",
        tags=["training"],
        summary="How far a training is, or what came of it",
        dependencies=[Depends(admin)],
        responses=error_responses(401, 403, 404, 429, 503),
    )
    async def training(training_id: str) -> Training:
        """`says` is the last line of its log; one that waits for room on the cluster says so there."""
        return await jobs.get(training_id)

    @app.get(
        "/v1/train/{training_id}/logs",
        tags=["training"],
        summary="What a training has written",
        dependencies=[Depends(admin)],
        response_class=Response,
        responses={**_LOG, **error_responses(401, 403, 404, 422, 429, 503)},
    )
    async def logs(training_id: str, offset: Offset = 0) -> Response:
        """To follow it, ask again with the offset that `X-Next-Offset` has told, until `X-Log-Complete` is true."""
        text, is_complete = await jobs.log(training_id)
        headers = {
            "X-Next-Offset": str(max(offset, len(text))),
            "X-Log-Complete": str(is_complete).lower(),
        }
        return Response(text[offset:], media_type="text/plain", headers=headers)

    @app.delete(
        "/v1/train/{training_id}",
        tags=["training"],
        summary="Cancel a training",
        dependencies=[Depends(admin)],
        responses=error_responses(401, 403, 404, 429, 503),
    )
    async def cancel(training_id: str) -> Training:
        """It saves its last step and ends, within a minute; nothing is registered. One that has ended stays as it is."""
        return await jobs.cancel(training_id)


async def _body(request: Request, timeout_s: float) -> bytes:
    """The body; it takes no place of the gate, which is for pictures."""
    body = b""
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MAX_BODY_BYTES:
                    raise body_too_large(_MAX_BODY_BYTES)
    except (TimeoutError, ClientDisconnect):
        raise RequestError(
            408,
            "body_too_slow",
            f"The body was not complete within {timeout_s:g} seconds",
            hint="Send it again",
        ) from None
    return body


def _check_init(init: str, registry: str | None) -> None:
    """Refuses at once starting weights that the registry does not have."""
    if not (is_reference(init) and (":" in init or "@" in init)):
        return  # a file, or weights that have a name of their own: the job knows them
    try:
        find_model(init, registry)
    except ApplianceError as error:
        raise RequestError(422, "invalid_body", f"init: {error.message}", hint=error.hint) from None
