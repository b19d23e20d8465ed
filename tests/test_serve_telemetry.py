"""What a running service tells of each request: ids, timings, log lines; over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator

import aiohttp
import pytest
from factories import jpeg_bytes
from fastapi import FastAPI
from scraping import request_id, samples, scraped, total
from service_load import wait_for
from serving import JPEG_TYPE, ask, plain_service, request, serving

from appliance.on_ray.service_log import replica_lines_on_stderr
from serve_app.scoring.timings import STAGES
from serve_app.telemetry.access_log import log_request, write_access_log_to
from serve_app.telemetry.exposition import render
from serve_app.telemetry.metrics import Metrics
from serve_app.telemetry.middleware import TelemetryMiddleware

JPEG = jpeg_bytes((128, 96), seed=1)
KEY = "a-key-that-nobody-must-see"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Lines(logging.Handler):
    """Collects access log lines, and tells when one has come."""

    def __init__(self):
        super().__init__()
        self.lines = []
        self.arrived = threading.Condition()

    def emit(self, record):
        with self.arrived:
            self.lines.append(json.loads(record.getMessage()))
            self.arrived.notify_all()

    def wait_for(self, number):
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.lines) >= number, timeout=30)
        return self.lines


@pytest.fixture
def access_log():
    """The lines of the access log, parsed."""
    logger = logging.getLogger("serve_app.access")
    before = logger.level, logger.propagate, logger.disabled
    handler = Lines()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.level, logger.propagate, logger.disabled = before


@pytest.fixture(scope="module")
def url(tiny_model_path):
    with plain_service(tiny_model_path) as url:
        yield url


def test_bad_pictures_of_a_good_request_are_counted_by_themselves(url, access_log):
    before = scraped(url)
    lines = b"".join(json.dumps({"image": text}).encode() + b"\n" for text in ("AAAA", "!", "AAAA"))
    status, _, body = asyncio.run(
        request(
            f"{url}/v1/detect/stream", data=lines, headers={"Content-Type": "application/x-ndjson"}
        )
    )
    assert status == 200
    assert len(body.splitlines()) == 3
    after = scraped(url)
    grown = total(after, "appliance_errors_total") - total(before, "appliance_errors_total")
    assert grown == 3
    assert total(after, "appliance_errors_total", code="image_unreadable") == 2
    assert access_log.wait_for(2)[1]["failed_pictures"] == 3


def test_browsers_are_told_where_the_time_went(url):
    _, headers, _ = ask(f"{url}/v1/detect", data=JPEG, headers=JPEG_TYPE)
    entries = dict(entry.split(";dur=") for entry in headers["Server-Timing"].split(", "))
    assert tuple(entries) == STAGES
    assert all(float(duration_ms) >= 0 for duration_ms in entries.values())
    assert float(entries["model"]) > 0
    assert "Server-Timing" not in ask(f"{url}/healthz", "GET")[1]


def test_the_clients_request_id_comes_back_if_it_is_a_harmless_one(url):
    assert request_id(url, **{"X-Request-Id": "order-4711/3"}) == "order-4711/3"
    assert request_id(url, path="/nothing-here", **{"X-Request-Id": "in-an-error"}) == "in-an-error"
    first, second = (request_id(url, **{"X-Request-Id": bad}) for bad in ("a b", "x" * 129))
    assert len({first, second, request_id(url), request_id(url)}) == 4
    assert all(character in "0123456789abcdef" for character in first + second)


def test_a_trace_of_the_w3c_form_names_the_request(url):
    assert request_id(url, traceparent=PARENT) == "0af7651916cd43dd8448eb211c80319c"
    both = {"X-Request-Id": "mine", "traceparent": PARENT}
    assert request_id(url, **both) == "mine"
    none = "00-" + "0" * 32 + "-b7ad6b7169203331-01"
    for parent in ("ff" + PARENT[2:], "nonsense", none):
        assert request_id(url, traceparent=parent) not in parent


def test_a_line_says_all_there_is_to_know_and_nothing_secret(tiny_model_path, access_log):
    headers = {
        **JPEG_TYPE,
        "Authorization": f"Bearer {KEY}",
        "X-Request-Id": "mine",
        "traceparent": PARENT,
        "X-Forwarded-For": "203.0.113.7, 198.51.100.2",
    }
    with plain_service(tiny_model_path, keys=(KEY,), proxies_in_front=1) as url:
        status, answer_headers, row = ask(
            f"{url}/v1/detect?name=secret.jpg&max_detections=3", data=JPEG, headers=headers
        )
        assert status == 200
        ask(f"{url}/v1/detect", data=JPEG, headers={"X-Forwarded-For": ""})
    line, refused = access_log.wait_for(2)
    duration_ms = line.pop("duration_ms")
    assert tuple(duration_ms) == ("total", *STAGES)
    assert duration_ms["total"] >= duration_ms["model"] > 0
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "request_id": "mine",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "method": "POST",
        "route": "/v1/detect",
        "status": 200,
        "bytes_in": len(JPEG),
        "bytes_out": int(answer_headers["Content-Length"]),
        "key_name": "key-1",
        "model": row["model_name"],
        "model_version": row["model_version"],
        "pictures": 1,
        "detections": len(row["detections"]),
        "client": "198.51.100.2",
    }
    assert (refused["status"], refused["error_code"]) == (401, "unauthorized")
    assert "key_name" not in refused
    text = json.dumps(access_log.lines)
    assert KEY not in text
    assert "secret.jpg" not in text


@pytest.mark.parametrize(
    ("proxies", "client"),
    [(0, "192.0.2.9"), (1, "198.51.100.2"), (2, "203.0.113.7"), (3, "192.0.2.9")],
)
def test_the_clients_address_is_the_one_that_our_own_proxies_saw(proxies, client, access_log):
    app = TelemetryMiddleware(FastAPI(), Metrics(), proxies_in_front=proxies)

    async def from_afar(scope, receive, send):
        await app({**scope, "client": ("192.0.2.9", 4711)}, receive, send)

    with serving(from_afar) as url:
        ask(f"{url}/", "GET", headers={"X-Forwarded-For": "203.0.113.7, 198.51.100.2"})
    assert access_log.wait_for(1)[0]["client"] == client


def test_a_websocket_is_one_request_with_many_pictures(url, access_log):
    async def show_frames():
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/v1/stream") as ws:
            for _ in range(3):
                await ws.send_bytes(JPEG)
                assert "detections" in await ws.receive_json()
            return ws._response.headers["X-Request-Id"]

    before = scraped(url)
    request_id = asyncio.run(show_frames())
    (scrape, line) = access_log.wait_for(2)
    assert scrape["route"] == "/metrics"
    assert (line["method"], line["route"], line["status"]) == ("WEBSOCKET", "/v1/stream", 101)
    assert (line["request_id"], line["pictures"]) == (request_id, 3)
    assert line["bytes_in"] == 3 * len(JPEG)
    assert line["bytes_out"] > 0
    assert line["duration_ms"]["model"] > 0
    after = scraped(url)
    name = "appliance_stage_duration_seconds_count"
    assert total(after, name, stage="model") - total(before, name, stage="model") == 3
    assert total(after, "appliance_requests_total", method="WEBSOCKET", status="101") == 1
    assert total(after, "appliance_request_duration_seconds_count", route="/v1/stream") == 0


def test_a_client_that_hangs_up_is_told_apart_from_errors(url, access_log):
    address = url.removeprefix("http://")
    connection = http.client.HTTPConnection(address)
    connection.putrequest("POST", "/v1/detect")
    connection.putheader("Content-Type", "image/jpeg")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"\xff\xd8")
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    line = access_log.wait_for(1)[0]
    assert line["status"] == 499
    assert line["bytes_in"] <= 2
    assert total(scraped(url), "appliance_requests_total", status="499") == 1


# What our own service hopefully never does, asked of a small application.


@contextlib.contextmanager
def small_service() -> Iterator[tuple[str, Metrics, threading.Event]]:
    """Routes that fail, stream and refuse, within the middleware; with its counts and a gate."""
    app, metrics, gate = FastAPI(), Metrics(), threading.Event()

    @app.get("/broken/{name}")
    async def broken(name: str):
        raise RuntimeError("a mistake of ours")

    async def answer_in_parts(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await asyncio.to_thread(gate.wait, 30)
        raise RuntimeError("a mistake in the middle")

    async def refuse(scope, receive, send):
        await receive()
        await send({"type": "websocket.close", "code": 4403})

    async def silent(scope, receive, send):
        pass

    app.mount("/parts", answer_in_parts)
    app.mount("/refused", refuse)
    app.mount("/silent", silent)
    with serving(TelemetryMiddleware(app, metrics)) as url:
        yield url, metrics, gate


def counted(metrics):
    return samples(render({"": metrics.counts.totals()})[0])


def test_our_own_mistakes_are_counted_logged_and_answered_with_an_id(access_log, caplog):
    with small_service() as (url, metrics, _):
        status, headers, _ = asyncio.run(request(f"{url}/broken/door", "GET"))
        assert status == 500
        line = access_log.wait_for(1)[0]
        assert line["route"] == "/broken/{name}"
        assert (line["status"], line["error_code"]) == (500, "internal")
        assert headers["X-Request-Id"] == line["request_id"]
        assert f"request {line['request_id']} failed" in caplog.text
        page = counted(metrics)
        assert total(page, "appliance_errors_total", route="/broken/{name}", code="internal") == 1
        asyncio.run(silent(url))
        assert access_log.wait_for(2)[1]["status"] == 500
        assert total(counted(metrics), "appliance_errors_total", code="status_500") == 1


async def silent(url):
    async with aiohttp.ClientSession() as session:
        response = await session.get(f"{url}/silent/")
        assert response.status == 500


def test_a_stream_passes_unbuffered_and_its_failure_is_counted(access_log):
    async def first_part_then_failure(url, gate):
        async with aiohttp.ClientSession() as session, session.get(f"{url}/parts/") as response:
            assert await response.content.readany() == b"first"
            gate.set()
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()

    with small_service() as (url, metrics, gate):
        asyncio.run(first_part_then_failure(url, gate))
        line = access_log.wait_for(1)[0]
        assert (line["status"], line["error_code"], line["bytes_out"]) == (200, "internal", 5)
        assert total(counted(metrics), "appliance_errors_total", code="internal") == 1


def test_a_websocket_that_is_refused_counts_as_forbidden(access_log):
    async def knock(url):
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(f"{url}/refused/")

    with small_service() as (url, _, _):
        asyncio.run(knock(url))
        line = access_log.wait_for(1)[0]
        assert (line["method"], line["route"], line["status"]) == ("WEBSOCKET", "other", 403)


@pytest.fixture
def logger():
    """The logger of the access log, which is as it was at the end."""
    logger = logging.getLogger("serve_app.access")
    before = logger.level, logger.propagate, logger.disabled
    yield logger
    write_access_log_to("")
    logger.level, logger.propagate, logger.disabled = before


@pytest.mark.usefixtures("logger")
def test_the_access_log_goes_to_a_file_that_may_be_rotated_away(tmp_path, url):
    path = tmp_path / "access.log"
    write_access_log_to(str(path))
    ask(f"{url}/healthz", "GET")
    ask(f"{url}/healthz", "GET")
    # A client has its answer a moment before the line is written.
    wait_for(lambda: path.exists() and len(path.read_text().splitlines()) == 2)
    path.rename(tmp_path / "access.log.1")
    ask(f"{url}/readyz", "GET")
    wait_for(lambda: path.exists() and path.read_text().endswith("\n"))
    ask(f"{url}/metrics", "PUT")
    write_access_log_to("-")
    write_access_log_to("")
    ask(f"{url}/healthz", "GET")
    routes = [json.loads(line)["route"] for line in path.read_text().splitlines()]
    assert routes[0] == "/readyz"
    assert (tmp_path / "access.log.1").exists()


def test_standard_error_is_that_of_the_process_whatever_serve_puts_in_its_place(
    logger, monkeypatch, capfd
):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    write_access_log_to("-")
    log_request({"status": 200})
    assert json.loads(capfd.readouterr().err)["status"] == 200


@pytest.mark.parametrize("place", ["/dev/full", "nowhere/access.log"])
def test_a_log_that_cannot_be_written_is_told_once_and_costs_no_request(
    logger, tmp_path, caplog, place
):
    write_access_log_to(str(tmp_path / place))
    for _ in range(3):
        log_request({"status": 200})
    (complaint,) = caplog.messages
    assert "the access log cannot be written" in complaint


def test_the_lines_of_a_replica_reach_standard_error_and_it_waits_for_nobody(logger, capfd):
    with replica_lines_on_stderr() as pipe:
        write_access_log_to(pipe)
        log_request({"status": 200})
        logging.getLogger("elsewhere").error("x" * 10_000)
        logging.getLogger("elsewhere").info("not this")
    said = capfd.readouterr().err
    assert json.loads(said.splitlines()[0])["status"] == 200
    assert said.splitlines()[1:] == ["x" * 10_000]
    log_request({"status": 200})  # nobody is there
    assert capfd.readouterr().err == ""


def test_a_pipe_that_nobody_empties_costs_lines_and_no_request(logger, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_access_log_to(str(path))
    for _ in range(2000):
        log_request({"name": "x" * 100})
    assert len(os.read(reader, 2**20)) < 2**20
    os.close(reader)
