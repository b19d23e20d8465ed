"""What is wrong with a request: a status, a stable word for programs, a sentence and the next step."""

from __future__ import annotations

from collections.abc import Mapping

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

    @property
    def kind(self) -> str:
        """The word to count it by in a record."""
        return self.code


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
