"""The Open Inference Protocol over gRPC, asked by Triton's own client as it comes from the registry.

Once under Ray Serve, for what its ingress may change; the rest in this process, on a server of grpcio.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from ray.serve.grpc_util import RayServegRPCContext
from serving import settings_for
from test_serve_inference_protocol import JPEGS, assert_found
from tritonclient.grpc import service_pb2

from appliance.scoring import ImageScorer
from serve_app.http.api import create_api
from serve_app.inference_protocol import grpc_messages_pb2
from serve_app.inference_protocol.grpc_service import InferenceGrpcMethods, is_loopback
from serve_app.inference_protocol.grpc_servicer import (
    METHODS,
    SERVICE_NAME,
    add_inference_servicer,
)
from serve_app.ingress.listening import free_port
from serve_app.scoring.models import ModelPool
from serve_app.start import start_service, stop_service

KEY = {"authorization": "Bearer key-1"}


class Servicer:
    """What Serve does around the methods: its context instead of gRPC's, and back."""

    def __init__(self, methods: InferenceGrpcMethods) -> None:
        for name in METHODS:
            setattr(self, name, functools.partial(self._call, getattr(methods, name)))

    async def _call(self, method, request, context):
        serve_context = RayServegRPCContext(context)
        answer = await method(request, grpc_context=serve_context)
        serve_context._set_on_grpc_context(context)
        return answer


@contextlib.contextmanager
def grpc_server(application, pool=None):
    """Serves `application` over gRPC in this process; gives its address. Closes the pool at last."""
    methods = InferenceGrpcMethods()
    methods.serve_grpc_with(application, loopback_only=True)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start():
        server = grpc.aio.server()
        add_inference_servicer(Servicer(methods), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    async def stop():
        await server.stop(None)
        if pool is not None:
            await pool.close()

    server, port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextlib.contextmanager
def grpc_service(model_path, **values):
    """A client of a service with one model."""
    settings = settings_for(model_path, **values)
    pool = ModelPool.load(settings)
    with (
        grpc_server(create_api(pool, settings), pool) as address,
        triton.InferenceServerClient(address) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client(tiny_model_path):
    with grpc_service(tiny_model_path) as connected:
        yield connected


@pytest.fixture(scope="module")
def scorer(tiny_model_path):
    return ImageScorer.load(str(tiny_model_path), device="cpu")


def input_of(values, datatype="BYTES"):
    array = np.array(values, object if datatype == "BYTES" else np.uint8)
    tensor = triton.InferInput("image", list(array.shape), datatype)
    return tensor.set_data_from_numpy(array)


def test_under_ray_serve(ray_cluster, tiny_model_path, scorer):
    grpc_port = free_port("127.0.0.1", 0)
    # Beyond the 4 MB that gRPC allows by default.
    settings = settings_for(tiny_model_path, max_body_bytes=20_000_000)
    service = start_service(settings, port=0, grpc_port=grpc_port, name="grpc-test")
    try:
        with triton.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready("tiny")
            assert client.get_server_metadata().name == "detection-appliance"
            assert client.get_model_metadata("tiny").inputs[0].name == "image"
            records = scorer.score([("a", JPEGS[0]), ("b", JPEGS[1])])
            assert_found(client.infer("tiny", [input_of(JPEGS)]), records)
            padded = JPEGS[0] + bytes(6_000_000)
            assert_found(client.infer("tiny", [input_of([padded])]), records[:1])
            with pytest.raises(triton.InferenceServerException, match="Not a picture") as caught:
                client.infer("tiny", [input_of([b"no picture"])])
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
            with pytest.raises(triton.InferenceServerException, match="larger than max") as caught:
                client.infer("tiny", [input_of([bytes(65 * 2**20)])])
            assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    finally:
        stop_service(service.name)


def test_health_and_metadata(client, scorer):
    version = scorer.predictor.model_version
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny", version)
    assert not client.is_model_ready("tiny", "7")
    assert not client.is_model_ready("other")
    server = client.get_server_metadata()
    assert (server.name, list(server.extensions)) == ("detection-appliance", ["binary_tensor_data"])
    model = client.get_model_metadata("tiny", version, as_json=True)
    assert (model["name"], model["versions"]) == ("tiny", [version])
    assert model["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": ["-1"]}]


@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
def test_pictures(client, scorer, packing):
    answer = client.infer(
        "tiny",
        [input_of(JPEGS)],
        request_id="caf\u00e9 7",
        compression_algorithm=packing,
    )
    assert_found(answer, scorer.score([("a", JPEGS[0]), ("b", JPEGS[1])]))
    response = answer.get_response()
    assert (response.model_name, response.id) == ("tiny", "caf\u00e9 7")
    assert response.model_version == scorer.predictor.model_version


def test_options_and_outputs_as_asked(client):
    asked = [triton.InferRequestedOutput("scores"), triton.InferRequestedOutput("errors")]
    options = {"max_detections": 2, "score_threshold": 0.1, "labels": "circle,square"}
    answer = client.infer(
        "tiny", [input_of([JPEGS[0], b"no picture"])], outputs=asked, parameters=options
    )
    assert answer.as_numpy("scores").shape == (2, 2)
    good, bad = answer.as_numpy("errors")
    assert (good, bad[:13]) == (b"", b"Not a picture")
    assert answer.as_numpy("labels") is None


def test_tensors_in_the_fields_of_a_message(client, scorer):
    """What other clients send; Triton's puts all tensors into `raw_input_contents`."""
    stub = client._client_stub
    request = service_pb2.ModelInferRequest(model_name="tiny")
    tensor = request.inputs.add(name="image", datatype="BYTES", shape=[2])
    tensor.contents.bytes_contents.extend(JPEGS)
    records = scorer.score([("a", JPEGS[0]), ("b", JPEGS[1])])
    assert_found(triton.InferResult(stub.ModelInfer(request)), records)
    request = service_pb2.ModelInferRequest(model_name="tiny")
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=[40, 50, 3])
    tensor.contents.uint_contents.extend([90] * 6000)
    answer = triton.InferResult(stub.ModelInfer(request))
    assert answer.as_numpy("size_hw").tolist() == [[40, 50]]


