"""Asks an ASGI application without a connection in between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Message

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HttpAnswer:
    """What the application has answered; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def ask(
    application: ASGIApp,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str],
    client: str,
    body: bytes = b"",
) -> HttpAnswer:
    """The answer of `application`; whoever hangs up cancels the call.

    Args:
        application: Started already.
        method: In capitals.
        path: Not quoted, without a query.
        headers: Names in lower case.
        client: Who asks, for logs.
        body: All of it.
    """
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "2",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (name.encode("ascii"), text.encode("latin-1", "replace"))
            for name, text in headers.items()
        ],
        "client": (client, 0),
        "server": None,
    }
    unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    started: list[Message] = []
    parts: list[bytes] = []

    async def receive() -> Message:
        # Nothing more ever comes, not even the news that the client has gone.
        return unread.pop() if unread else await asyncio.get_running_loop().create_future()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            started.append(message)
        else:
            parts.append(message.get("body", b""))

    try:
        await application(scope, receive, send)
    except Exception:
        # It has answered 500 and raises for whoever logs; a client learns nothing of our insides.
        logger.exception("%s %s failed", method, path)
    if not started:
        return HttpAnswer(500, {}, b"")
    answered = {
        name.decode("latin-1").lower(): text.decode("latin-1")
        for name, text in started[0]["headers"]
    }
    return HttpAnswer(started[0]["status"], answered, b"".join(parts))
