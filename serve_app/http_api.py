"""The routes: read, check, ask the engine, answer. No picture and no tensor is touched here.

A scoring request passes: key -> place in the gate -> body (limited while it streams) -> engine -> answer,
all within one deadline. Limits, time-outs and overload are ours, because Serve's can be switched off by
a header and do not answer in JSON.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response

from appliance.errors import ApplianceError
from appliance.records import Record
from serve_app import requests
from serve_app.admission import Gate, KeyRing
from serve_app.answers import contract_text, select
from serve_app.engine import ScoringEngine
from serve_app.errors import RequestError, install_error_handlers, request_error
from serve_app.schemas import (
    DetectOptions,
    ModelAnswer,
    ModelsAnswer,
    RecordAnswer,
    StatusAnswer,
    detect_request_body,
    error_responses,
    score_request_body,
)
from serve_app.settings import ServiceSettings

_DESCRIPTION = """Finds objects in pictures. Every failing answer is JSON:
`{"error": {"code", "message", "hint"}}`."""


def create_api(engine: ScoringEngine, settings: ServiceSettings) -> FastAPI:
    """The whole HTTP interface on top of `engine`, which it closes at shutdown."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.close()

    app = FastAPI(title="Detection appliance", description=_DESCRIPTION, lifespan=lifespan)
    install_error_handlers(app)
    _add_scoring_routes(app, engine, settings)
    _add_status_routes(app, engine)
    return app


def _add_scoring_routes(app: FastAPI, engine: ScoringEngine, settings: ServiceSettings) -> None:
    gate = Gate(settings.max_ongoing_requests, settings.max_queued_requests)
    keys = KeyRing(key.get_secret_value() for key in settings.keys)
    predictor = engine.scorer.predictor

    def require_key(request: Request) -> None:
        keys.check(request.headers.get("authorization"))

    @asynccontextmanager
    async def received(request: Request) -> AsyncIterator[bytes]:
        """The body, with the place in the gate and the deadline held while it is worked on."""
        have_body = False
        try:
            async with asyncio.timeout(settings.request_timeout_s), gate.place():
                body = await requests.read_body(request, settings.max_body_bytes)
                have_body = True
                yield body
        except TimeoutError:
            raise _too_late(have_body, settings.request_timeout_s) from None

    @app.post(
        "/v1/detect",
        tags=["scoring"],
        summary="Detect objects in one picture",
        dependencies=[Depends(require_key)],
        response_model=RecordAnswer,
        responses=error_responses(400, 401, 408, 413, 415, 422, 503, 504),
        openapi_extra=detect_request_body(),
    )
    async def detect(request: Request, options: Annotated[DetectOptions, Query()]) -> Response:
        """The body is the picture itself, or JSON that holds it as base64."""
        for label in options.labels or ():
            predictor.labels.id_of(label)
        media_type = requests.content_type(request)
        if not requests.is_json(media_type):
            requests.require_picture_type(media_type)
        name = requests.picture_name(request, options.name)
        async with received(request) as body:
            as_json = requests.is_json(media_type)
            data = await asyncio.to_thread(requests.parse_detect_body, body) if as_json else body
            record = await engine.score(data, name)
        asked_for = select(
            record,
            score_threshold=options.score_threshold,
            max_detections=options.max_detections,
            labels=options.labels,
        )
        return _json(asked_for.to_row())

    @app.post(
        "/score",
        tags=["scoring"],
        summary="Score a list of pictures",
        dependencies=[Depends(require_key)],
        response_model=list[str],
        responses=error_responses(400, 401, 408, 413, 415, 422, 503, 504),
        openapi_extra=score_request_body(settings.max_images_per_request),
    )
    async def score(request: Request) -> Response:
        """A JSON list in, a JSON list of JSON strings out, one per picture, in order.

        Each string holds `detection_boxes` as [top, left, bottom, right] in 0..1, `detection_scores`
        descending, `detection_classes` from 1, and `num_detections`.
        """
        requests.require_json_type(requests.content_type(request))
        async with received(request) as body:
            pictures = await asyncio.to_thread(
                requests.parse_contract_body, body, max_images=settings.max_images_per_request
            )
            records = await _score_all(engine, pictures)
        texts = [
            contract_text(
                select(
                    record,
                    score_threshold=picture.parameters.score_threshold,
                    max_detections=picture.parameters.max_total_detections,
                )
            )
            for record, picture in zip(records, pictures, strict=True)
        ]
        return _json(texts)

    @app.get(
        "/v1/models",
        tags=["scoring"],
        summary="What answers here",
        dependencies=[Depends(require_key)],
        responses=error_responses(401),
    )
    async def models() -> ModelsAnswer:
        """The model, its version and the labels it knows."""
        model = ModelAnswer(
            name=predictor.model_name,
            version=predictor.model_version,
            labels=list(predictor.labels.names),
            score_threshold=predictor.spec.score_threshold,
            max_detections=predictor.spec.max_detections,
        )
        return ModelsAnswer(models=[model])


def _add_status_routes(app: FastAPI, engine: ScoringEngine) -> None:
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
        """Ready means that the model has answered a generated picture and accepts more."""
        if not engine.ready:
            raise RequestError(
                503,
                "not_ready",
                "The model does not answer",
                hint="Try again in a moment",
                headers={"Retry-After": "1"},
            )
        return StatusAnswer(status="ready")


async def _score_all(
    engine: ScoringEngine, pictures: list[requests.ContractPicture]
) -> list[Record]:
    """All records, or the error of the first picture that has one, with its index."""
    names = [f"[{index}].image_in_base64" for index in range(len(pictures))]
    scored = await asyncio.gather(
        *(engine.score(picture.data, name) for picture, name in zip(pictures, names, strict=True)),
        return_exceptions=True,
    )
    records: list[Record] = []
    for index, result in enumerate(scored):
        if isinstance(result, ApplianceError):
            raise request_error(result, index=index)
        if isinstance(result, BaseException):
            raise result
        records.append(result)
    return records


def _too_late(have_body: bool, timeout_s: float) -> RequestError:
    if have_body:
        return RequestError(
            504,
            "deadline_exceeded",
            f"No answer within {timeout_s:g} seconds",
            hint="Send fewer or smaller pictures at once, or try again when there is less load",
        )
    return RequestError(
        408,
        "body_too_slow",
        f"The body was not complete within {timeout_s:g} seconds",
        hint="Send a smaller picture, or use a faster connection",
    )


def _json(value: Any) -> Response:
    # ASCII only: names given by clients may hold what UTF-8 cannot express.
    return Response(json.dumps(value).encode("ascii"), media_type="application/json")
