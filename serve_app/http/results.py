"""From one picture of a request to its record, whatever happens to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from appliance.errors import ApplianceError, ServiceError
from appliance.records import Record
from serve_app.errors import RequestError, request_error
from serve_app.http.answers import select
from serve_app.http.pictures import SentPicture
from serve_app.http.schemas import DetectOptions
from serve_app.http.service import Service
from serve_app.scoring.engine import ScoringEngine
from serve_app.scoring.timings import Timings
from serve_app.telemetry.notes import RequestNotes


@dataclass(frozen=True)
class Result:
    """What became of one picture.

    Attributes:
        record: Its record; that of a picture which could not be read says why.
        data: The encoded picture, as far as there is one.
        error: Why there are no detections, or None.
    """

    record: Record
    data: bytes
    error: RequestError | None = None


async def result_of(
    picture: SentPicture,
    engine: ScoringEngine,
    service: Service,
    options: DetectOptions,
    timings: Timings,
    hold: Callable[[int], None] | None = None,
) -> Result:
    """Fetches the picture if it is elsewhere, scores it, and keeps what was asked for.

    Args:
        picture: What was sent.
        engine: The model.
        service: Fetches URLs.
        options: What to keep.
        timings: Where the time goes.
        hold: Told of the bytes that are fetched; may refuse them.

    Raises:
        ServiceError: Not the picture but the service is to blame.
    """
    data = b""
    try:
        data = await _bytes_of(picture, service, timings, hold)
        record = await engine.score(
            data, picture.name, resize_wh=options.resize_wh, timings=timings
        )
    except ServiceError:
        raise
    except ApplianceError as error:
        record = engine.scorer.error_record(error, picture.name, data or None)
        return Result(record, data, request_error(error))
    chosen = select(
        record,
        score_threshold=options.score_threshold,
        max_detections=options.max_detections,
        labels=options.labels,
    )
    return Result(chosen, data)


def note_result(
    result: Result, notes: RequestNotes, timings: Timings | None = None, *, several: bool
) -> None:
    """Counts a picture: as scored, or of several as failed; a single one that fails is an error answer.

    Args:
        result: What became of it.
        notes: Of its request.
        timings: Of the picture alone, where they are not those of the request.
        several: Whether the request has others.
    """
    if result.error is None:
        notes.picture(result.record, timings)
    elif several:
        notes.failed_picture(result.error.code)


async def _bytes_of(
    picture: SentPicture,
    service: Service,
    timings: Timings,
    hold: Callable[[int], None] | None,
) -> bytes:
    if isinstance(picture.content, ApplianceError):
        raise picture.content
    if picture.url is None:
        return picture.content
    if service.urls is None:
        raise RequestError(
            403,
            "urls_disabled",
            "This service fetches no pictures from URLs",
            hint="Send the picture itself, or have the operator allow hosts with url_hosts",
        )
    with timings.stage("receive"):
        return await service.urls.fetch(picture.url, hold)
