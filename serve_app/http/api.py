"""The HTTP interface: every route on top of the same service. Free of Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from serve_app.http import detect, frames, page, reference, score, status, stream, train
from serve_app.http import metrics as metrics_route
from serve_app.http.error_answers import install_error_handlers
from serve_app.http.service import Service
from serve_app.inference_protocol import routes as inference_protocol
from serve_app.scoring.models import ModelPool
from serve_app.security.admission import ByteBudget, Gate
from serve_app.security.keys import KeyRing
from serve_app.security.rate_limits import RateLimits
from serve_app.security.url_fetching import UrlFetcher
from serve_app.settings import ServiceSettings
from serve_app.telemetry.metrics import Metrics
from serve_app.telemetry.middleware import TelemetryMiddleware
from serve_app.telemetry.replicas import NodeCounts, Replica, open_metrics

_DESCRIPTION = """Finds objects in pictures. Every failing answer is JSON:
`{"error": {"code", "message", "hint"}}`."""

_ROUTES = (
    detect,
    stream,
    frames,
    score,
    status,
    train,
    page,
    reference,
    metrics_route,
    inference_protocol,
)


def create_api(
    pool: ModelPool,
    settings: ServiceSettings,
    *,
    metrics: Metrics | None = None,
    replica: Replica | None = None,
    urls: UrlFetcher | None = None,
) -> FastAPI:
    """The whole HTTP interface.

    Args:
        pool: The models; closed at shutdown.
        settings: Limits, keys, and so on.
        metrics: Where to count; the same that the models count their batches with. Closed at shutdown.
        replica: Which of Ray Serve's this is; None without Serve.
        urls: Fetches pictures from URLs, instead of what the settings say; closed at shutdown, too.

    Raises:
        ConfigError: The key file cannot be read, or has no keys.
    """
    keys = KeyRing.of(settings)
    metrics = metrics or open_metrics(settings.metrics_dir, replica)
    pool.watch(metrics.model_loaded, metrics.model_given_up)
    metrics.queue_depth = lambda: sum(engine.queue_depth for engine in pool.engines)
    service = Service(
        settings=settings,
        pool=pool,
        gate=Gate(settings.max_ongoing_requests, settings.max_queued_requests),
        bodies=ByteBudget(settings.max_bodies_bytes),
        streams=Gate(settings.max_streams, 0),
        keys=keys,
        rates=RateLimits(keys.rate_of),
        metrics=metrics,
        counts=NodeCounts(metrics, replica),
        urls=urls or UrlFetcher.of(settings),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await pool.close()
        metrics.close()
        if service.urls is not None:
            await service.urls.close()

    app = FastAPI(
        title="Detection appliance",
        description=_DESCRIPTION,
        lifespan=lifespan,
        # FastAPI's own pages load scripts from elsewhere; `reference` makes /docs.
        docs_url=None,
        redoc_url=None,
    )
    install_error_handlers(app)
    for routes in _ROUTES:
        routes.add_routes(app, service)
    # Around all of it, also around what answers when one of our own routes fails.
    app.middleware_stack = TelemetryMiddleware(
        app.build_middleware_stack(),
        metrics,
        adds_request_id=replica is None,
        proxies_in_front=settings.proxies_in_front,
    )
    return app
