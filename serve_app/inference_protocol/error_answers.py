"""Failing answers under /v2, in the form that clients of the Open Inference Protocol read.

    {"error": "one sentence that says what is wrong and what to do"}

Everywhere else `error` is an object with `code`, `message` and `hint`; the statuses are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from appliance.errors import ApplianceError
from serve_app.errors import RequestError, request_error
from serve_app.http.answers import json_response


class InferenceProtocolRoute(APIRoute):
    """A route whose errors are answered as the protocol has them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request, errors included."""
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except ApplianceError as error:
                refused = request_error(error)
                request.state.notes.error_code = refused.code
                return error_answer(refused)

        return answer


def error_answer(error: RequestError) -> Response:
    """The answer that tells of `error`."""
    response = json_response({"error": str(error)}, error.status)
    response.headers.update(error.headers)
    return response