def two_raw_tensors(client):
    request = service_pb2.ModelInferRequest(model_name="tiny", raw_input_contents=[b"", b""])
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    client._client_stub.ModelInfer(request)


@pytest.mark.parametrize(
    ("ask_for", "code", "words"),
    [
        (lambda c: c.infer("tiny", [input_of([b"x"])]), "INVALID_ARGUMENT", "Not a picture"),
        (lambda c: c.infer("tiny", [input_of(JPEGS * 2)]), "INVALID_ARGUMENT", "4 pictures"),
        (lambda c: c.infer("tiny", [input_of([b"x" * 200_000])]), "INVALID_ARGUMENT", "200,000"),
        (lambda c: c.infer("tiny", []), "INVALID_ARGUMENT", "got none"),
        (lambda c: c.infer("other", [input_of(JPEGS)]), "NOT_FOUND", "no model of the name other"),
        (lambda c: c.infer("a/b", [input_of(JPEGS)]), "NOT_FOUND", "no model of the name a/b"),
        (lambda c: c.infer("", [input_of(JPEGS)]), "NOT_FOUND", "no model of the name"),
        (lambda c: c.get_model_metadata("tiny", "7"), "NOT_FOUND", "no version 7"),
        (lambda c: c.get_model_config("tiny"), "UNIMPLEMENTED", "Method not found"),
        (
            lambda c: c.infer("tiny", [input_of(JPEGS)], headers={"x-request-timeout-ms": "x"}),
            "INVALID_ARGUMENT",
            "X-Request-Timeout-Ms",
        ),
    ],
)
def test_the_client_is_told_what_is_wrong(client, ask_for, code, words):
    with pytest.raises(triton.InferenceServerException) as caught:
        ask_for(client)
    assert caught.value.status() == f"StatusCode.{code}"
    assert words in caught.value.message()


def test_every_input_has_its_own_tensor(client):
    with pytest.raises(grpc.RpcError) as caught:
        two_raw_tensors(client)
    assert caught.value.details().startswith("1 inputs and 2 raw_input_contents")


