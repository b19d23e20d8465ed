"""JSON of clients, trusting nothing."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from serve_app.errors import RequestError

Model = TypeVar("Model", bound=BaseModel)

# A parser makes of each value an object many times as large as its text, and nothing else runs meanwhile.
_MAX_VALUES = 100_000
_MAX_FIELDS = 10_000
_MAX_LISTS = 1_000_000
"""Each pixel of a picture may be one."""


def parse_json(body: bytes | str, *, with_tensors: bool = False) -> Any:
    """The value that a body holds.

    Args:
        body: Text that a client has sent.
        with_tensors: Whether it may hold as many numbers as there is room for.

    Raises:
        RequestError: 400, it is no JSON; 413, it holds more values than any honest one.
    """
    text = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    if with_tensors:
        fields = text.count(b"{") + text.count(b":")
        excessive = fields > _MAX_FIELDS or text.count(b"[") > _MAX_LISTS
    else:
        excessive = text.count(b",") > _MAX_VALUES  # between any two values there is one
    if excessive:
        raise RequestError(
            413,
            "too_many_values",
            "The JSON holds too many values",
            hint="Send pictures as base64 text or in binary, or in several requests",
        )
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


def validated(
    cls: type[Model], value: dict[str, Any], prefix: str, index: int | None = None
) -> Model:
    """`value` as `cls`.

    Raises:
        RequestError: 422, it has the wrong shape; `prefix` says where it stands in the body.
    """
    try:
        return cls.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = prefix + ".".join(str(part) for part in first["loc"])
        raise wrong_shape(f"{where}: {first['msg']}", index) from None


def json_type(value: Any) -> str:
    """What a JSON value is, for messages."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return names.get(type(value), "null" if value is None else "a number")


def wrong_shape(message: str, index: int | None = None) -> RequestError:
    """The error for JSON that is not what it should be."""
    return RequestError(422, "invalid_body", message, hint="See /docs for examples", index=index)
