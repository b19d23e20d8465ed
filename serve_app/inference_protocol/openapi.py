"""How the routes of the Open Inference Protocol stand in the OpenAPI description."""

from __future__ import annotations

from typing import Any

from serve_app.http.schemas import detect_request_body
from serve_app.inference_protocol.descriptions import INPUT_NAME, model_metadata, server_metadata
from serve_app.inference_protocol.infer_requests import InferBody

_EXAMPLES: dict[str, Any] = {
    "server_metadata": server_metadata(),
    "live": {"live": True},
    "ready": {"ready": True},
    "model_metadata": model_metadata("shelves", "3f2a"),
    "model_ready": {"name": "shelves", "ready": True},
    "infer": {
        "model_name": "shelves",
        "model_version": "3f2a",
        "outputs": [{"name": "num_detections", "datatype": "INT32", "shape": [1], "data": [4]}],
    },
}
_MEANINGS = {
    400: "A tensor, the JSON part or a picture cannot be read",
    401: "The service asks for a key",
    404: "There is no such model or version",
    408: "The body came too slowly",
    413: "The body, a picture or their number is too large",
    415: "The content encoding or the picture format is not read",
    422: "A field or a parameter is wrong",
    429: "The key is used too often; try again after Retry-After seconds",
    503: "The model does not answer, or too many requests wait",
    504: "The answer took too long",
}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
_HEADERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (
        "Inference-Header-Content-Length",
        "Bytes of JSON at the front of the body; 0: it is one encoded picture.",
        {"type": "integer", "minimum": 0},
    ),
    ("Content-Encoding", "How the body is compressed.", {"enum": ["gzip", "deflate", "identity"]}),
    (
        "X-Request-Timeout-Ms",
        "When nobody waits for the answer any more.",
        {"type": "number", "minimum": 1},
    ),
)
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def answers(kind: str, *errors: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI for what a route answers.

    Args:
        kind: Of its good answer.
        errors: The statuses of the others.
    """
    content: dict[str, Any] = {
        "application/json": {"schema": {"type": "object"}, "example": _EXAMPLES[kind]}
    }
    if kind == "infer":
        content["application/octet-stream"] = _BINARY
    failing: dict[int | str, dict[str, Any]] = {
        status: {
            "description": _MEANINGS[status],
            "content": {"application/json": {"schema": _ERROR_SCHEMA}},
        }
        for status in errors
    }
    return {200: {"description": "As the protocol has it", "content": content}, **failing}


def _infer_request_body() -> dict[str, Any]:
    schema = InferBody.model_json_schema()
    definitions = schema.pop("$defs")
    schema["properties"]["inputs"]["items"] = definitions["InferInput"]
    schema["properties"]["outputs"]["anyOf"][0]["items"] = definitions["InferOutput"]
    detect = detect_request_body()["requestBody"]["content"]["application/json"]
    image = {
        "name": INPUT_NAME,
        "datatype": "BYTES",
        "shape": [1],
        "data": [detect["example"]["image"]],
    }
    example = {"inputs": [image]}
    content = {
        "application/json": {"schema": schema, "example": example},
        "application/octet-stream": _BINARY,
    }
    parameters = [
        {"name": name, "in": "header", "description": text, "schema": schema}
        for name, text, schema in _HEADERS
    ]
    return {"requestBody": {"required": True, "content": content}, "parameters": parameters}


INFER_REQUEST_BODY = _infer_request_body()
