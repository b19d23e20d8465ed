"""What goes over the wire, as pydantic models: request options and bodies, and the answers for OpenAPI.

`RecordAnswer` mirrors `appliance.records.Record`, which is what is really sent.
"""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10_000)]

MAX_NAME_CHARACTERS = 1024
_MAX_LABELS = 10_000
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
_SIDE = r"(?:1[6-9]|[2-9]\d|[1-9]\d{2}|[1-3]\d{3}|40[0-8]\d|409[0-6])"
_RESIZE = re.compile(f"{_SIDE}x{_SIDE}")


class DetectOptions(BaseModel):
    """What a request for detections may ask for; in the query, in a form or in JSON."""

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
    resize: str | None = Field(
        None,
        description="Width and height, such as 640x480, in which the model looks at the picture; boxes "
        "refer to the picture as sent all the same.",
        examples=["640x480"],
    )
    format: Literal["json", "annotated"] = Field(
        "json", description="A record, or a JPEG with the detections drawn into it."
    )
    name: str | None = Field(
        None,
        max_length=MAX_NAME_CHARACTERS,
        description="Name of the picture, returned as `image_uri`; else the X-Image-Name header.",
    )
    model: str | None = Field(
        None, max_length=MAX_NAME_CHARACTERS, description="Which model; else the first."
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _split(cls, labels: Any) -> Any:
        texts = [labels] if isinstance(labels, str) else labels
        if isinstance(texts, list) and len(texts) > _MAX_LABELS:
            raise ValueError(f"expected at most {_MAX_LABELS:,} labels")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return labels
        if sum(text.count(",") for text in texts) > _MAX_LABELS:
            raise ValueError(f"expected at most {_MAX_LABELS:,} labels")
        return [name.strip() for text in texts for name in text.split(",")]

    @field_validator("resize")
    @classmethod
    def _check_resize(cls, resize: str | None) -> str | None:
        if resize is not None and not _RESIZE.fullmatch(resize):
            raise ValueError("expected WIDTHxHEIGHT in pixels, from 16x16 to 4096x4096")
        return resize

    @property
    def resize_wh(self) -> tuple[int, int] | None:
        """`resize` as width and height in pixels."""
        if self.resize is None:
            return None
        width, height = self.resize.split("x")
        return int(width), int(height)


class UrlImage(BaseModel):
    """A picture that the service fetches, where its operator allows the host."""

    model_config = ConfigDict(extra="forbid")

    url: str


class NamedImage(BaseModel):
    """A picture with the name that its record is to carry."""

    model_config = ConfigDict(extra="forbid")

    image: str | UrlImage
    name: str | None = Field(None, max_length=MAX_NAME_CHARACTERS)


class DetectBody(DetectOptions):
    """The JSON body of `POST /v1/detect`, with either `image` or `images`, and options."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"image": _EXAMPLE_TEXT}}
    )

    image: str | UrlImage | None = Field(
        None, description="The encoded picture as base64 or as a data URI, or where it lies."
    )
    images: list[str | UrlImage | NamedImage] | None = Field(
        None, description="Several; answered with one result each."
    )


class FirstMessage(BaseModel):
    """What a client of `WS /v1/stream` says first where keys are on and it cannot set headers."""

    model_config = ConfigDict(extra="forbid")

    key: str


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


class RecordsAnswer(BaseModel):
    """The records of several pictures, in the order sent."""

    results: list[RecordAnswer]


DetectAnswer = RecordAnswer | RecordsAnswer


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
    """One model of the service; what only the loaded file tells is null until it is loaded."""

    name: str
    loaded: bool
    default: bool
    version: str | None = None
    architecture: str | None = None
    labels: list[str] | None = None
    score_threshold: float | None = None
    max_detections: int | None = None


class ModelsAnswer(BaseModel):
    """All models of the service, the default first."""

    models: list[ModelAnswer]


class StatusAnswer(BaseModel):
    """Whether the service is alive or ready."""

    status: str


def detect_request_body() -> dict[str, Any]:
    """OpenAPI for a body that is a picture, a form with pictures, or JSON that holds them."""
    picture = {"schema": {"type": "string", "format": "binary"}}
    content: dict[str, Any] = dict.fromkeys(RAW_CONTENT_TYPES, picture)
    content["multipart/form-data"] = {
        "schema": {
            "type": "object",
            "required": ["image"],
            "properties": {
                "image": {"type": "array", "items": {"type": "string", "format": "binary"}}
            },
        }
    }
    schema = _without_references(DetectBody.model_json_schema())
    content["application/json"] = {"schema": schema, "example": {"image": _EXAMPLE_TEXT}}
    parameters = [
        {"name": name, "in": "header", "description": text, "schema": schema}
        for name, text, schema in (
            (
                "X-Image-Name",
                "Name of the picture, unless the option `name` is given.",
                {"type": "string"},
            ),
            (
                "X-Request-Timeout-Ms",
                "When nobody waits for the answer any more.",
                {"type": "number", "minimum": 1},
            ),
        )
    ]
    return {"requestBody": {"required": True, "content": content}, "parameters": parameters}


def _without_references(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with its definitions in their places: nobody adds those of a body to OpenAPI's components."""
    definitions = schema.pop("$defs")

    def resolved(value: Any) -> Any:
        if isinstance(value, list):
            return [resolved(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return resolved(definitions[value["$ref"].rpartition("/")[2]])
        return {key: resolved(item) for key, item in value.items()}

    return {key: resolved(item) for key, item in schema.items()}


def detect_responses() -> dict[int | str, dict[str, Any]]:
    """OpenAPI for what `POST /v1/detect` answers besides a record."""
    picture = {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
    return {
        200: {"description": "A record, several of them, or an annotated picture", **picture},
        **error_responses(400, 401, 403, 404, 408, 413, 415, 422, 424, 429, 503, 504),
    }


def stream_request_body() -> dict[str, Any]:
    """OpenAPI for lines of JSON, or a form of any length."""
    example = '{"image": "' + _EXAMPLE_TEXT + '", "name": "first"}\n'
    lines = {"schema": {"type": "string", "format": "binary"}, "example": example}
    form = {"schema": {"type": "object"}}
    content = {"application/x-ndjson": lines, "multipart/form-data": form}
    return {"requestBody": {"required": True, "content": content}}


def score_request_body(max_images: int) -> dict[str, Any]:
    """OpenAPI for the list of the contract."""
    item = _without_references(ContractItem.model_json_schema())
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
    403: "The service fetches nothing from there",
    404: "There is no such model",
    408: "The body came too slowly",
    413: "The body, the picture or the list is too large",
    415: "The content type or the picture format is not read",
    422: "A field or an option is wrong",
    429: "The key is used too often; try again after Retry-After seconds",
    424: "The picture could not be fetched from its URL",
    503: "Too many requests wait; try again after Retry-After seconds",
    504: "The answer took too long",
}
