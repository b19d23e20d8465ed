"""What goes over the wire, as pydantic models: request options and bodies, and the answers for OpenAPI.

`RecordAnswer` mirrors `appliance.records.Record`, which is what is really sent.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10_000)]

MAX_NAME_CHARACTERS = 1024
RAW_CONTENT_TYPES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/bmp",
    "image/tiff",
    "image/gif",
    "application/octet-stream",
)
_EXAMPLE_PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00\x90wS\xde"
    b"\x00\x00\x00\x0cIDATx\x9cc```\x00\x00\x00\x04\x00\x01\xf6\x178U\x00\x00\x00\x00IEND\xaeB`\x82"
)
_EXAMPLE_TEXT = base64.b64encode(_EXAMPLE_PNG).decode()


class DetectOptions(BaseModel):
    """The query of `POST /v1/detect`."""

    model_config = ConfigDict(extra="forbid")

    score_threshold: Score | None = Field(
        None, description="Lowest score to answer; below the service's own it has no effect."
    )
    max_detections: Count | None = Field(
        None, description="Most detections to answer; above the service's own it has no effect."
    )
    labels: list[str] | None = Field(
        None, description="Only these labels; repeat it, or separate names by commas."
    )
    name: str | None = Field(
        None,
        max_length=MAX_NAME_CHARACTERS,
        description="Name of the picture, returned as `image_uri`; else the X-Image-Name header.",
    )

    @field_validator("labels")
    @classmethod
    def _split(cls, labels: list[str] | None) -> list[str] | None:
        return labels and [name.strip() for text in labels for name in text.split(",")]


class DetectBody(BaseModel):
    """The JSON body of `POST /v1/detect`; any other body is the picture itself."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"image": _EXAMPLE_TEXT}}
    )

    image: str = Field(description="The encoded picture as base64 or as a data URI.")


class ContractParameters(BaseModel):
    """What a picture of `POST /score` may ask for; names unknown here are ignored, as ever."""

    score_threshold: Score | None = Field(None, description="Lowest score to answer.")
    max_total_detections: Count | None = Field(None, description="Most detections to answer.")


class ContractItem(BaseModel):
    """One picture of `POST /score`."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"image_in_base64": _EXAMPLE_TEXT, "parameters": {}}}
    )

    image_in_base64: str = Field(
        description="The encoded picture: base64, a data URI, or Python's text of bytes, `b'...'`."
    )
    parameters: ContractParameters | None = None


class DetectedObjectAnswer(BaseModel):
    """One detection: a box in pixels of the picture as uploaded, best score first."""

    x1: float
    y1: float
    x2: float
    y2: float
    score: float
    class_id: int
    label: str


class RecordAnswer(BaseModel):
    """The record of one picture, the same as a Parquet row of batch scoring."""

    image_uri: str
    content_sha256: str | None
    width_px: int | None
    height_px: int | None
    model_name: str
    model_version: str
    detections: list[DetectedObjectAnswer]
    error: str | None
    error_kind: str | None


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(description="A stable word for programs.", examples=["image_unreadable"])
    message: str = Field(description="One sentence for people.")
    hint: str | None = Field(description="The next step.")
    index: int | None = Field(None, description="Which picture of a list, from 0.")


class ErrorAnswer(BaseModel):
    """Every failing answer."""

    error: ErrorDetail


class ModelAnswer(BaseModel):
    """One model of the service."""

    name: str
    version: str
    labels: list[str]
    score_threshold: float
    max_detections: int


class ModelsAnswer(BaseModel):
    """All models of the service."""

    models: list[ModelAnswer]


class StatusAnswer(BaseModel):
    """Whether the service is alive or ready."""

    status: str


def detect_request_body() -> dict[str, Any]:
    """OpenAPI for a body that is a picture, or JSON that holds one."""
    picture = {"schema": {"type": "string", "format": "binary"}}
    content: dict[str, Any] = dict.fromkeys(RAW_CONTENT_TYPES, picture)
    content["application/json"] = {
        "schema": DetectBody.model_json_schema(),
        "example": {"image": _EXAMPLE_TEXT},
    }
    header = {
        "name": "X-Image-Name",
        "in": "header",
        "description": "Name of the picture, unless the option `name` is given.",
        "schema": {"type": "string"},
    }
    return {"requestBody": {"required": True, "content": content}, "parameters": [header]}


def score_request_body(max_images: int) -> dict[str, Any]:
    """OpenAPI for the list of the contract."""
    item = ContractItem.model_json_schema(ref_template="#/components/schemas/{model}")
    item.pop("$defs")
    item["properties"]["parameters"] = ContractParameters.model_json_schema()
    schema = {"type": "array", "items": item, "maxItems": max_images}
    example = [{"image_in_base64": _EXAMPLE_TEXT, "parameters": {"score_threshold": 0.5}}]
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI for the failing answers of a route."""
    return {status: {"model": ErrorAnswer, "description": _MEANINGS[status]} for status in statuses}


_MEANINGS = {
    400: "The body is no picture, or no JSON",
    401: "The service asks for a key",
    408: "The body came too slowly",
    413: "The body, the picture or the list is too large",
    415: "The content type or the picture format is not read",
    422: "A field or an option is wrong",
    503: "Too many requests wait; try again after Retry-After seconds",
    504: "The answer took too long",
}
