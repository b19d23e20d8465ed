"""What HAProxy is started with: Ray's own configuration, tightened, in front of a server that says what it got."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from ray.serve._private.common import RequestProtocol
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions, gRPCOptions
from serving import ask, serving

from appliance.errors import ServiceError
from serve_app.ingress import haproxy, variables
from serve_app.ingress.listening import free_port

WAIT_S = 30.0


@pytest.fixture
def folder():
    """Short, as the path of a socket has to be."""
    with tempfile.TemporaryDirectory(prefix="serve-", dir="/tmp") as path:
        yield Path(path)


async def telling(scope, receive, send):
    """Answers /STATUS with that status in text, and everything else with the headers it was sent."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    status = scope["path"].strip("/")
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    plain = status.isdecimal()
    body = b"Traceback: /opt/secret" if plain else json.dumps(headers).encode()
    kind = b"text/plain" if plain else b"application/json"
    status = int(status) if plain else 200
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", kind), (b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body})


def written_by_ray(
    folder, port, *, servers=(), applications=True, metrics=False, grpc_port=None, prefix="/"
):
    """The file of Ray's configuration for servers of one application."""
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        grpc_options=gRPCOptions(
            port=grpc_port or 9000,
            grpc_servicer_functions=["serve_app.inference_protocol.grpc_servicer.x"]
            * bool(grpc_port),
        ),
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        metrics_socket_path=str(folder / "metrics.sock"),
        metrics_enabled=metrics,
        has_received_routes=True,
        is_head=True,
    )
    backends = [
        BackendConfig(
            name=f"{protocol.value}-app",
            path_prefix=prefix,
            app_name="app",
            protocol=protocol,
            servers=[ServerConfig(f"s{at}", "127.0.0.1", at) for at in servers],
        )
        for protocol in (RequestProtocol.HTTP, RequestProtocol.GRPC)[: 1 + bool(grpc_port)]
    ]
    api = HAProxyApi(
        config,
        {backend.name: backend for backend in backends if applications},
        config_file_path=str(folder / "haproxy.cfg"),
    )
    api._generate_config_file_internal()
    return folder / "haproxy.cfg"


@contextlib.contextmanager
def running_haproxy(path, port, **environment):
    """Our program in HAProxy's place, as Ray's actor starts it."""
    command = [sys.executable, "-m", "serve_app.ingress.haproxy", "-db", "-f", str(path), "-dR"]
    with subprocess.Popen(command, env={**os.environ, **environment}) as process:
        try:
            wait_for(lambda: connects(port))
            yield process
        finally:
            process.kill()