def test_keys_close_models_and_leave_health_open(tiny_model_path):
    with grpc_service(tiny_model_path, keys=("key-1",)) as client:
        assert client.is_server_ready()
        for refused in (
            lambda: client.is_model_ready("tiny"),
            lambda: client.infer("tiny", [input_of(JPEGS)]),
            lambda: client.infer("tiny", [input_of(JPEGS)], headers={"authorization": "Bearer x"}),
        ):
            with pytest.raises(triton.InferenceServerException) as caught:
                refused()
            assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
        assert client.is_model_ready("tiny", headers=KEY)
        answer = client.infer("tiny", [input_of(JPEGS)], headers=KEY)
        assert answer.as_numpy("num_detections").shape == (2,)


def test_overload_tells_when_to_come_again(tiny_model_path):
    async def overloaded(scope, receive, send):
        headers = [(b"retry-after", b"1"), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        body = b'{"error": {"code": "overloaded", "message": "Too many wait", "hint": ""}}'
        await send({"type": "http.response.body", "body": body})

    with grpc_server(overloaded) as address, triton.InferenceServerClient(address) as client:
        assert not client.is_server_ready()
        request = service_pb2.ModelMetadataRequest(name="tiny")
        with pytest.raises(grpc.RpcError) as caught:
            client._client_stub.ModelMetadata(request)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "Too many wait"
        assert ("retry-after", "1") in caught.value.trailing_metadata()


def test_a_failing_application_tells_nothing_of_its_insides(caplog):
    async def failing(scope, receive, send):
        raise RuntimeError("a path and a password")

    with grpc_server(failing) as address, triton.InferenceServerClient(address) as client:
        with pytest.raises(triton.InferenceServerException) as caught:
            client.is_server_live()
        assert caught.value.status() == "StatusCode.INTERNAL"
        assert caught.value.message() == "The service failed on this request"
    assert "a path and a password" in caplog.text


def test_a_caller_who_hangs_up_ends_the_work():
    begun, ended = threading.Event(), threading.Event()

    async def endless(scope, receive, send):
        assert (await receive())["type"] == "http.request"
        begun.set()
        try:
            await receive()
        finally:
            ended.set()

    with grpc_server(endless) as address, triton.InferenceServerClient(address) as client:
        call = client._client_stub.ServerLive.future(service_pb2.ServerLiveRequest())
        assert begun.wait(30)
        call.cancel()
        assert ended.wait(30)


@pytest.mark.parametrize(
    ("peer", "here"),
    [
        ("ipv4:127.0.0.1:5000", True),
        ("ipv6:[::1]:5000", True),
        ("ipv6:%5B::1%5D:5000", True),
        ("ipv6:[::ffff:127.0.0.1]:5000", True),
        ("ipv4:10.0.0.1:5000", False),
        ("ipv6:[::ffff:10.0.0.1]:5000", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_who_is_on_this_machine(peer, here):
    assert is_loopback(peer) is here


class Remote:
    """A context as of a caller on another machine; this machine may have no address but loopback."""

    def __init__(self):
        self.code, self.details = None, None
        self.set_code = functools.partial(setattr, self, "code")
        self.set_details = functools.partial(setattr, self, "details")

    def peer(self):
        return "ipv4:10.0.0.1:5000"


def test_without_keys_other_machines_are_refused():
    methods = InferenceGrpcMethods()
    methods.serve_grpc_with(None, loopback_only=True)
    context = Remote()
    request = grpc_messages_pb2.ServerLiveRequest()
    answer = asyncio.run(methods.ServerLive(request, grpc_context=context))
    assert not answer.live
    assert context.code is grpc.StatusCode.PERMISSION_DENIED
    assert "Without keys" in context.details


def fields_of(message):
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.message_type and field.message_type.name,
        )
        for field in message.fields
    }


def test_messages_are_those_of_tritons_client():
    """Every field that we have, by name, number and type; Triton has a few more in some messages."""
    for name, ours in grpc_messages_pb2.DESCRIPTOR.message_types_by_name.items():
        theirs = service_pb2.DESCRIPTOR.message_types_by_name[name]
        assert fields_of(ours).items() <= fields_of(theirs).items()
        for nested in ours.nested_types:
            fields = fields_of(theirs.nested_types_by_name[nested.name])
            assert fields_of(nested).items() <= fields.items()
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert service.full_name == SERVICE_NAME
    for name, (request, response) in METHODS.items():
        method = service.methods_by_name[name]
        assert request.DESCRIPTOR.name == method.input_type.name
        assert response.DESCRIPTOR.name == method.output_type.name
