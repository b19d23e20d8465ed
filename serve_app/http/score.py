"""The endpoint of the 2018 package: a JSON list in, a JSON list of JSON strings out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, FastAPI, Request, Response

from appliance.errors import ApplianceError
from appliance.records import Record
from serve_app.errors import RequestError, request_error
from serve_app.http.answers import contract_text, json_response, select
from serve_app.http.json_bodies import json_type, parse_json, validated, wrong_shape
from serve_app.http.media_types import content_type, require_json_type
from serve_app.http.picture_texts import decode_image_text
from serve_app.http.schemas import (
    ContractItem,
    ContractParameters,
    error_responses,
    score_request_body,
)
from serve_app.http.service import ScoringRequest, Service
from serve_app.scoring.engine import ScoringEngine


@dataclass(frozen=True)
class ContractPicture:
    """One picture of `POST /score`: its bytes and what is asked of it."""

    data: bytes
    parameters: ContractParameters


def add_routes(app: FastAPI, service: Service) -> None:
    """Adds `POST /score`."""
    max_images = service.settings.max_images_per_request

    @app.post(
        "/score",
        tags=["scoring"],
        summary="Score a list of pictures, as the 2018 package does",
        dependencies=[Depends(service.identify)],
        response_model=list[str],
        responses=error_responses(400, 401, 408, 413, 415, 422, 429, 503, 504),
        openapi_extra=score_request_body(max_images),
    )
    async def score(request: Request) -> Response:
        """A JSON list in, a JSON list of JSON strings out, one per picture, in order.

        Each string holds `detection_boxes` as [top, left, bottom, right] in 0..1, `detection_scores`
        descending, `detection_classes` from 1, and `num_detections`.
        """
        require_json_type(content_type(request))
        async with service.scoring_request(request) as scope, service.pool.lend() as engine:
            body = await scope.body()
            with scope.timings.stage("decode"):
                pictures = await asyncio.to_thread(parse_contract_body, body, max_images=max_images)
            records = await _score_all(engine, pictures, scope)
        with scope.timings.stage("encode"):
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
            return json_response(texts)


def parse_contract_body(body: bytes, *, max_images: int) -> list[ContractPicture]:
    """The pictures in the body of `POST /score`.

    Raises:
        RequestError: 400 for no JSON or no base64, 413 for too many, 422 for a wrong shape.
    """
    values = parse_json(body)
    if not isinstance(values, list):
        raise wrong_shape(f"The body must be a list of pictures, got {json_type(values)}")
    if len(values) > max_images:
        raise RequestError(
            413,
            "too_many_images",
            f"The list has {len(values)} pictures (expected at most {max_images})",
            hint="Send several requests",
        )
    return [_parse_contract_item(value, index) for index, value in enumerate(values)]


def _parse_contract_item(value: Any, index: int) -> ContractPicture:
    if not isinstance(value, dict):
        raise wrong_shape(f"[{index}] must be an object, got {json_type(value)}", index)
    item = validated(ContractItem, value, f"[{index}].", index)
    data = decode_image_text(item.image_in_base64, f"[{index}].image_in_base64", index=index)
    return ContractPicture(data, item.parameters or ContractParameters())


async def _score_all(
    engine: ScoringEngine, pictures: list[ContractPicture], scope: ScoringRequest
) -> list[Record]:
    """All records, or the error of the first picture that has one, with its index."""
    names = [f"[{index}].image_in_base64" for index in range(len(pictures))]
    scored = await asyncio.gather(
        *(
            engine.score(picture.data, name, timings=scope.timings)
            for picture, name in zip(pictures, names, strict=True)
        ),
        return_exceptions=True,
    )
    records: list[Record] = []
    for index, result in enumerate(scored):
        if isinstance(result, ApplianceError):
            raise request_error(result, index=index)
        if isinstance(result, BaseException):
            raise result
        records.append(result)
    for record in records:
        scope.notes.picture(record)
    return records