def connects(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def wait_for(condition):
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def listening(pid):
    return {c.laddr for c in psutil.Process(pid).net_connections() if c.status == "LISTEN"}


@pytest.fixture(scope="module")
def telling_port():
    with serving(telling) as url:
        yield int(url.rpartition(":")[2])


@pytest.fixture
def running(folder, telling_port):
    port = free_port("127.0.0.1", 0)
    path = written_by_ray(folder, port, servers=[telling_port])
    with running_haproxy(path, port) as process:
        yield f"http://127.0.0.1:{port}", process.pid, folder


def test_it_listens_where_it_is_asked_to_and_nowhere_else(running):
    url, pid, folder = running
    assert listening(pid) == {("127.0.0.1", int(url.rpartition(":")[2]))}
    assert stat.S_IMODE((folder / "admin.sock").stat().st_mode) == 0o600


def test_text_of_serve_becomes_json_without_a_word_of_it(running):
    url, _, _ = running
    # There is a service for every path, so that 404 of Serve says that it has just gone.
    expected = {408: 504, 404: 503, 500: 502, 502: 502, 503: 503, 504: 504}
    for theirs, ours in expected.items():
        status, headers, answer = ask(f"{url}/{theirs}", "GET")
        assert (status, set(answer["error"])) == (ours, {"code", "message", "hint"})
        assert "secret" not in json.dumps(answer)
        assert headers.get("Retry-After") == ("1" if ours in (502, 503, 504) else None)


def test_clients_do_not_set_the_time_outs_of_serve(running):
    url, _, _ = running

    def told(path="/", **headers):
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(f"{url}{path}", "GET", headers=given)[2]

    own = "x-request-timeout-seconds"
    assert told(x_request_timeout_seconds="0")[own] == str(haproxy.QUEUE_TIMEOUT_S)
    assert "x-request-disconnect-disabled" not in told(x_request_disconnect_disabled="?1")
    assert told(x_request_timeout_ms="2500")[own] == "4"
    assert told(x_request_timeout_ms="1")[own] == "2"
    for odd in ("soon", "-1", "99999999999999999999"):
        assert told(x_request_timeout_ms=odd)[own] == str(haproxy.QUEUE_TIMEOUT_S)
    assert own not in told("/v1/detect/stream", x_request_timeout_seconds="0")
    assert told()["x-forwarded-for"] == "127.0.0.1"


@pytest.mark.parametrize("odd", ['bad id "', "", "x" * 129, "ä"])
def test_an_id_that_is_not_taken_over_does_not_reach_serve_either(running, odd):
    url, _, _ = running
    assert "x-request-id" not in ask(f"{url}/", "GET", headers={"X-Request-Id": odd})[2]
    good = "a.b_c:d/e+f=@-" + "x" * 114
    assert ask(f"{url}/", "GET", headers={"X-Request-Id": good})[2]["x-request-id"] == good


def test_what_is_no_http_is_refused(running):
    url, _, _ = running
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
        connection.sendall(b"HELO there\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(("servers", "applications"), [((), False), ((), True), ((1,), True)])
def test_before_there_is_a_replica_it_says_so_at_once(folder, servers, applications):
    port = free_port("127.0.0.1", 0)
    path = written_by_ray(folder, port, servers=servers, applications=applications)
    with running_haproxy(path, port):
        status, headers, answer = ask(f"http://127.0.0.1:{port}/v1/detect", data=b"x" * 100_000)
    assert (status, answer["error"]["code"]) == (503, "unavailable")
    assert headers["Retry-After"] == "1"


def test_beside_a_service_below_a_prefix_there_is_nothing(folder, telling_port):
    port = free_port("127.0.0.1", 0)
    path = written_by_ray(folder, port, servers=[telling_port], prefix="/cameras")
    with running_haproxy(path, port):
        status, _, answer = ask(f"http://127.0.0.1:{port}/", "GET")
        assert (status, answer["error"]["code"]) == (404, "not_found")
        assert ask(f"http://127.0.0.1:{port}/cameras/x", "GET")[0] == 200


def test_it_may_listen_elsewhere_than_what_is_behind_it(folder, telling_port):
    port = free_port("127.0.0.1", 0)
    path = written_by_ray(folder, port, servers=[telling_port])
    with running_haproxy(path, port, APPLIANCE_SERVE_HOST="0.0.0.0") as process:
        assert listening(process.pid) == {("0.0.0.0", port)}


def test_the_port_for_grpc_listens_beside_it(folder, telling_port):
    port, grpc_port = free_port("127.0.0.1", 0), free_port("127.0.0.1", 0)
    path = written_by_ray(folder, port, servers=[telling_port], grpc_port=grpc_port, metrics=True)
    with running_haproxy(path, port) as process:
        assert listening(process.pid) == {("127.0.0.1", port), ("127.0.0.1", grpc_port)}


def test_it_dies_with_what_started_it(folder, telling_port):
    port = free_port("127.0.0.1", 0)
    path = written_by_ray(folder, port, servers=[telling_port])
    script = (
        "import subprocess, sys\n"
        "haproxy = subprocess.Popen([sys.executable, '-m', 'serve_app.ingress.haproxy', *sys.argv[1:]])\n"
        "print(haproxy.pid, flush=True)\n"
        "haproxy.wait()\n"
    )
    command = [sys.executable, "-c", script, "-db", "-f", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        pid = int(starter.stdout.readline())
        wait_for(lambda: connects(port))
        os.kill(starter.pid, signal.SIGKILL)
    wait_for(lambda: not connects(port))
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_configuration_of_another_form_is_an_error_and_no_hole(folder):
    path = written_by_ray(folder, 8000)
    text = path.read_text()
    for line in ("frontend prometheus\n", "listen stats\n", "mode 666", "frontend http_frontend"):
        with pytest.raises(ValueError, match="not the configuration that Ray 2.60 writes"):
            haproxy.tightened(text.replace(line, "something else\n"))
    once = haproxy.tightened(text)
    assert haproxy.tightened(once) == once


def test_variables_for_a_shell_name_the_program(capsys):
    variables.main()
    lines = capsys.readouterr().out.splitlines()
    assert "export RAY_SERVE_ENABLE_HA_PROXY=1" in lines
    (program,) = (line for line in lines if haproxy.PROGRAM_VARIABLE in line)
    assert os.access(program.partition("=")[2], os.X_OK)


def test_local_services_stand_beside_each_other(folder):
    first, second = (variables.local_serve_variables(folder / name) for name in ("a", "b"))
    differing = {name for name in first if first[name] != second[name]}
    assert {name.rpartition("_")[2] for name in differing} == {
        "LOC",
        "PATH",
        "BASE",
        "FILE",
        "PORT",
    }
    assert haproxy.HOST_VARIABLE not in first
    elsewhere = variables.local_serve_variables(folder, host="0.0.0.0")
    assert elsewhere[haproxy.HOST_VARIABLE] == "0.0.0.0"


def test_without_its_program_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(ServiceError, match="program that starts HAProxy is missing"):
        variables.serve_variables()
