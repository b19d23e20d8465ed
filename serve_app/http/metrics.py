"""`GET /metrics`, the page that Prometheus reads."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from serve_app.http.schemas import error_responses
from serve_app.http.service import Service
from serve_app.telemetry.exposition import render


def add_routes(app: FastAPI, service: Service) -> None:
    """Adds `GET /metrics`."""

    @app.get(
        "/metrics",
        tags=["status"],
        summary="Counts for Prometheus",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **error_responses(401),
        },
    )
    async def metrics(request: Request) -> Response:
        """Of all replicas of the service, whichever of them answers.

        Asks for a key where scoring does, unless the setting `open_metrics` says otherwise.
        """
        if not service.settings.open_metrics:
            service.keys.identify(request.headers.get("authorization"))
        page, content_type = render(await service.counts.all(), request.headers.get("accept"))
        return Response(page, headers={"Content-Type": content_type})
