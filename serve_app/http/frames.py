"""`WS /v1/stream`: frames of a camera in, detections out; the newest frame wins.

A client sends encoded pictures as binary messages, faster than the model if it likes. Each answer is one
text message: the record of the newest frame, its number among those sent (from 1), and how many were dropped
so far because a newer one came. Options stand in the query of the address. Browsers cannot set headers on a
WebSocket: the first message may be `{"key": "..."}` instead, also where nobody asks for a key.
"""

from __future__ import annotations

import asyncio
import contextlib
import json

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import ValidationError
from starlette.types import Message

from appliance.errors import ApplianceError
from serve_app.errors import RequestError, request_error
from serve_app.http.error_answers import error_body
from serve_app.http.json_bodies import parse_json, validated, wrong_shape
from serve_app.http.pictures import SentPicture
from serve_app.http.results import note_result, result_of
from serve_app.http.schemas import DetectOptions, FirstMessage
from serve_app.http.service import Service, body_too_large
from serve_app.scoring.engine import ScoringEngine
from serve_app.scoring.timings import Timings

_CLOSE_BAD_REQUEST, _CLOSE_UNAUTHORIZED, _CLOSE_OVERLOADED = 4400, 4401, 4503
_CLOSE_CODES = {401: _CLOSE_UNAUTHORIZED, 503: _CLOSE_OVERLOADED}


def add_routes(app: FastAPI, service: Service) -> None:
    """Adds `WS /v1/stream`."""

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        try:
            await _identify(socket, service)
            options = _options(socket)
            async with service.pool.lend(options.model) as engine:
                for label in options.labels or ():
                    engine.scorer.predictor.labels.id_of(label)
                await service.streams.enter()
                try:
                    await _Frames(socket, engine, service, options).answer_all()
                finally:
                    service.streams.leave()
        except* WebSocketDisconnect:
            pass
        except* TimeoutError:
            await _end(socket, RequestError(504, "deadline_exceeded", "A frame took too long"))
        except* ApplianceError as errors:
            await _end(socket, request_error(_first(errors)))


async def _end(socket: WebSocket, error: RequestError) -> None:
    socket.state.notes.error_code = error.code
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the client may have gone first
        await socket.send_text(json.dumps(error_body(error)))
        await socket.close(_CLOSE_CODES.get(error.status, _CLOSE_BAD_REQUEST), error.code)


def _first(errors: BaseExceptionGroup[ApplianceError]) -> ApplianceError:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def _identify(socket: WebSocket, service: Service) -> None:
    """Checks the key of the header, or of the first message where keys are on and there is no header.

    Raises:
        RequestError: 401.
    """
    authorization = socket.headers.get("authorization")
    if authorization is None and service.keys.required:
        text = (await _received(socket, service)).get("text")
        value = validated(FirstMessage, parse_json(text) if text else {}, "")
        authorization = f"Bearer {value.key}"
    service.admit(authorization, socket.state.notes)


def _is_key(text: object) -> bool:
    """Whether a message is the one by which a client gives its key."""
    try:
        FirstMessage.model_validate_json(text if isinstance(text, str) else "")
    except ValidationError:
        return False
    return True


async def _received(socket: WebSocket, service: Service) -> Message:
    """The next message, with `bytes` or `text`.

    Raises:
        WebSocketDisconnect: The client has gone.
        RequestError: 408, nothing has come for too long.
    """
    timeout_s = service.settings.stream_idle_timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            message = await socket.receive()
    except TimeoutError:
        raise RequestError(
            408, "stream_idle", f"Nothing has come for {timeout_s:g} seconds"
        ) from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    return message


def _options(socket: WebSocket) -> DetectOptions:
    query = socket.query_params
    given = {name: query.getlist(name) if name == "labels" else query[name] for name in query}
    return validated(DetectOptions, given, "")


class _Frames:
    """One client's frames: a place for the newest, and the one that the model looks at."""

    def __init__(
        self, socket: WebSocket, engine: ScoringEngine, service: Service, options: DetectOptions
    ) -> None:
        self._socket = socket
        self._engine = engine
        self._service = service
        self._options = options
        self._newest: bytes | None = None
        self._arrived = asyncio.Event()
        self._spoken = False
        self._received = 0
        self._answered = 0
        self._seen = 0
        self._ended = False

    async def answer_all(self) -> None:
        """Answers the newest frame, again and again, until the client goes."""
        async with asyncio.TaskGroup() as work:
            work.create_task(self._receive())
            while not self._ended:
                await self._arrived.wait()
                self._arrived.clear()
                if self._newest is not None:
                    frame, self._newest = self._newest, None
                    await self._answer(frame, self._received)

    async def _receive(self) -> None:
        try:
            while True:
                message = await _received(self._socket, self._service)
                frame = message.get("bytes")
                is_first, self._spoken = not self._spoken, True
                if is_first and frame is None and _is_key(message.get("text")):
                    continue  # one that was not asked for
                if not isinstance(frame, bytes):
                    raise wrong_shape("A frame is an encoded picture in a binary message")
                if len(frame) > self._service.settings.max_body_bytes:
                    raise body_too_large(self._service.settings.max_body_bytes)
                self._received += 1
                self._newest = frame
                self._arrived.set()
        except WebSocketDisconnect:
            self._ended = True
            self._newest = None
            self._arrived.set()

    async def _answer(self, frame: bytes, number: int) -> None:
        timings = Timings()
        await self._service.gate.enter(patient=True)
        try:
            picture = SentPicture(self._options.name or f"frame-{number}", frame)
            async with asyncio.timeout(self._service.settings.request_timeout_s):
                result = await result_of(
                    picture, self._engine, self._service, self._options, timings
                )
        finally:
            self._service.gate.leave()
        note_result(result, self._socket.state.notes, timings, several=True)
        self._service.metrics.count_dropped_frames(number - self._seen - 1)
        self._seen = number
        self._answered += 1
        answer = {
            "frame": number,
            "dropped": number - self._answered,
            **result.record.to_row(),
            "timings_ms": {name: s * 1000 for name, s in timings.as_dict().items()},
        }
        if not self._ended:
            await self._socket.send_text(json.dumps(answer))
