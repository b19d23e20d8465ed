"""`POST /v1/detect/stream`: pictures in as lines of JSON or as parts, results out as soon as they are ready.

A few pictures are in work at once; while they are, nothing more is read, so that a client is slowed down
rather than memory filled. Each result carries the `index` of its picture, since a small picture may
overtake a large one.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from appliance.errors import ApplianceError
from appliance.records import Record
from serve_app.errors import RequestError, request_error
from serve_app.http.error_answers import error_body
from serve_app.http.json_bodies import parse_json
from serve_app.http.media_types import content_type, is_multipart, printable
from serve_app.http.multipart import MultipartReader
from serve_app.http.pictures import SentPicture, picture_of_json
from serve_app.http.results import result_of
from serve_app.http.schemas import DetectOptions, error_responses, stream_request_body
from serve_app.http.service import Service, body_too_large
from serve_app.scoring.engine import ScoringEngine
from serve_app.scoring.timings import Timings
from serve_app.telemetry.notes import RequestNotes

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/x-ndjson"
_LINE_TYPES = (MEDIA_TYPE, "application/ndjson", "application/jsonl", "application/json-lines")
_AT_ONCE = 4
"""Pictures of one stream in work: enough to decode one while another is looked at."""
_MAX_UNREAD = 1000
"""Results that wait for a client that sends but does not read; then nothing more is read of it."""


def add_routes(app: FastAPI, service: Service) -> None:
    """Adds `POST /v1/detect/stream`."""

    @app.post(
        "/v1/detect/stream",
        tags=["scoring"],
        summary="Detect objects in pictures as they come",
        dependencies=[Depends(service.identify)],
        response_class=Response,
        responses={
            200: {
                "description": "A record a line, each with its `index`",
                "content": {MEDIA_TYPE: {}},
            },
            **error_responses(400, 401, 404, 415, 422, 429, 503),
        },
        openapi_extra=stream_request_body(),
    )
    async def detect_stream(
        request: Request, options: Annotated[DetectOptions, Query()]
    ) -> Response:
        """Lines of `{"image": base64, "name": ...}`, or the parts of a form, of any number.

        Answers with a line of JSON a picture: its `index`, from 0, and its record. What ends the stream
        early is told in a last line with `error`.
        """
        media_type = content_type(request)
        if not (media_type in _LINE_TYPES or is_multipart(media_type)):
            raise RequestError(
                415,
                "unsupported_media_type",
                f"The content type {media_type[:100] or 'none'} is not read as a stream",
                hint=f"Send lines of JSON with Content-Type: {MEDIA_TYPE}, or a form",
            )
        if options.format != "json":
            raise RequestError(422, "invalid_parameter", "format: a stream is answered in JSON")
        return _StreamedAnswer(request, options, service)


class _StreamedAnswer(Response):
    """Reads the request while it answers, which Starlette's own streaming response does not allow."""

    media_type = MEDIA_TYPE

    def __init__(self, request: Request, options: DetectOptions, service: Service) -> None:
        super().__init__()
        self._request = request
        self._options = options
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._service.pool.lend(self._options.model) as engine:
            for label in self._options.labels or ():
                engine.scorer.predictor.labels.id_of(label)
            await self._service.streams.enter()
            try:
                await self._answer(engine, send)
            finally:
                self._service.streams.leave()

    async def _answer(self, engine: ScoringEngine, send: Send) -> None:
        del self.headers["content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        notes: RequestNotes = self._request.state.notes
        scoring = StreamScoring(engine, self._service, self._options, notes)
        async with aclosing(scoring.lines(sent_pictures(self._request, self._service))) as lines:
            async for line in lines:
                await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class StreamScoring:
    """Scores pictures as they come, a few at once.

    Args:
        engine: The model.
        service: Its gate slows the stream down among other requests.
        options: What is asked of every picture.
        notes: What is told to whoever counts and logs.
    """

    def __init__(
        self, engine: ScoringEngine, service: Service, options: DetectOptions, notes: RequestNotes
    ) -> None:
        self._engine = engine
        self._service = service
        self._options = options
        self._notes = notes
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._answers: asyncio.Queue[bytes | None] = asyncio.Queue(_MAX_UNREAD)

    async def lines(self, pictures: AsyncIterator[SentPicture]) -> AsyncGenerator[bytes]:
        """A line of JSON a picture; what ends the stream early is a last one."""
        reader = asyncio.create_task(self._read(pictures))
        try:
            while (answer := await self._answers.get()) is not None:
                yield answer
        finally:
            reader.cancel()
            await asyncio.wait([reader])

    async def _read(self, pictures: AsyncIterator[SentPicture]) -> None:
        index = 0
        early_end: RequestError | None = None
        async with asyncio.TaskGroup() as work:
            try:
                async for picture in pictures:
                    await self._places.acquire()
                    work.create_task(self._score(index, picture))
                    index += 1
            except RequestError as error:
                early_end = error
            except ClientDisconnect:
                pass  # what was sent whole is still worked on; nobody may read it
        if early_end is not None:
            self._notes.error_code = early_end.code
            await self._answers.put(_line(error_body(early_end)))
        await self._answers.put(None)

    async def _score(self, index: int, picture: SentPicture) -> None:
        try:
            record = await self._record(picture)
            await self._answers.put(_line({"index": index, **record.to_row()}))
        finally:
            self._places.release()

    async def _record(self, picture: SentPicture) -> Record:
        """Never raises: the other pictures of the stream are worth their answers."""
        timeout_s = self._service.settings.request_timeout_s
        timings = Timings()
        try:
            await self._service.gate.enter(patient=True)
            try:
                async with asyncio.timeout(timeout_s):
                    result = await result_of(
                        picture, self._engine, self._service, self._options, timings
                    )
                if result.error is None:
                    self._notes.picture(result.record, timings)
                else:
                    self._notes.failed_picture(result.error.code)
                return result.record
            finally:
                self._service.gate.leave()
        except TimeoutError:
            error: ApplianceError = RequestError(
                504, "deadline_exceeded", f"No answer within {timeout_s:g} seconds"
            )
        except ApplianceError as met:
            error = met
        except Exception:
            logger.exception("a picture of a stream failed")
            error = RequestError(500, "internal", "The service failed on this picture")
        self._notes.failed_picture(request_error(error).code)
        return self._engine.scorer.error_record(error, picture.name, None)


async def sent_pictures(request: Request, service: Service) -> AsyncIterator[SentPicture]:
    """The pictures of a stream, one after another.

    Raises:
        RequestError: The body is no stream, one of its lines or parts is too large, or nothing has come
            for too long.
        ClientDisconnect: The client has hung up.
    """
    if is_multipart(content_type(request)):
        pictures = _of_parts(request, service)
    else:
        pictures = _of_lines(request, service)
    async for picture in pictures:
        yield picture


async def _chunks(request: Request, idle_timeout_s: float) -> AsyncIterator[bytes]:
    chunks = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(idle_timeout_s):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise RequestError(
                408,
                "stream_idle",
                f"Nothing has come for {idle_timeout_s:g} seconds",
                hint="End the stream, and begin another when there are pictures",
            ) from None
        yield chunk


async def _of_lines(request: Request, service: Service) -> AsyncIterator[SentPicture]:
    max_bytes = service.settings.max_body_bytes
    number = 0
    rest = bytearray()
    async for chunk in _chunks(request, service.settings.stream_idle_timeout_s):
        rest += chunk
        # Most chunks are the middle of a line: those are neither searched again nor copied.
        if b"\n" in chunk:
            *lines, rest = rest.split(b"\n")
            for line in lines:
                if line.strip():
                    yield await asyncio.to_thread(_picture_of_line, bytes(line), f"[{number}]")
                    number += 1
        if len(rest) > max_bytes:
            raise body_too_large(max_bytes)
    if rest.strip():
        yield await asyncio.to_thread(_picture_of_line, bytes(rest), f"[{number}]")


def _picture_of_line(line: bytes, where: str) -> SentPicture:
    try:
        return picture_of_json(parse_json(line), where, where)
    except RequestError as error:
        return SentPicture(where, error)


async def _of_parts(request: Request, service: Service) -> AsyncIterator[SentPicture]:
    reader = MultipartReader(
        request.headers.get("content-type", ""), service.settings.max_body_bytes
    )
    number = 0
    async for chunk in _chunks(request, service.settings.stream_idle_timeout_s):
        for part in reader.feed(chunk):
            if part.is_picture:
                yield SentPicture(printable(part.filename or f"[{number}]"), part.data)
                number += 1
    reader.finish()


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"
