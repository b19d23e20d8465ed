"""`POST /v1/detect`: one picture or several in, records out."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request, Response

from serve_app.errors import RequestError
from serve_app.http.answers import annotated_jpeg, json_response
from serve_app.http.media_types import (
    content_type,
    is_json,
    is_multipart,
    picture_name,
    require_detect_type,
)
from serve_app.http.options import merged
from serve_app.http.pictures import SentPictures, read_pictures
from serve_app.http.results import Result, note_result, result_of
from serve_app.http.schemas import (
    DetectAnswer,
    DetectOptions,
    detect_request_body,
    detect_responses,
)
from serve_app.http.service import ScoringRequest, Service


def add_routes(app: FastAPI, service: Service) -> None:
    """Adds `POST /v1/detect`."""

    @app.post(
        "/v1/detect",
        tags=["scoring"],
        summary="Detect objects in one picture or several",
        dependencies=[Depends(service.identify)],
        response_model=DetectAnswer,
        responses=detect_responses(),
        openapi_extra=detect_request_body(),
    )
    async def detect(request: Request, query: Annotated[DetectOptions, Query()]) -> Response:
        """The body is the picture itself, a form with files, or JSON that holds base64 or URLs.

        One picture is answered with its record, or with an error. Several are answered with `results`, one
        record a picture in the order sent; what is wrong with one of them stands in its `error`.
        """
        require_detect_type(content_type(request))
        async with service.scoring_request(request) as scope:
            body = await scope.body()
            sent = await _sent(request, body, query, service, scope)
            options = merged(query, sent.options)
            _check(options, sent)
            async with service.pool.lend(options.model) as engine:
                for label in options.labels or ():
                    engine.scorer.predictor.labels.id_of(label)
                results = await asyncio.gather(
                    *(
                        result_of(picture, engine, service, options, scope.timings, scope.hold)
                        for picture in sent.pictures
                    )
                )
            for result in results:
                note_result(result, scope.notes, several=sent.several)
            with scope.timings.stage("encode"):
                return await _answer(results, options, service, several=sent.several)


async def _sent(
    request: Request, body: bytes, query: DetectOptions, service: Service, scope: ScoringRequest
) -> SentPictures:
    media_type = content_type(request)

    def read() -> SentPictures:
        return read_pictures(
            body,
            media_type=media_type,
            content_type=request.headers.get("content-type", ""),
            name=picture_name(request, query.name),
            max_images=service.settings.max_images_per_request,
        )

    if not (is_json(media_type) or is_multipart(media_type)):
        return read()
    with scope.timings.stage("decode"):
        return await asyncio.to_thread(read)  # base64 of a large picture takes milliseconds


def _check(options: DetectOptions, sent: SentPictures) -> None:
    if options.format == "annotated" and sent.several:
        raise RequestError(
            422,
            "invalid_parameter",
            "format: only a single picture can be answered as a picture",
            hint="Send the pictures one by one, or leave out format=annotated",
        )


async def _answer(
    results: list[Result], options: DetectOptions, service: Service, *, several: bool
) -> Response:
    if several:
        return json_response({"results": [result.record.to_row() for result in results]})
    (result,) = results
    if result.error is not None:
        raise result.error
    if options.format == "annotated":
        limits = service.pool.default.scorer.limits
        jpeg = await asyncio.to_thread(annotated_jpeg, result.data, result.record, limits)
        return Response(jpeg, media_type="image/jpeg")
    return json_response(result.record.to_row())
