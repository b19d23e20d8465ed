"""The Open Inference Protocol over gRPC: every call becomes a request to our own HTTP application.

    message -> JSON and binary tensors -> the application, in this process -> the same back

So keys, rates, limits, deadlines, figures and log are those of HTTP, and there is nothing to keep in step.
"""

from __future__ import annotations

import functools
import ipaddress
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import unquote

import grpc
from ray.serve.grpc_util import RayServegRPCContext
from starlette.types import ASGIApp

from serve_app.errors import RequestError
from serve_app.inference_protocol import grpc_messages_pb2 as messages
from serve_app.inference_protocol.grpc_translation import (
    error_text,
    infer_body,
    infer_response,
    model_path,
)
from serve_app.inference_protocol.in_process_http import HttpAnswer, ask
from serve_app.inference_protocol.infer_answers import InferAnswer

Response = TypeVar("Response")
_Method = Callable[[Any, Any, RayServegRPCContext], Awaitable[Response]]

_HEADER_LENGTH = "inference-header-content-length"
_REQUEST_HEADERS = ("authorization", "user-agent", "x-request-id", "x-request-timeout-ms")
_ANSWER_HEADERS = ("retry-after", "server-timing", "x-request-id")
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


def _failing_with(
    empty: Callable[[], Response],
) -> Callable[[_Method[Response]], _Method[Response]]:
    """Gives an empty message, with code and details in the context, for a call that is refused.

    What is raised instead would be logged by Serve with a traceback.
    """

    def decorate(method: _Method[Response]) -> _Method[Response]:
        @functools.wraps(method)
        async def answered(self: Any, request: Any, grpc_context: RayServegRPCContext) -> Response:
            try:
                return await method(self, request, grpc_context)
            except RequestError as error:
                grpc_context.set_code(_CODES.get(error.status, grpc.StatusCode.INTERNAL))
                grpc_context.set_details(str(error))
                return empty()

        return answered

    return decorate


class InferenceGrpcMethods:
    """The methods of the protocol, which Serve calls by name, for the deployment class to inherit."""

    _grpc_application: ASGIApp
    _grpc_loopback_only: bool

    def serve_grpc_with(self, application: ASGIApp, *, loopback_only: bool) -> None:
        """To be called before the first call comes in.

        Args:
            application: The HTTP application, with the routes of the protocol.
            loopback_only: Refuse callers on other machines; for a service without keys.
        """
        self._grpc_application = application
        self._grpc_loopback_only = loopback_only

    @_failing_with(messages.ServerLiveResponse)
    async def ServerLive(  # noqa: N802 - the protocol's names, here and below
        self, request: messages.ServerLiveRequest, grpc_context: RayServegRPCContext
    ) -> messages.ServerLiveResponse:
        """Whether the server is alive."""
        answer = await self._ask(grpc_context, "GET", "/v2/health/live")
        return messages.ServerLiveResponse(live=answer.status == 200)

    @_failing_with(messages.ServerReadyResponse)
    async def ServerReady(  # noqa: N802
        self, request: messages.ServerReadyRequest, grpc_context: RayServegRPCContext
    ) -> messages.ServerReadyResponse:
        """Whether the model answers."""
        answer = await self._ask(grpc_context, "GET", "/v2/health/ready", allowed=(503,))
        return messages.ServerReadyResponse(ready=answer.status == 200)

    @_failing_with(messages.ModelReadyResponse)
    async def ModelReady(  # noqa: N802
        self, request: messages.ModelReadyRequest, grpc_context: RayServegRPCContext
    ) -> messages.ModelReadyResponse:
        """Whether there is such a model, and it answers."""
        path = f"{model_path(request.name, request.version)}/ready"
        answer = await self._ask(grpc_context, "GET", path, allowed=(404, 503))
        return messages.ModelReadyResponse(ready=answer.status == 200)

    @_failing_with(messages.ServerMetadataResponse)
    async def ServerMetadata(  # noqa: N802
        self, request: messages.ServerMetadataRequest, grpc_context: RayServegRPCContext
    ) -> messages.ServerMetadataResponse:
        """The server and its extensions."""
        answer = await self._ask(grpc_context, "GET", "/v2")
        return messages.ServerMetadataResponse(**json.loads(answer.body))

    @_failing_with(messages.ModelMetadataResponse)
    async def ModelMetadata(  # noqa: N802
        self, request: messages.ModelMetadataRequest, grpc_context: RayServegRPCContext
    ) -> messages.ModelMetadataResponse:
        """The tensors of a model."""
        path = model_path(request.name, request.version)
        answer = await self._ask(grpc_context, "GET", path)
        return messages.ModelMetadataResponse(**json.loads(answer.body))

    @_failing_with(messages.ModelInferResponse)
    async def ModelInfer(  # noqa: N802
        self, request: messages.ModelInferRequest, grpc_context: RayServegRPCContext
    ) -> messages.ModelInferResponse:
        """Detections of the pictures in a tensor."""
        path = f"{model_path(request.model_name, request.model_version)}/infer"
        body, json_length = infer_body(request)
        headers = {_HEADER_LENGTH: str(json_length)}
        answer = await self._ask(grpc_context, "POST", path, body=body, headers=headers)
        return infer_response(InferAnswer(answer.body, int(answer.headers[_HEADER_LENGTH])))

    async def _ask(
        self,
        grpc_context: RayServegRPCContext,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        allowed: tuple[int, ...] = (),
    ) -> HttpAnswer:
        """The application's answer.

        Raises:
            RequestError: Its status is neither 200 nor one of `allowed`, or the caller may not call.
        """
        peer = grpc_context.peer()
        if self._grpc_loopback_only and not is_loopback(peer):
            raise RequestError(
                403,
                "no_keys",
                "Without keys, gRPC is answered on this machine only",
                hint="Have the operator give the service keys",
            )
        metadata = dict(grpc_context.invocation_metadata())
        given = {name: str(metadata[name]) for name in _REQUEST_HEADERS if name in metadata}
        answer = await ask(
            self._grpc_application,
            method,
            path,
            headers={**given, **(headers or {})},
            client=peer,
            body=body,
        )
        grpc_context.set_trailing_metadata(
            [(name, answer.headers[name]) for name in _ANSWER_HEADERS if name in answer.headers]
        )
        if answer.status != 200 and answer.status not in allowed:
            raise RequestError(answer.status, "failed", error_text(answer.body))
        return answer


def is_loopback(peer: str) -> bool:
    """Whether a caller, as gRPC names it (`ipv4:127.0.0.1:5000`), is on this machine."""
    _, _, address = unquote(peer).partition(":")
    try:
        host = ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
    return (mapped or host).is_loopback
