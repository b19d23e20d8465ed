"""Every failing answer as one JSON shape: `{"error": {"code", "message", "hint"}}` and a status.

`code` is a stable word for programs, `message` a sentence for people, `hint` the next step, and
`index` says which picture of a list is meant, where that applies.
"""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from appliance.errors import ApplianceError
from serve_app.errors import RequestError, request_error
from serve_app.http.answers import json_response


def error_body(error: RequestError) -> dict[str, object]:
    """What an answer, or a line of a stream, says of `error`."""
    body: dict[str, object] = {"code": error.code, "message": error.message, "hint": error.hint}
    if error.index is not None:
        body["index"] = error.index
    return {"error": body}


def error_response(error: RequestError) -> Response:
    """The answer that tells of `error`."""
    response = json_response(error_body(error), error.status)
    response.headers.update(error.headers)
    return response


def _noted(request: Request, error: RequestError) -> Response:
    request.state.notes.error_code = error.code
    return error_response(error)


def install_error_handlers(app: FastAPI) -> None:
    """Makes every failing route of `app` answer in the one shape."""

    @app.exception_handler(ApplianceError)
    async def on_appliance_error(request: Request, error: ApplianceError) -> Response:
        return _noted(request, request_error(error))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        messages = {
            404: ("not_found", f"There is nothing at {request.url.path}"),
            405: ("method_not_allowed", f"{request.method} is not possible here"),
        }
        code, message = messages.get(error.status_code, ("http_error", str(error.detail)))
        hint = f"{request.scope.get('root_path', '')}/docs shows what there is"
        return _noted(
            request,
            RequestError(error.status_code, code, message, hint=hint, headers=error.headers),
        )

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        message = f"{where}: {first['msg']}"
        return _noted(
            request,
            RequestError(422, "invalid_parameter", message, hint="See /docs for what it may be"),
        )

    @app.exception_handler(Exception)
    async def on_unexpected_error(request: Request, __: Exception) -> Response:
        # Whoever runs the application logs the traceback; the client learns nothing of our insides.
        message = "The service failed on this request"
        return _noted(
            request,
            RequestError(500, "internal", message, hint="The reason is in the log of the service"),
        )
