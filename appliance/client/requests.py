"""What a client asks of a service, as values: nothing here sends anything."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict
from urllib.parse import urlencode

from appliance.client.pictures import ReadyPicture
from appliance.errors import ConfigError

STREAM_TYPE = "application/x-ndjson"
JSON_TYPE = {"Content-Type": "application/json"}
_PICTURE_TYPE = {"Content-Type": "application/octet-stream"}


class DetectOptions(TypedDict, total=False):
    """What a detection may ask for; what is None or left out, the service decides.

    Attributes:
        score_threshold: Lowest score to answer, 0..1.
        max_detections: Most detections to answer, from 1.
        labels: Only these, as one name or several.
        resize: Width and height in pixels in which the model looks at the picture; boxes refer to the picture
            as sent all the same.
        model: Which model of the service.
    """

    score_threshold: float | None
    max_detections: int | None
    labels: str | Sequence[str] | None
    resize: str | tuple[int, int] | None
    model: str | None


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        what: What it is for, as errors put it: "a picture: shelf.jpg".
        path: Of the route, with its query.
        method: GET, POST or DELETE.
        body: What is sent.
        headers: Besides the key and the deadline.
    """

    what: str
    path: str
    method: str = "GET"
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def detect_request(
    picture: ReadyPicture, options: Mapping[str, Any], *, annotated: bool = False
) -> Request:
    """Asks for the detections of one picture, or for the picture with them drawn into it.

    Raises:
        ConfigError: There is no such option.
    """
    query = {**query_of(options), "name": picture.name}
    if annotated:
        query["format"] = "annotated"
    path = "/v1/detect?" + urlencode(query, doseq=True, errors="replace")
    if picture.url is None:
        body, headers = picture.data, _PICTURE_TYPE
    else:
        body, headers = json_body({"image": {"url": picture.url}}), JSON_TYPE
    return Request(picture.name, path, "POST", body, headers)


def score_request(picture: ReadyPicture, parameters: Mapping[str, Any] | None) -> Request:
    """Asks the endpoint of the 2018 package for the detections of one picture."""
    item = {"image_in_base64": _base64(picture.data), "parameters": dict(parameters or {})}
    return Request(picture.name, "/score", "POST", json_body([item]), JSON_TYPE)


def stream_path(options: Mapping[str, Any]) -> str:
    """Where lines of pictures go.

    Raises:
        ConfigError: There is no such option.
    """
    query = urlencode(query_of(options), doseq=True, errors="replace")
    return "/v1/detect/stream" + ("?" + query if query else "")


def stream_line(picture: ReadyPicture) -> bytes:
    """One picture of a stream."""
    image = {"url": picture.url} if picture.url is not None else _base64(picture.data)
    return json_body({"image": image, "name": picture.name}) + b"\n"


def query_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as they stand in a query.

    Raises:
        ConfigError: There is no such option.
    """
    unknown = sorted(set(options) - set(DetectOptions.__annotations__))
    if unknown:
        raise ConfigError(
            "Not an option of a detection",
            got=", ".join(unknown),
            expected=", ".join(DetectOptions.__annotations__),
        )
    query = {name: value for name, value in options.items() if value is not None}
    if not isinstance(query.get("resize", ""), str):
        query["resize"] = "x".join(str(side) for side in query["resize"])
    return query


def json_body(value: object) -> bytes:
    """A value as the body of a request."""
    # ASCII only: names of files may hold what UTF-8 cannot express.
    return json.dumps(value).encode("ascii")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
