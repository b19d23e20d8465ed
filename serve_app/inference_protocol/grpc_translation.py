"""Messages of gRPC from and into the bodies of HTTP: the same tensors, put together in another way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from serve_app.errors import RequestError
from serve_app.inference_protocol import grpc_messages_pb2 as messages
from serve_app.inference_protocol.infer_answers import InferAnswer
from serve_app.inference_protocol.tensors import BYTES, bad_tensor, bytes_to_binary


def model_path(name: str, version: str) -> str:
    """Where HTTP has a model.

    Raises:
        RequestError: 404, a name or version that no model can have.
    """
    if not name or "/" in name or "/" in version:
        raise RequestError(404, "unknown_model", f"There is no model of the name {name[:100]}")
    return f"/v2/models/{name}/versions/{version}" if version else f"/v2/models/{name}"


def infer_body(request: messages.ModelInferRequest) -> tuple[bytes, int]:
    """The body of the same request over HTTP, and how many bytes of it are JSON.

    Raises:
        RequestError: 400, the tensors cannot be told from one another.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise bad_tensor(f"{len(request.inputs)} inputs and {len(raw)} raw_input_contents")
    binary: list[bytes] = []
    inputs: list[dict[str, Any]] = []
    for index, given in enumerate(request.inputs):
        parameters = _parameters(given.parameters)
        tensor: dict[str, Any] = {
            "name": given.name,
            "datatype": given.datatype,
            "shape": list(given.shape),
            "parameters": parameters,
        }
        if raw or given.datatype == BYTES:
            binary.append(raw[index] if raw else bytes_to_binary(given.contents.bytes_contents))
            parameters["binary_data_size"] = len(binary[-1])
        else:
            tensor["data"] = list(given.contents.uint_contents)
        inputs.append(tensor)
    outputs = [
        {"name": asked.name, "parameters": {**_parameters(asked.parameters), "binary_data": True}}
        for asked in request.outputs
    ]
    parameters = {**_parameters(request.parameters), "binary_data_output": True}
    value: dict[str, Any] = {"inputs": inputs, "outputs": outputs, "parameters": parameters}
    if request.id:
        value["id"] = request.id
    head = json.dumps(value).encode("ascii")
    return b"".join([head, *binary]), len(head)


def infer_response(answer: InferAnswer) -> messages.ModelInferResponse:
    """The message for an answer over HTTP, all of whose outputs are binary."""
    start = answer.json_length or 0
    head = json.loads(answer.body[:start])
    response = messages.ModelInferResponse(
        model_name=head["model_name"], model_version=head["model_version"], id=head.get("id", "")
    )
    for output in head["outputs"]:
        response.outputs.add(
            name=output["name"], datatype=output["datatype"], shape=output["shape"]
        )
        end = start + output["parameters"]["binary_data_size"]
        response.raw_output_contents.append(answer.body[start:end])
        start = end
    return response


def error_text(body: bytes) -> str:
    """The sentence of a failing answer over HTTP, in the protocol's form or in ours."""
    try:
        error = json.loads(body)["error"]
    except ValueError:
        return "The service failed on this request"
    return error if isinstance(error, str) else str(error["message"])


def _parameters(given: Mapping[str, messages.InferParameter]) -> dict[str, Any]:
    chosen = ((name, item, item.WhichOneof("parameter_choice")) for name, item in given.items())
    return {name: getattr(item, choice) for name, item, choice in chosen if choice is not None}
