"""Several replicas of Ray Serve: counted as one service, and replaced when they die or hang."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from factories import jpeg_bytes
from scraping import request_id, scraped, total
from service_load import wait_for
from serving import JPEG_TYPE, ask, settings_for

import serve_app.app
from serve_app.start import start_service, stop_service

# In a process of its own: the suite's cluster is that of this one.
TWO_NODES = """
import json
import logging
import sys

import ray
from factories import jpeg_bytes
from ray.cluster_utils import Cluster
from scraping import scraped, total
from serving import JPEG_TYPE, ask, settings_for

from serve_app.start import start_service
from service_load import wait_for
from test_serve_replicas import nodes

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
cluster.add_node(**NODE)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)
settings = settings_for(sys.argv[1], num_replicas=2, num_cpus=0.6, metrics_dir=sys.argv[2])
url = start_service(settings, port=0, name="nodes-test").url
wait_for(lambda: len(nodes(url)) == 2)
for _ in range(6):
    assert ask(f"{url}/v1/detect", data=jpeg_bytes((128, 96), seed=1), headers=JPEG_TYPE)[0] == 200
page = scraped(url)
counted = total(page, "appliance_requests_total", route="/v1/detect")
print(json.dumps({"counted": counted, "models": total(page, "appliance_model_replicas")}))
ray.shutdown()
cluster.shutdown()
"""
JPEG = jpeg_bytes((128, 96), seed=1)
REQUESTS = "appliance_requests_total"


def hanging_service():  # pragma: no cover - of the long proofs
    """The service, with a model that never comes back from a picture called `hang`."""
    # Made in a function, so that it travels to the replicas as code: they cannot import tests.
    base = serve_app.app.DetectionService

    class HangingService(base):
        def __init__(self, settings):
            base.__init__(self, settings)
            scorer = self._pool.default.scorer
            predict = scorer.predict

            def predict_or_hang(uploads):
                if any(upload.image_uri == "hang" for upload in uploads):
                    threading.Event().wait()
                return predict(uploads)

            scorer.predict = predict_or_hang

    return HangingService


def replicas(url):  # pragma: no cover - of the long proofs
    """Those that have their model."""
    page = scraped(url)
    if total(page, "appliance_model_replicas") < 2:
        return set()
    name = "appliance_replica_start_time_seconds"
    return {dict(labels)["replica"] for found, *labels in page if found == name}


def nodes(url):  # pragma: no cover - of the long proofs
    return {dict(labels).get("node") for _, *labels in scraped(url)}


def detect(url, name="picture"):  # pragma: no cover - of the long proofs
    return ask(f"{url}/v1/detect?name={name}", data=JPEG, headers=JPEG_TYPE)[0]


def ready(url):  # pragma: no cover - of the long proofs
    return ask(f"{url}/readyz", "GET")[0] == 200


@pytest.mark.slow
def test_replicas_are_one_service(ray_cluster, tiny_model_path, tmp_path, monkeypatch):
    monkeypatch.setattr(serve_app.app, "DetectionService", hanging_service())
    log = tmp_path / "access.log"
    settings = settings_for(
        tiny_model_path,
        num_replicas=2,
        num_cpus=0.25,
        request_timeout_s=3,
        metrics_dir=str(tmp_path / "counts"),
        access_log=str(log),
    )
    service = start_service(settings, port=0, name="replicas-test")
    url = service.url
    try:
        both = wait_for(lambda: len(found := replicas(url)) == 2 and found)
        with ThreadPoolExecutor(4) as clients:
            assert set(clients.map(lambda _: detect(url), range(20))) == {200}
        page = scraped(url)
        assert total(page, REQUESTS, route="/v1/detect", status="200") == 20
        assert len({dict(labels)["node"] for _, *labels in page}) == 1
        answered = [json.loads(line) for line in log.read_text().splitlines()]
        assert sum(line["route"] == "/v1/detect" for line in answered) == 20
        assert request_id(url, **{"X-Request-Id": "mine"}) == "mine"
        assert len(request_id(url)) >= 32

        # kill -9 of one: what it has counted stays, what it had in work does not.
        processes = [
            process
            for process in psutil.process_iter(["cmdline"])
            if "ServeReplica:replicas-test:" in " ".join(process.info["cmdline"] or ())
        ]
        assert len(processes) == 2
        processes[0].kill()
        after = wait_for(lambda: len(found := replicas(url)) == 2 and found != both and found)
        assert len(after & both) == 1
        page = scraped(url)
        assert total(page, REQUESTS, route="/v1/detect", status="200") == 20
        assert total(page, "appliance_model_replicas") == 2

        # One that hangs is found and replaced, within the time that a request may take and some checks.
        assert detect(url, "hang") == 504
        wait_for(
            lambda: len(found := replicas(url)) == 2 and found != after and len(found & after) == 1
        )
        with ThreadPoolExecutor(4) as clients:
            assert set(clients.map(lambda _: detect(url), range(8))) == {200}
        page = scraped(url)
        assert total(page, REQUESTS, route="/v1/detect", status="200") == 28
        assert total(page, "appliance_errors_total", code="deadline_exceeded") == 1
        assert ready(url)
    finally:
        stop_service(service.name)


@pytest.mark.slow
def test_a_scrape_tells_of_the_replicas_on_all_machines(tiny_model_path, tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", TWO_NODES, tiny_model_path, tmp_path],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"counted": 6, "models": 2}
