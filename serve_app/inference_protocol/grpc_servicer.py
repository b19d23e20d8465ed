"""The gRPC service of the Open Inference Protocol, as Ray Serve's proxies need it.

Proxies import this module, so it is light: neither FastAPI nor torch.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import Message

from serve_app.inference_protocol import grpc_messages_pb2 as messages

SERVICE_NAME = "inference.GRPCInferenceService"
METHODS: dict[str, tuple[type[Message], type[Message]]] = {
    "ServerLive": (messages.ServerLiveRequest, messages.ServerLiveResponse),
    "ServerReady": (messages.ServerReadyRequest, messages.ServerReadyResponse),
    "ModelReady": (messages.ModelReadyRequest, messages.ModelReadyResponse),
    "ServerMetadata": (messages.ServerMetadataRequest, messages.ServerMetadataResponse),
    "ModelMetadata": (messages.ModelMetadataRequest, messages.ModelMetadataResponse),
    "ModelInfer": (messages.ModelInferRequest, messages.ModelInferResponse),
}
"""What each method takes and gives."""


def add_inference_servicer(servicer: Any, server: grpc.Server) -> None:
    """Has `server` call the methods of `servicer`; what Serve's `grpc_servicer_functions` names."""
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, name),
            request_deserializer=request.FromString,
            response_serializer=response.SerializeToString,
        )
        for name, (request, response) in METHODS.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))


def grpc_options(port: int) -> dict[str, Any]:
    """What `serve.start(grpc_options=...)` needs, or the part `grpc_options` of Serve's YAML.

    There is no host among Serve's options: its proxies listen on all interfaces. So without keys,
    `grpc_service` answers callers on the same machine only.

    Args:
        port: Port to listen on.
    """
    return {
        "port": port,
        "grpc_servicer_functions": [f"{__name__}.{add_inference_servicer.__name__}"],
        # It would describe the methods to everybody, and does not know the protocol's messages.
        "enable_reflection": False,
    }
