"""The service on a real cluster: what autoscaling does, and what neither it nor a kill nor an update may lose."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import aiohttp
import psutil
import pytest
from ray import serve
from service_load import CUT, JPEG, under_load, wait_for
from serving import JPEG_TYPE, ask, settings_for

from appliance.errors import ConfigError, ServiceError
from serve_app.app import build_app
from serve_app.ingress.haproxy import HOST_VARIABLE
from serve_app.start import start_service, stop_service

NAME = "runtime-test"
NOTICED_WITHIN_S = 0.5


@pytest.fixture(scope="module")
def service(ray_cluster, tiny_model_path):
    started = start_service(settings(tiny_model_path), port=0, name=NAME)
    yield started
    stop_service(NAME)


def settings(tiny_model_path, **values):
    quick = {"upscale_delay_s": 0, "downscale_delay_s": 1, "target_ongoing_requests": 1}
    return settings_for(
        tiny_model_path,
        **{"min_replicas": 0, "max_replicas": 2, "num_cpus": 0.5, **quick, **values},
    )


def replicas():
    return serve.status().applications[NAME].deployments["DetectionService"].replica_states


def running():
    return replicas().get("RUNNING", 0)


def is_replica(process):
    with contextlib.suppress(psutil.Error):  # it may have ended just now
        return process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ServeReplica")


def replica_pids():
    """Those of the session's cluster."""
    children = psutil.Process().children(recursive=True)
    return [child.pid for child in children if is_replica(child)]


def test_requests_wake_it_load_makes_it_grow_and_shrinking_loses_nothing(service):
    wait_for(lambda: not replicas())
    answers = asyncio.run(stampede(service.url))
    assert running() >= 1
    assert {status for status, _, _ in answers} == {200, 503}
    # Before there is a replica, too many are told at once.
    for status, headers, answer in answers:
        if status != 200:
            assert headers["Retry-After"] == "1"
            assert answer["error"]["code"] in {"unavailable", "overloaded"}
    with under_load(service.url, clients=6) as load:
        wait_for(lambda: running() == 2)
        # One goes, while requests come all the time ...
        load.clients = 1
        wait_for(lambda: sum(replicas().values()) == 1)
    wait_for(lambda: not replicas())
    # ... and the last one, when none come any more.
    assert load.failures == []


async def stampede(url):
    """Status, headers and answer of 80 requests that come together."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one():
            async with session.post(f"{url}/v1/detect", data=JPEG, headers=JPEG_TYPE) as response:
                return response.status, response.headers, await response.json()

        return await asyncio.gather(*(one() for _ in range(80)))


def kill_replicas():
    killed_s = time.monotonic()
    for pid in replica_pids():
        os.kill(pid, signal.SIGKILL)
    return killed_s


def assert_only_in_flight_failed(load, killed_s):
    failed = [(start_s, status) for start_s, _, status in load.answers if status != 200]
    late = [start_s - killed_s for start_s, _ in failed if start_s > killed_s + NOTICED_WITHIN_S]
    assert late == []
    # On a connection on which a replica has answered before, HAProxy leaves the retry to the client.
    assert {status for _, status in failed} <= {502, CUT}


def test_a_replica_that_is_killed_costs_no_more_than_its_requests(service):
    with under_load(service.url, clients=4) as load:
        killed = set(replica_pids())
        killed_s = kill_replicas()
        wait_for(lambda: load.good_since(killed_s + 0.5) and set(replica_pids()) - killed)
    assert_only_in_flight_failed(load, killed_s)


@pytest.mark.slow
def test_after_each_kill_it_is_back(service):
    for _ in range(5):
        with under_load(service.url, clients=4) as load:
            killed_s = kill_replicas()
            back_s = load_is_back(load, killed_s)
        print(f"back after {back_s:.1f} s")  # what it should be, `benchmarks.serve_start` says
        assert_only_in_flight_failed(load, killed_s)


def load_is_back(load, killed_s):  # pragma: no cover - of a long proof
    def answered():
        return [
            end_s for start_s, end_s, status in load.answers if start_s > killed_s and status == 200
        ]

    return wait_for(answered)[0] - killed_s


def test_a_new_version_takes_over_without_a_gap(service, tiny_model_path):
    with under_load(service.url) as load:
        # One that just starts does not pass for the new version, nor one that ends.
        wait_for(lambda: replicas().get("STARTING") or running() == 2)
        start_service(settings(tiny_model_path, score_threshold=0.875), port=0, name=NAME)
        assert {told_threshold(service.url) for _ in range(40)} == {0.875}
    assert load.failures == []


def told_threshold(url):
    return ask(f"{url}/v1/models", "GET")[2]["models"][0]["score_threshold"]


def test_without_keys_it_is_not_opened_to_others(service, tiny_model_path):
    message = "Without keys the service listens only on loopback"
    with pytest.raises(ConfigError, match=message):
        start_service(settings(tiny_model_path), host="0.0.0.0", name="open")
    # `serve run` asks nobody where to listen: then the replicas do.
    app = build_app(settings_for(tiny_model_path))
    elsewhere = {"num_cpus": 0.1, "runtime_env": {"env_vars": {HOST_VARIABLE: "0.0.0.0"}}}
    app._bound_deployment = app._bound_deployment.options(
        ray_actor_options=elsewhere, max_constructor_retry_count=1
    )
    with pytest.raises(RuntimeError):
        serve.run(app, name="open", route_prefix="/open")
    told = serve.status().applications["open"].deployments["DetectionService"].message
    assert message in told
    serve.delete("open")


def test_two_services_do_not_share_a_prefix(service, tiny_model_path):
    with pytest.raises(ServiceError, match=f"does not start: second .*by application .{NAME}"):
        start_service(settings(tiny_model_path), port=0, name="second")


def test_a_service_that_is_not_there_cannot_be_stopped(service):
    with pytest.raises(ServiceError, match=f"no such service .*got other, expected {NAME}"):
        stop_service("other")
