"""Every failing answer as one JSON shape: `{"error": {"code", "message", "hint"}}` and a status.

`code` is a stable word for programs, `message` a sentence for people, `hint` the next step, and
`index` says which picture of a list is meant, where that applies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from appliance.errors import ApplianceError, ImageError, InputError, LabelError, ServiceError

_IMAGE_STATUS = {"too_large": 413, "unsupported": 415}
_HINTS = {
    "image_empty": "Send the bytes of a picture as the body",
    "image_unreadable": "Send a whole JPEG, PNG, WebP, BMP, TIFF or GIF file; see /docs for examples",
    "image_too_large": "Scale the picture down before sending it",
    "unknown_label": "GET /v1/models lists the labels of the model",
    "unavailable": "Try again after the seconds in Retry-After",
}


class RequestError(InputError):
    """A request that is refused.

    Attributes:
        status: HTTP status.
        code: Stable word for programs.
        index: Position in the list of pictures, from 0, or None.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        index: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code
        self.index = index
        self.headers = dict(headers or {})


def request_error(error: ApplianceError, *, index: int | None = None) -> RequestError:
    """Gives an error of the library its status and code."""
    if isinstance(error, RequestError):
        error.index = index if error.index is None else error.index
        return error
    headers: dict[str, str] = {}
    if isinstance(error, ImageError):
        status, code = _IMAGE_STATUS.get(error.kind, 400), f"image_{error.kind}"
    elif isinstance(error, LabelError):
        status, code = 422, "unknown_label"
    elif isinstance(error, ServiceError):
        status, code, headers = 503, "unavailable", {"Retry-After": "1"}
    else:
        status, code = 400, "invalid_request"
    hint = error.hint or _HINTS.get(code, "See /docs for what a request may hold")
    return RequestError(status, code, error.message, hint=hint, index=index, headers=headers)


def error_response(error: RequestError) -> Response:
    """The answer that tells of `error`."""
    body: dict[str, object] = {"code": error.code, "message": error.message, "hint": error.hint}
    if error.index is not None:
        body["index"] = error.index
    # ASCII only: a message may quote text of the client that UTF-8 cannot express.
    content = json.dumps({"error": body}).encode("ascii")
    return Response(content, error.status, error.headers, media_type="application/json")


def install_error_handlers(app: FastAPI) -> None:
    """Makes every failing route of `app` answer in the one shape."""

    @app.exception_handler(ApplianceError)
    async def on_appliance_error(_: Request, error: ApplianceError) -> Response:
        return error_response(request_error(error))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        messages = {
            404: ("not_found", f"There is nothing at {request.url.path}"),
            405: ("method_not_allowed", f"{request.method} is not possible here"),
        }
        code, message = messages.get(error.status_code, ("http_error", str(error.detail)))
        hint = f"{request.scope.get('root_path', '')}/docs shows what there is"
        return error_response(
            RequestError(error.status_code, code, message, hint=hint, headers=error.headers)
        )

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        message = f"{where}: {first['msg']}"
        return error_response(
            RequestError(422, "invalid_parameter", message, hint="See /docs for what it may be")
        )

    @app.exception_handler(Exception)
    async def on_unexpected_error(_: Request, __: Exception) -> Response:
        # Whoever runs the application logs the traceback; the client learns nothing of our insides.
        message = "The service failed on this request"
        return error_response(
            RequestError(500, "internal", message, hint="The reason is in the log of the service")
        )
