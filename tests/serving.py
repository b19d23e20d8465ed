"""Serves an application on loopback within the test's process, and asks it over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import uvicorn

from appliance.scoring import ImageScorer
from serve_app.http.api import create_api
from serve_app.scoring.engine import ScoringEngine
from serve_app.scoring.models import ModelPool
from serve_app.settings import ServiceSettings
from serve_app.telemetry.metrics import Metrics

JPEG_TYPE = {"Content-Type": "image/jpeg"}
JSON_TYPE = {"Content-Type": "application/json"}
MAX_BODY_BYTES = 200_000
WAIT_S = 60.0


def settings_for(model_path, **values):
    limits = {"max_body_bytes": MAX_BODY_BYTES, "max_pixels": 1_000_000}
    values = {"max_batch_size": 4, "max_images_per_request": 3, "num_cpus": 0.5, **limits, **values}
    return ServiceSettings(model=str(model_path), **values)


def api_of(engine: ScoringEngine, settings: ServiceSettings):
    """The application on top of one engine."""
    return create_api(ModelPool(engine), settings)


@contextlib.contextmanager
def serving(api):
    """Serves an ASGI application with uvicorn on a free port; gives its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(api, log_level="critical", ws="websockets-sansio"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextlib.contextmanager
def plain_service(model_path, **values):
    """The service with one model, without Ray."""
    settings = settings_for(model_path, **values)
    metrics = Metrics()
    pool = ModelPool.load(settings, metrics.observe_batch)
    with serving(create_api(pool, settings, metrics=metrics)) as url:
        yield url


class HeldScorer(ImageScorer):
    """A scorer whose model starts only when the gate opens."""

    def __init__(self, scorer):
        super().__init__(scorer.predictor)
        self.gate = threading.Event()
        self.started = threading.Event()

    def predict(self, uploads):
        self.started.set()
        assert self.gate.wait(WAIT_S)
        return super().predict(uploads)


@contextlib.contextmanager
def held_service(scorer, **values):
    """A service whose model waits until `held.gate` opens."""
    held = HeldScorer(scorer)
    settings = settings_for("unused", **values)
    with serving(api_of(ScoringEngine(held, ThreadPoolExecutor(1), settings), settings)) as url:
        try:
            yield url, held
        finally:
            held.gate.set()


async def request(url, method="POST", data=None, headers=None):
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, data=data, headers=headers) as response,
    ):
        return response.status, response.headers, await response.read()


def ask(url, method="POST", data=None, headers=None):
    """Status, headers and parsed JSON of one answer."""
    status, answer_headers, body = asyncio.run(request(url, method, data, headers))
    return status, answer_headers, json.loads(body)
