"""From the body of `POST /v1/detect` to pictures and options: a picture as it is, a form, or JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from appliance.errors import ApplianceError
from serve_app.errors import RequestError
from serve_app.http.json_bodies import json_type, parse_json, wrong_shape
from serve_app.http.media_types import is_json, is_multipart, printable
from serve_app.http.multipart import MultipartReader, Part
from serve_app.http.picture_texts import decode_image_text
from serve_app.http.schemas import MAX_NAME_CHARACTERS

_MAX_FIELDS = 1_000
"""Of a form, besides its pictures: each label may be a field."""


@dataclass(frozen=True)
class SentPicture:
    """One picture of a request.

    Attributes:
        name: As it is called in its record and in messages.
        content: The encoded picture, or the error met on reading it.
        url: Where to fetch it instead; `content` is empty then.
    """

    name: str
    content: bytes | ApplianceError = b""
    url: str | None = None


@dataclass(frozen=True)
class SentPictures:
    """What a body holds.

    Attributes:
        pictures: In the order sent.
        several: Whether the answer is to be a list, one result a picture.
        options: Those of the body, not checked yet.
    """

    pictures: list[SentPicture]
    several: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def read_pictures(
    body: bytes, *, media_type: str, content_type: str, name: str, max_images: int
) -> SentPictures:
    """The pictures in a body.

    Args:
        body: All of it.
        media_type: Its type, in lower case, without parameters.
        content_type: The whole header.
        name: What a single picture without a name of its own is called.
        max_images: Most pictures.

    Raises:
        RequestError: 400 for what cannot be read, 413 for too many pictures, 422 for a wrong shape.
    """
    if is_json(media_type):
        sent = _of_json(body, name, max_images)
    elif is_multipart(media_type):
        sent = _of_form(body, content_type, name, max_images)
    else:
        sent = SentPictures([SentPicture(name, body)])
    _check_count(len(sent.pictures), max_images)
    return sent


def picture_of_json(value: Any, where: str, name: str) -> SentPicture:
    """A picture as JSON holds it: text, `{"url": ...}`, or `{"image": either of them, "name": ...}`.

    Args:
        value: What stands there.
        where: The place in the body, for messages.
        name: What it is called unless it says so itself.

    Raises:
        RequestError: 400 for no base64, 422 for a wrong shape.
    """
    if isinstance(value, dict) and "image" in value:
        unknown = set(value) - {"image", "name"}
        own_name = value.get("name", name)
        if unknown or not isinstance(own_name, str) or len(own_name) > MAX_NAME_CHARACTERS:
            raise wrong_shape(f"{where}: expected the fields image and name, the latter a text")
        return picture_of_json(value["image"], f"{where}.image", printable(own_name))
    if isinstance(value, str):
        return SentPicture(name, decode_image_text(value, where))
    if isinstance(value, dict) and set(value) == {"url"} and isinstance(value["url"], str):
        return SentPicture(name, url=value["url"])
    raise wrong_shape(f'{where} must be base64 or {{"url": ...}}, got {json_type(value)}')


def _check_count(count: int, max_images: int) -> None:
    if count > max_images:
        raise RequestError(
            413,
            "too_many_images",
            f"The request has {count} pictures (expected at most {max_images})",
            hint="Send several requests, or use /v1/detect/stream",
        )


def _of_json(body: bytes, name: str, max_images: int) -> SentPictures:
    value = parse_json(body)
    if not isinstance(value, dict):
        raise wrong_shape(f"The body must be an object, got {json_type(value)}")
    options = {key: item for key, item in value.items() if key not in ("image", "images")}
    if ("image" in value) == ("images" in value):
        raise wrong_shape("Expected either image, or images with a list of them")
    if "image" in value:
        picture = picture_of_json(value["image"], "image", name)
        return SentPictures([picture], options=options)
    if not isinstance(value["images"], list) or not value["images"]:
        raise wrong_shape(f"images must be a list with pictures, got {json_type(value['images'])}")
    _check_count(len(value["images"]), max_images)  # before work is done for each of them
    pictures = [_item(item, index) for index, item in enumerate(value["images"])]
    return SentPictures(pictures, True, options)


def _item(value: Any, index: int) -> SentPicture:
    """A picture of several; what is wrong with one of them is told in its own result."""
    where = f"images[{index}]"
    try:
        return picture_of_json(value, where, where)
    except RequestError as error:
        return SentPicture(where, error)


def _of_form(body: bytes, content_type: str, name: str, max_images: int) -> SentPictures:
    reader = MultipartReader(content_type, len(body), max_parts=max_images + _MAX_FIELDS)
    parts = reader.feed(body)
    reader.finish()
    pictures = [part for part in parts if part.is_picture]
    if not pictures:
        raise RequestError(
            400, "empty_body", "The form has no file", hint="As in curl -F image=@picture.jpg"
        )
    several = len(pictures) > 1
    sent = [
        SentPicture(_part_name(part, f"[{index}]" if several else name), part.data)
        for index, part in enumerate(pictures)
    ]
    return SentPictures(sent, several, _form_options(parts))


def _part_name(part: Part, otherwise: str) -> str:
    return printable(part.filename[:MAX_NAME_CHARACTERS]) if part.filename else otherwise


def _form_options(parts: list[Part]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in parts:
        if part.is_picture:
            continue
        text = part.data[:10_000].decode("utf-8", "replace")
        if part.name == "labels":
            options.setdefault("labels", []).append(text)
        else:
            options[part.name] = text
    return options
