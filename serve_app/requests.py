"""From HTTP bodies to picture bytes and options, trusting nothing."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from serve_app.errors import RequestError
from serve_app.schemas import MAX_NAME_CHARACTERS, ContractItem, ContractParameters, DetectBody

DEFAULT_NAME = "upload"

Model = TypeVar("Model", bound=BaseModel)

_URL_SAFE = str.maketrans("-_", "+/")


@dataclass(frozen=True)
class ContractPicture:
    """One picture of `POST /score`: its bytes and what is asked of it."""

    data: bytes
    parameters: ContractParameters


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body, refused as soon as it is known to be too large.

    Raises:
        RequestError: 413, or 400 when there is no body.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
    if size == 0:
        raise RequestError(
            400, "empty_body", "The request has no body", hint="Send the picture as the body"
        )
    return b"".join(chunks)


def content_type(request: Request) -> str:
    """The media type in lower case, without parameters; empty when there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(media_type: str) -> bool:
    """Whether a body of this type is JSON."""
    return media_type == "application/json" or media_type.endswith("+json")


def require_picture_type(media_type: str) -> None:
    """Accepts what may be a picture as it stands.

    Raises:
        RequestError: 415.
    """
    if media_type in ("", "application/octet-stream") or media_type.startswith("image/"):
        return
    raise RequestError(
        415,
        "unsupported_media_type",
        f"The content type {media_type} is not read",
        hint="Send the picture as the body with Content-Type: image/jpeg (or another image type, or "
        "application/octet-stream), or JSON with application/json",
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
    # Lone surrogates cannot be encoded, control characters do not belong into logs and tables.
    return "".join(c for c in name if c.isprintable()).strip() or DEFAULT_NAME


def parse_detect_body(body: bytes) -> bytes:
    """The picture in the JSON body of `POST /v1/detect`.

    Raises:
        RequestError: 400 for no JSON or no base64, 422 for a wrong shape.
    """
    value = _parse_json(body)
    if not isinstance(value, dict):
        raise _wrong_shape(f"The body must be an object, got {_json_type(value)}")
    return decode_image_text(_validated(DetectBody, value, "").image, "image")


def parse_contract_body(body: bytes, *, max_images: int) -> list[ContractPicture]:
    """The pictures in the body of `POST /score`.

    Raises:
        RequestError: 400 for no JSON or no base64, 413 for too many, 422 for a wrong shape.
    """
    values = _parse_json(body)
    if not isinstance(values, list):
        raise _wrong_shape(f"The body must be a list of pictures, got {_json_type(values)}")
    if len(values) > max_images:
        raise RequestError(
            413,
            "too_many_images",
            f"The list has {len(values)} pictures (expected at most {max_images})",
            hint="Send several requests",
        )
    return [_parse_contract_item(value, index) for index, value in enumerate(values)]


def decode_image_text(text: str, where: str, *, index: int | None = None) -> bytes:
    """The bytes that a text stands for.

    Args:
        text: Base64 (standard or URL-safe, with or without padding and line breaks), a data URI, or
            either of them as Python prints bytes: `b'...'`.
        where: The field's name, for messages.
        index: Which picture of a list, for messages.

    Raises:
        RequestError: 400, it is none of these.
    """
    payload = text.strip()
    if payload[:2] in ("b'", 'b"') and payload[-1] == payload[1] and len(payload) > 2:
        # The text of `base64.encodebytes` holds its line breaks as backslash and n.
        payload = payload[2:-1].replace("\\n", "")
    if payload[:5].lower() == "data:":
        head, _, payload = payload.partition(",")
        if not head.lower().endswith(";base64"):
            raise _not_base64(where, index, "a data URI without ;base64")
    try:
        return binascii.a2b_base64(payload, strict_mode=True)
    except ValueError:
        pass  # the exact form is the fast path; the tolerant one rewrites the text first
    payload = "".join(payload.split()).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(payload + "=" * (-len(payload) % 4), validate=True)
    except ValueError:
        raise _not_base64(where, index, f"{len(text):,} characters that are none") from None


def _parse_contract_item(value: Any, index: int) -> ContractPicture:
    if not isinstance(value, dict):
        raise _wrong_shape(f"[{index}] must be an object, got {_json_type(value)}", index)
    item = _validated(ContractItem, value, f"[{index}].", index)
    data = decode_image_text(item.image_in_base64, f"[{index}].image_in_base64", index=index)
    return ContractPicture(data, item.parameters or ContractParameters())


def _parse_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested by the thousand
        reason = str(error).splitlines()[0]
        raise RequestError(
            400,
            "invalid_json",
            f"The body is not JSON: {reason}",
            hint="A raw picture goes to /v1/detect with Content-Type: image/jpeg",
        ) from None


def _validated(
    cls: type[Model], value: dict[str, Any], prefix: str, index: int | None = None
) -> Model:
    try:
        return cls.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = prefix + ".".join(str(part) for part in first["loc"])
        raise _wrong_shape(f"{where}: {first['msg']}", index) from None


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return names.get(type(value), "null" if value is None else "a number")


def _wrong_shape(message: str, index: int | None = None) -> RequestError:
    return RequestError(422, "invalid_body", message, hint="See /docs for examples", index=index)


def _not_base64(where: str, index: int | None, got: str) -> RequestError:
    return RequestError(
        400,
        "invalid_base64",
        f"Not base64: {where} (got {got})",
        hint="Encode the bytes of the picture file as base64",
        index=index,
    )


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(
        413,
        "body_too_large",
        f"The body is larger than {max_bytes:,} bytes",
        hint="Send a smaller picture, or fewer of them",
    )
