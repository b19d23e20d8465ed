"""What a running service tells Prometheus, over real HTTP and read by a real parser."""

from __future__ import annotations

import asyncio
import json

import pytest
from factories import jpeg_bytes
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_prometheus
from scraping import samples, scraped, total
from serving import JPEG_TYPE, JSON_TYPE, ask, plain_service, request

from serve_app.scoring.timings import STAGES
from serve_app.telemetry.exposition import render
from serve_app.telemetry.families import FAMILIES
from serve_app.telemetry.metrics import Metrics

JPEG = jpeg_bytes((128, 96), seed=1)
KEY = "a-key"
OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1"}


@pytest.fixture(scope="module")
def url(tiny_model_path):
    with plain_service(tiny_model_path) as url:
        yield url


def test_every_scored_picture_stands_in_the_metrics(url):
    before = scraped(url)
    status, _, row = ask(f"{url}/v1/detect", data=JPEG, headers=JPEG_TYPE)
    assert status == 200
    after = scraped(url)

    def grown(name, **labels):
        return total(after, name, **labels) - total(before, name, **labels)

    route = {"route": "/v1/detect"}
    assert grown("appliance_requests_total", method="POST", status="200", **route) == 1
    assert grown("appliance_received_bytes_total", **route) == len(JPEG)
    assert grown("appliance_sent_bytes_total", **route) > 0
    assert grown("appliance_request_duration_seconds_count", **route) == 1
    assert grown("appliance_request_duration_seconds_bucket", le="+Inf", **route) == 1
    assert grown("appliance_request_duration_seconds_sum", **route) > 0
    for stage in set(STAGES):
        assert grown("appliance_stage_duration_seconds_count", stage=stage) == 1, stage
    assert grown("appliance_batch_size_pictures_bucket", le="1.0") == 1
    assert grown("appliance_pictures_total", version=row["model_version"]) == 1
    found = [detection["label"] for detection in row["detections"]]
    assert found
    for label in set(found):
        assert grown("appliance_detections_total", label=label) == found.count(label)
    assert total(after, "appliance_model_replicas", version=row["model_version"]) == 1
    assert total(after, "appliance_queue_depth_pictures") == 0
    assert total(after, "appliance_requests_in_progress") == 1  # the one that asked


def test_errors_are_counted_by_the_code_that_clients_see(url):
    before = scraped(url)
    assert ask(f"{url}/v1/detect", data=b"no picture", headers=JPEG_TYPE)[0] == 400
    assert ask(f"{url}/v1/detect", "PUT", data=JPEG)[0] == 405
    for path in ("/a", "/b?key=secret"):
        assert ask(f"{url}{path}", "GET")[0] == 404
    assert ask(f"{url}/v1/detect", "PROPFIND", data=JPEG)[0] == 405
    images = [{"image_in_base64": "AAAA", "parameters": {}}]
    assert ask(f"{url}/score", data=json.dumps(images), headers=JSON_TYPE)[0] == 400
    after = scraped(url)

    def grown(name, **labels):
        return total(after, name, **labels) - total(before, name, **labels)

    errors = "appliance_errors_total"
    assert grown(errors, route="/v1/detect", code="image_unreadable") == 1
    assert grown(errors, route="/score", code="image_unreadable") == 1
    assert grown(errors, route="/v1/detect", code="method_not_allowed") == 2
    assert grown(errors, route="other", code="not_found") == 2
    assert grown("appliance_requests_total", method="other", status="405") == 1
    assert grown(errors) == 6
    routes = {dict(labels).get("route") for _, *labels in set(after) - set(before)}
    assert routes <= {None, "/v1/detect", "/score", "/metrics", "other"}


def test_the_page_is_openmetrics_for_those_who_ask(url):
    status, headers, body = asyncio.run(request(f"{url}/metrics", "GET", headers=OPENMETRICS))
    assert status == 200
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in read_openmetrics(body.decode())}
    assert names == {family.name.removesuffix("_total") for family in FAMILIES}


@pytest.mark.parametrize(
    "accept", ["", "text/html", "application/openmetrics-text2", "text/plain;version=x"]
)
def test_the_page_is_prometheus_text_for_all_others(url, accept):
    status, headers, body = asyncio.run(
        request(f"{url}/metrics", "GET", headers={"Accept": accept})
    )
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert len(list(read_prometheus(body.decode()))) == len(FAMILIES)


def test_a_strange_accept_header_is_no_error(url):
    headers = {"Accept": "application/openmetrics-text; version=abc; escaping=\xff"}
    assert asyncio.run(request(f"{url}/metrics", "GET", headers=headers))[0] == 200


def test_the_metrics_ask_for_a_key_where_scoring_does(tiny_model_path):
    keys = {"keys": (KEY,)}
    with plain_service(tiny_model_path, **keys) as url:
        assert ask(f"{url}/metrics", "GET")[0] == 401
        assert scraped(url, {"Authorization": f"Bearer {KEY}"})
    with plain_service(tiny_model_path, open_metrics=True, **keys) as url:
        assert scraped(url)


def test_machines_are_told_apart(tmp_path):
    north, south = (
        Metrics(tmp_path / "north", replica="a"),
        Metrics(tmp_path / "south", replica="b"),
    )
    north.count_dropped_frames(2)
    south.count_dropped_frames(3)
    south.count_rate_limited('a "key"\n')
    page = samples(render({"n1": north.counts.totals(), "n2": south.counts.totals()})[0])
    assert page["appliance_dropped_frames_total", ("node", "n1")] == 2
    assert page["appliance_dropped_frames_total", ("node", "n2")] == 3
    assert page["appliance_rate_limited_total", ("key", 'a "key"\n'), ("node", "n2")] == 1


def test_buckets_add_up_over_processes(tmp_path):
    one, two = Metrics(tmp_path, replica="1"), Metrics(tmp_path, replica="2")
    for metrics, size in ((one, 1), (two, 2), (two, 3), (two, 1000)):
        metrics.observe_batch("shelf", size)
    one.model_loaded("shelf", "v1")
    two.model_loaded("shelf", "v1")
    two.model_given_up("shelf", "v1")
    two.close()
    page = samples(render({"": one.counts.totals()})[0])
    bucket = "appliance_batch_size_pictures_bucket"
    counts = {
        upper: page[bucket, ("le", upper), ("model", "shelf")]
        for upper in ("1.0", "2.0", "4.0", "64.0", "+Inf")
    }
    assert counts == {"1.0": 1, "2.0": 2, "4.0": 3, "64.0": 3, "+Inf": 4}
    assert page["appliance_batch_size_pictures_sum", ("model", "shelf")] == 1006
    assert page["appliance_model_replicas", ("model", "shelf"), ("version", "v1")] == 1
