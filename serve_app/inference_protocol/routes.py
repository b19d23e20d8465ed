"""The Open Inference Protocol v2 (KServe, Triton) over HTTP.

    GET  /v2, /v2/health/live, /v2/health/ready
    GET  /v2/models/{name}[/versions/{version}][/ready]
    POST /v2/models/{name}[/versions/{version}]/infer

with tensors in JSON or in binary behind it. `descriptions` lists the tensors, `error_answers` says how
errors look here.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from starlette.routing import Match

from serve_app.errors import RequestError
from serve_app.http.answers import json_response
from serve_app.http.results import Result, note_result, result_of
from serve_app.http.service import ScoringRequest, Service
from serve_app.inference_protocol.content_encoding import unpacked
from serve_app.inference_protocol.descriptions import model_metadata, server_metadata
from serve_app.inference_protocol.error_answers import InferenceProtocolRoute
from serve_app.inference_protocol.infer_answers import InferAnswer, infer_answer, tensors_of
from serve_app.inference_protocol.infer_requests import InferRequest, parse_infer_request
from serve_app.inference_protocol.openapi import INFER_REQUEST_BODY, answers
from serve_app.scoring.engine import ScoringEngine

HEADER_LENGTH = "Inference-Header-Content-Length"
_TAG = "Open Inference Protocol"


def add_routes(app: FastAPI, service: Service) -> None:
    """Adds everything under `/v2`."""
    router = APIRouter(prefix="/v2", route_class=InferenceProtocolRoute, tags=[_TAG])
    _add_server_routes(router, service)
    _add_model_routes(router, service)
    _add_rest(router)
    app.include_router(router)


def _add_server_routes(router: APIRouter, service: Service) -> None:
    @router.get("", summary="The server and its extensions", responses=answers("server_metadata"))
    async def server() -> Response:
        return json_response(server_metadata())

    @router.get("/health/live", summary="Is the server alive?", responses=answers("live"))
    async def live() -> Response:
        return json_response({"live": True})

    @router.get("/health/ready", summary="Does the model answer?", responses=answers("ready", 503))
    async def ready() -> Response:
        await service.require_ready()
        return json_response({"ready": True})


def _add_model_routes(router: APIRouter, service: Service) -> None:
    async def metadata(request: Request, name: str, version: str | None) -> Response:
        """Inputs and outputs with their datatypes and shapes; -1 stands for any number."""
        async with service.pool.lend(name) as engine:
            return json_response(model_metadata(name, _checked_version(engine, version)))

    async def ready(request: Request, name: str, version: str | None) -> Response:
        """Ready is a model that would answer now, or would be loaded to answer."""
        await service.require_ready()
        if version is not None or name not in service.pool.names:
            async with service.pool.lend(name) as engine:
                _checked_version(engine, version)
        return json_response({"name": name, "ready": True})

    async def infer(request: Request, name: str, version: str | None) -> Response:
        """Pictures in, detections out, as tensors.

        The JSON part may be followed by binary tensors; its length then stands in the header
        Inference-Header-Content-Length. With 0 there, the body is one encoded picture.
        """
        async with service.scoring_request(request) as scope:
            body = await scope.body()
            sent = await _read(request, body, service, scope)
            async with service.pool.lend(name) as engine:
                model_version = _checked_version(engine, version)
                results = await _score(sent, engine, service, scope)
            for result in results:
                note_result(result, scope.notes, several=True)
            with scope.timings.stage("encode"):
                return _response(
                    infer_answer(
                        model_name=name,
                        model_version=model_version,
                        request_id=sent.id,
                        tensors=tensors_of(results),
                        outputs=sent.outputs,
                    )
                )

    read = {"methods": ["GET"], "dependencies": [Depends(service.identify)]}
    _add_with_versions(
        router,
        "",
        metadata,
        summary="What tensors a model takes and gives",
        responses=answers("model_metadata", 401, 404, 429, 503),
        **read,
    )
    _add_with_versions(
        router,
        "/ready",
        ready,
        summary="Does a model answer?",
        responses=answers("model_ready", 401, 404, 429, 503),
        **read,
    )
    _add_with_versions(
        router,
        "/infer",
        infer,
        summary="Detect objects in the pictures of a tensor",
        responses=answers("infer", 400, 401, 404, 408, 413, 415, 422, 429, 503, 504),
        openapi_extra=INFER_REQUEST_BODY,
        methods=["POST"],
        dependencies=[Depends(service.identify)],
    )


def _add_with_versions(
    router: APIRouter,
    suffix: str,
    answer: Callable[[Request, str, str | None], Awaitable[Response]],
    **options: Any,
) -> None:
    """Adds a route of a model twice: for whatever version there is, and for one by name."""

    async def any_version(request: Request, name: str) -> Response:
        return await answer(request, name, None)

    async def one_version(request: Request, name: str, version: str) -> Response:
        return await answer(request, name, version)

    options["description"] = inspect.getdoc(answer)
    router.add_api_route(f"/models/{{name}}{suffix}", any_version, **options)
    router.add_api_route(f"/models/{{name}}/versions/{{version}}{suffix}", one_version, **options)


async def _read(
    request: Request, body: bytes, service: Service, scope: ScoringRequest
) -> InferRequest:
    encoding = request.headers.get("content-encoding")
    header_length = request.headers.get(HEADER_LENGTH)
    settings = service.settings

    def read() -> InferRequest:
        plain = unpacked(body, encoding, settings.max_body_bytes)
        return parse_infer_request(plain, header_length, settings.max_images_per_request)

    with scope.timings.stage("decode"):
        return await asyncio.to_thread(read)  # milliseconds, of a large body


async def _score(
    sent: InferRequest, engine: ScoringEngine, service: Service, scope: ScoringRequest
) -> list[Result]:
    """One result a picture; an error only when no picture of the request has got one.

    Raises:
        LabelError: The model does not know a label that is asked for.
        RequestError: What is wrong with the first picture.
    """
    for label in sent.options.labels or ():
        engine.scorer.predictor.labels.id_of(label)
    results = await asyncio.gather(
        *(
            result_of(picture, engine, service, sent.options, scope.timings)
            for picture in sent.pictures
        )
    )
    errors = [result.error for result in results if result.error is not None]
    if len(errors) == len(results):
        raise errors[0]
    return results


def _response(answer: InferAnswer) -> Response:
    if answer.json_length is None:
        return Response(answer.body, media_type="application/json")
    headers = {HEADER_LENGTH: str(answer.json_length)}
    return Response(answer.body, headers=headers, media_type="application/octet-stream")


def _checked_version(engine: ScoringEngine, version: str | None) -> str:
    actual = engine.scorer.predictor.model_version
    if version is not None and version != actual:
        raise RequestError(
            404,
            "unknown_version",
            f"There is no version {version[:100]} of this model",
            hint="Leave the version out, or take it from the metadata of the model",
        )
    return actual


def _add_rest(router: APIRouter) -> None:
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

    @router.api_route("/{rest:path}", methods=methods, include_in_schema=False)
    async def nothing_here(request: Request) -> Response:
        """Answers in the protocol's form what would otherwise be answered in ours."""
        path = request.url.path
        allowed: set[str] = set()
        for route in router.routes:
            if route.matches(request.scope)[0] is Match.PARTIAL:
                allowed |= getattr(route, "methods", None) or set()
        if allowed:
            raise RequestError(
                405,
                "method_not_allowed",
                f"{request.method} is not possible at {path[:200]}",
                headers={"Allow": ", ".join(sorted(allowed))},
            )
        raise RequestError(
            404,
            "not_found",
            f"There is nothing at {path[:200]}",
            hint="The service has health, metadata and infer of the Open Inference Protocol v2",
        )
