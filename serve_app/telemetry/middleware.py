"""Wraps the application: ids, timings, counts and log lines of every request, WebSockets among them.

Plain ASGI: nothing is buffered, so that streams stay streams, and a request costs some tens of
microseconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote

from serve_app.telemetry.access_log import log_request
from serve_app.telemetry.metrics import Metrics
from serve_app.telemetry.notes import RequestNotes
from serve_app.telemetry.request_ids import is_usable, new_request_id, trace_id_of
from serve_app.telemetry.server_timing import server_timing

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)

_SWITCHING_PROTOCOLS = 101
_FORBIDDEN = 403
_CLIENT_GONE = 499
_INTERNAL = 500


class TelemetryMiddleware:
    """Around the whole application, so that also the answers to our own mistakes are seen.

    Args:
        app: What to wrap.
        metrics: Where to count.
        adds_request_id: Whether to put X-Request-Id into answers; Ray Serve does that itself.
        proxies_in_front: How many proxies of ours add to X-Forwarded-For; the client's address is what
            the first of them has seen. 0: the header is the client's own invention.
    """

    def __init__(
        self,
        app: Application,
        metrics: Metrics,
        *,
        adds_request_id: bool = True,
        proxies_in_front: int = 0,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._adds_request_id = adds_request_id
        self._proxies_in_front = proxies_in_front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, WebSocket, or the start and end of the application."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._metrics, self._proxies_in_front)
        exchange.adds_request_id = self._adds_request_id or exchange.has_own_id
        scope.setdefault("state", {})["notes"] = exchange.notes
        self._metrics.request_started()
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            exchange.status = exchange.status or _CLIENT_GONE
            raise
        except BaseException:
            # Whoever runs the application logs the traceback, without knowing whose request it was.
            logger.error("request %s failed", exchange.notes.request_id)
            exchange.status = exchange.status or _INTERNAL
            exchange.notes.error_code = exchange.notes.error_code or "internal"
            raise
        finally:
            exchange.end()


class _Exchange:
    """One request and its answer on the way through."""

    __slots__ = (
        "_client_has_gone",
        "_metrics",
        "_proxies_in_front",
        "_receive",
        "_received_bytes",
        "_scope",
        "_send",
        "_sent_bytes",
        "_start_s",
        "adds_request_id",
        "has_own_id",
        "notes",
        "status",
    )

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, metrics: Metrics, proxies_in_front: int
    ) -> None:
        self._start_s = time.perf_counter()
        self._scope = scope
        self._receive = receive
        self._send = send
        self._metrics = metrics
        self._proxies_in_front = proxies_in_front
        self._received_bytes = 0
        self._sent_bytes = 0
        self._client_has_gone = False
        self.status = 0
        given_id = trace_id = None
        for name, value in scope["headers"]:
            if name == b"x-request-id" and is_usable(value):
                given_id = value.decode("ascii")
            elif name == b"traceparent":
                trace_id = trace_id_of(value)
        request_id = given_id or trace_id or new_request_id()
        self.has_own_id = given_id is None
        self.adds_request_id = True
        self.notes = RequestNotes(metrics, scope, request_id, trace_id)

    async def receive(self) -> Message:
        message = await self._receive()
        kind = message["type"]
        if kind == "http.request":
            self._received_bytes += len(message.get("body", b""))
        elif kind == "websocket.receive":
            self._received_bytes += _frame_bytes(message)
        elif kind == "http.disconnect":
            self._client_has_gone = True
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in {"http.response.body", "websocket.http.response.body"}:
            self._sent_bytes += len(message.get("body", b""))
        elif kind == "websocket.send":
            self._sent_bytes += _frame_bytes(message)
        elif kind in {"http.response.start", "websocket.http.response.start"}:
            self.status = message["status"]
            self._add_headers(message)
        elif kind == "websocket.accept":
            self.status = _SWITCHING_PROTOCOLS
            self.adds_request_id = True
            self._add_headers(message)
        elif kind == "websocket.close":
            self.status = self.status or _FORBIDDEN
        await self._send(message)

    def end(self) -> None:
        seconds = time.perf_counter() - self._start_s
        scope, notes = self._scope, self.notes
        if self.status == 0:
            self.status = _CLIENT_GONE if self._client_has_gone else _INTERNAL
        is_http = scope["type"] == "http"
        method = scope["method"] if is_http else "WEBSOCKET"
        stages = notes.timings.as_dict()
        self._metrics.request_ended(
            method=method,
            route=notes.route,
            status=self.status,
            error_code=notes.error_code,
            seconds=seconds,
            stages=stages,
            received_bytes=self._received_bytes,
            sent_bytes=self._sent_bytes,
        )
        duration_ms = {"total": round(seconds * 1000, 3)}
        for stage, streamed_s in notes.streamed.as_dict().items():
            if (stage_s := stages[stage] + streamed_s) > 0:
                duration_ms[stage] = round(stage_s * 1000, 3)
        model, version = notes.model or (None, None)
        log_request(
            {
                "request_id": notes.request_id,
                "trace_id": notes.trace_id,
                "method": method,
                "route": notes.route,
                "status": self.status,
                "error_code": notes.error_code,
                "bytes_in": self._received_bytes,
                "bytes_out": self._sent_bytes,
                "duration_ms": duration_ms,
                "key_name": notes.key_name,
                "model": model,
                "model_version": version,
                "pictures": notes.pictures or None,
                "failed_pictures": notes.failed_pictures or None,
                "detections": notes.detections if notes.pictures else None,
                "client": self._client_address(),
            }
        )

    def _add_headers(self, message: Message) -> None:
        headers = [*(message.get("headers") or ())]
        if self.adds_request_id:
            headers.append((b"x-request-id", self.notes.request_id.encode("ascii")))
        if self.notes.model is not None:  # a stream says it in each of its records
            headers.append((b"x-model", quote(":".join(self.notes.model), safe=":").encode()))
        stages = self.notes.timings.as_dict()
        if any(stages.values()):
            headers.append((b"server-timing", server_timing(stages).encode("ascii")))
        message["headers"] = headers

    def _client_address(self) -> str | None:
        if self._proxies_in_front:
            forwarded = [
                value for name, value in self._scope["headers"] if name == b"x-forwarded-for"
            ]
            addresses = b",".join(forwarded).decode("latin-1").split(",")
            if forwarded and len(addresses) >= self._proxies_in_front:
                return addresses[-self._proxies_in_front].strip()[:64]
        client = self._scope.get("client")
        return client[0] if client else None


def _frame_bytes(message: Message) -> int:
    data = message.get("bytes")
    return len(data) if data is not None else len((message.get("text") or "").encode())
