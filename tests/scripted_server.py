"""The other end of a client: a server that answers as a test tells it, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import threading

from aiohttp import web

WAIT_S = 20.0
RECORD = {
    "image_uri": "a.jpg",
    "content_sha256": "00",
    "width_px": 96,
    "height_px": 64,
    "model_name": "tiny",
    "model_version": "1",
    "detections": [
        {"x1": 1, "y1": 2, "x2": 30, "y2": 40, "score": 0.5, "class_id": 1, "label": "circle"}
    ],
    "error": None,
    "error_kind": None,
}


class Scripted:
    """Answers each request with the next of `answers`; the last one stays.

    Attributes:
        url: Where it listens.
        answers: Responses as (status, body, headers), or async functions of the request.
        requests: Method, path, headers and body of each request.
        at_once: How many were in work at most.
        hung_up: Set when a client has hung up on an answer.
    """

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.url = ""
        self.at_once = self.in_work = 0
        self.hung_up = threading.Event()
        self.begun = threading.Condition()

    async def handle(self, request):
        body = await request.read() if request.content_type != "application/x-ndjson" else b""
        self.requests.append((request.method, request.path_qs, request.headers.copy(), body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        with self.begun:
            self.in_work += 1
            self.at_once = max(self.at_once, self.in_work)
            self.begun.notify_all()
        try:
            return await answer(request) if callable(answer) else response(*answer)
        except asyncio.CancelledError:
            self.hung_up.set()
            raise
        finally:
            self.in_work -= 1

    def wait_for_work(self, count=1):
        """Returns when so many requests are in work."""
        with self.begun:
            assert self.begun.wait_for(lambda: self.in_work >= count, WAIT_S)

    @property
    def paths(self):
        return [path for _, path, _, _ in self.requests]


def response(status=200, body=RECORD, headers=None):
    if isinstance(body, str):
        return web.Response(status=status, text=body, headers=headers, content_type="text/html")
    return web.json_response(body, status=status, headers=headers)


def error(status, code, headers=None, **more):
    body = {"error": {"code": code, "message": f"It is {code}", "hint": "Do this", **more}}
    return status, body, {"X-Request-Id": "r1", **(headers or {})}


async def never(_):
    """Answers when the client has hung up."""
    await asyncio.Event().wait()


async def cut(request):
    """Ends the connection without a word."""
    request.transport.abort()


async def cut_within(request):
    """Ends the connection within an answer."""
    answer = web.StreamResponse(headers={"Content-Length": "1000"})
    await answer.prepare(request)
    await answer.write(b"{")
    request.transport.close()
    return answer


@contextlib.contextmanager
def scripted(*answers):
    """Serves `answers` from a thread."""
    server = Scripted(*answers)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start():
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", server.handle)
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
