"""The HTTP interface: every route on top of the same service. Free of Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from serve_app.http import detect, frames, page, score, status, stream
from serve_app.http.error_answers import install_error_handlers
from serve_app.http.service import Service
from serve_app.inference_protocol import routes as inference_protocol
from serve_app.scoring.models import ModelPool
from serve_app.security.admission import ByteBudget, Gate
from serve_app.security.keys import KeyRing
from serve_app.security.rate_limits import RateLimits
from serve_app.security.url_fetching import UrlFetcher
from serve_app.settings import ServiceSettings

_DESCRIPTION = """Finds objects in pictures. Every failing answer is JSON:
`{"error": {"code", "message", "hint"}}`."""

_ROUTES = (detect, stream, frames, score, status, page, inference_protocol)


def create_api(
    pool: ModelPool, settings: ServiceSettings, urls: UrlFetcher | None = None
) -> FastAPI:
    """The whole HTTP interface.

    Args:
        pool: The models; closed at shutdown.
        settings: Limits, keys, and so on.
        urls: Fetches pictures from URLs, instead of what the settings say; closed at shutdown, too.

    Raises:
        ConfigError: The key file cannot be read, or has no keys.
    """
    keys = KeyRing.of(settings)
    service = Service(
        settings=settings,
        pool=pool,
        gate=Gate(settings.max_ongoing_requests, settings.max_queued_requests),
        bodies=ByteBudget(settings.max_bodies_bytes),
        streams=Gate(settings.max_streams, 0),
        keys=keys,
        rates=RateLimits(keys.rate_of),
        urls=urls or UrlFetcher.of(settings),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await pool.close()
        if service.urls is not None:
            await service.urls.close()

    app = FastAPI(title="Detection appliance", description=_DESCRIPTION, lifespan=lifespan)
    install_error_handlers(app)
    for routes in _ROUTES:
        routes.add_routes(app, service)
    return app
