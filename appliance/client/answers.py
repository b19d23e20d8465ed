"""What a service answers, as typed values or as errors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from appliance.client.pictures import ReadyPicture
from appliance.client.retries import retry_after_s
from appliance.errors import (
    ForeignAnswerError,
    ServiceBusyError,
    ServiceCallError,
    ServiceRefusalError,
    ServiceTimeoutError,
)

if TYPE_CHECKING:
    from appliance.records import Record

_BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_LATE = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GATEWAY_TIMEOUT)
_SHOWN_CHARACTERS = 100


@dataclass(frozen=True)
class Answer:
    """An answer that came whole.

    Attributes:
        status: HTTP status.
        headers: By names in any case.
        body: All of it.
        url: Who has answered.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


@dataclass(frozen=True)
class ModelInfo:
    """A model of a service; what only its file tells is None until it is loaded.

    Attributes:
        name: As `model=` takes it.
        loaded: Whether it is in memory.
        default: Whether it answers unless another is asked for.
        version: Of the file.
        architecture: Of the network.
        labels: What it knows.
        score_threshold: Lowest score that it answers.
        max_detections: Most detections that it answers.
    """

    name: str
    loaded: bool
    default: bool
    version: str | None = None
    architecture: str | None = None
    labels: tuple[str, ...] | None = None
    score_threshold: float | None = None
    max_detections: int | None = None


def accepted(answer: Answer, what: str) -> Answer:
    """The same answer, if it is one that was asked for.

    Args:
        answer: What came.
        what: What the request was for.

    Raises:
        ServiceCallError: The service refuses, is busy or late, or it is no appliance that answers.
    """
    if answer.status in (HTTPStatus.OK, HTTPStatus.ACCEPTED):
        return answer
    error = _error_of(answer.body)
    if error is None:
        raise foreign(answer)
    raise refusal(error, what, answer)


def refusal(error: Mapping[str, Any], what: str, answer: Answer) -> ServiceCallError:
    """The error that a service tells in its own words.

    Args:
        error: With `code`, `message`, `hint`.
        what: What the request was for.
        answer: Which carries it.
    """
    status, code = answer.status, str(error.get("code"))
    facts: dict[str, Any] = {
        "where": what or None,
        "got": f"{code}: {error.get('message')}",
        "hint": error.get("hint") or None,
        "status": status,
        "code": code,
        "request_id": answer.headers.get("X-Request-Id"),
        "index": error.get("index"),
    }
    if status in _BUSY:
        return ServiceBusyError(
            "The service has no room for this now",
            transient=True,
            retry_after_s=retry_after_s(answer.headers),
            **facts,
        )
    if status in _LATE:
        return ServiceTimeoutError("The service was too late", **facts)
    return ServiceRefusalError("The service refused a request", **facts)


def foreign(answer: Answer) -> ForeignAnswerError:
    """The error for an answer that no appliance gives."""
    got = f"status {answer.status}"
    location = answer.headers.get("Location")
    if location is not None:
        got += f", which leads to {location.partition('?')[0]}"
    elif shown := _shown(answer.body):
        got += f" and {shown!r}"
    return ForeignAnswerError(
        "It is not the appliance that answers",
        where=answer.url.partition("?")[0],
        got=got,
        hint="Check host, port and path of the address, and what stands in between",
        status=answer.status,
        request_id=answer.headers.get("X-Request-Id"),
        transient=answer.status in _BUSY,
        retry_after_s=retry_after_s(answer.headers),
    )


def record_of(answer: Answer) -> Record:
    """The record of one picture.

    Raises:
        ForeignAnswerError: It is none.
    """
    try:
        return record_of_row(json.loads(answer.body))
    except (ValueError, TypeError, KeyError):
        raise foreign(answer) from None


def record_of_row(row: Mapping[str, Any]) -> Record:
    """A record as JSON holds it; what a later service adds is left out.

    Raises:
        TypeError: It is none.
        KeyError: It is none.
    """
    from appliance.records import DetectedObject, Record

    found = [known_fields(DetectedObject, item) for item in row["detections"]]
    return Record.from_row({**known_fields(Record, row), "detections": found})


def models_of(answer: Answer) -> tuple[ModelInfo, ...]:
    """The models of a service, the default first.

    Raises:
        ForeignAnswerError: It is no list of models.
    """
    try:
        rows = [known_fields(ModelInfo, row) for row in json.loads(answer.body)["models"]]
        return tuple(
            ModelInfo(**{**row, "labels": row.get("labels") and tuple(row["labels"])})
            for row in rows
        )
    except (ValueError, TypeError, KeyError):
        raise foreign(answer) from None


def score_dict_of(answer: Answer) -> dict[str, Any]:
    """The dictionary of one picture, as the endpoint of the 2018 package answers: JSON within JSON.

    Raises:
        ForeignAnswerError: It is none.
    """
    try:
        (text,) = json.loads(answer.body)
        scored = json.loads(text)
        if "detection_boxes" in scored:
            return dict(scored)
    except (ValueError, TypeError):
        pass
    raise foreign(answer)


def jpeg_of(answer: Answer) -> bytes:
    """A picture.

    Raises:
        ForeignAnswerError: It is none.
    """
    if not answer.headers.get("Content-Type", "").startswith("image/"):
        raise foreign(answer)
    return answer.body


def failed_record(error: Exception, picture: ReadyPicture) -> Record:
    """The record of a picture that came to nothing, as batch scoring has it; the model is not known."""
    from hashlib import sha256

    from appliance.records import Record

    return Record(
        image_uri=picture.name,
        content_sha256=sha256(picture.data).hexdigest() if picture.data else None,
        width_px=None,
        height_px=None,
        model_name="",
        model_version="",
        error=str(error),
        error_kind=getattr(error, "kind", type(error).__name__),
    )


def known_fields(cls: type[Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass that a JSON object has; what a later service adds is left out."""
    return {field.name: row[field.name] for field in fields(cls) if field.name in row}


def _error_of(body: bytes) -> dict[str, Any] | None:
    try:
        error = json.loads(body)["error"]
    except (ValueError, TypeError, KeyError):
        return None
    return error if isinstance(error, dict) and {"code", "message"} <= set(error) else None


def _shown(body: bytes) -> str:
    """What an answer says, in short: the title of a page, or how its text begins."""
    text = body[:10_000].decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>([^<]*)</title>", text, re.IGNORECASE)
    words = title[1] if title else re.sub(r"<[^>]*>", " ", text)
    return " ".join(words.split())[:_SHOWN_CHARACTERS]
