"""What a request says of its body: its type, and the picture's name."""

from __future__ import annotations

from starlette.requests import Request

from serve_app.errors import RequestError
from serve_app.http.schemas import MAX_NAME_CHARACTERS

DEFAULT_NAME = "upload"


def content_type(request: Request) -> str:
    """The media type in lower case, without parameters; empty when there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(media_type: str) -> bool:
    """Whether a body of this type is JSON."""
    return media_type == "application/json" or media_type.endswith("+json")


def is_multipart(media_type: str) -> bool:
    """Whether a body of this type comes in parts."""
    return media_type in ("multipart/form-data", "multipart/mixed", "multipart/related")


def require_detect_type(media_type: str) -> str:
    """Accepts what may hold pictures; an empty type stands for the picture itself.

    Raises:
        RequestError: 415.
    """
    if (
        media_type in ("", "application/octet-stream")
        or media_type.startswith("image/")
        or is_json(media_type)
        or is_multipart(media_type)
    ):
        return media_type
    raise RequestError(
        415,
        "unsupported_media_type",
        f"The content type {media_type[:100]} is not read",
        hint="Send the picture as the body with Content-Type: image/jpeg (or another image type, or "
        "application/octet-stream), a form (curl -F image=@picture.jpg), or JSON with application/json",
    )


def require_json_type(media_type: str) -> None:
    """Accepts JSON.

    Raises:
        RequestError: 415.
    """
    if not is_json(media_type):
        got = media_type or "none"
        raise RequestError(
            415,
            "unsupported_media_type",
            f"The content type must be application/json, got {got}",
            hint="Send Content-Type: application/json; raw pictures go to /v1/detect",
        )


def picture_name(request: Request, name: str | None) -> str:
    """What the client calls its picture: query option, else header, else "upload"."""
    if name is None:
        raw = request.headers.get("x-image-name", "").encode("latin-1")
        name = raw.decode("utf-8", "replace")[:MAX_NAME_CHARACTERS]
    return printable(name)


def printable(name: str) -> str:
    """The name without what belongs neither into logs nor into tables; "upload" when nothing is left."""
    # Lone surrogates cannot be encoded, control characters do not belong into logs and tables.
    return "".join(c for c in name if c.isprintable()).strip() or DEFAULT_NAME
