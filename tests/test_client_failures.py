"""The client against a server that is busy, late, cut off, or something else altogether."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from functools import partial

import pytest
from aiohttp import web
from factories import jpeg_bytes
from https_server import answer as raw_answer
from https_server import https_server, make_certificate
from scripted_server import RECORD, cut, cut_within, error, never, scripted

from appliance.client import AsyncClient, Client, Url, asynchronous, pictures, transport
from appliance.client.retries import RetryPolicy, retry_after_s
from appliance.errors import (
    ConfigError,
    ForeignAnswerError,
    ImageError,
    ServiceBusyError,
    ServiceCallError,
    ServiceError,
    ServiceRefusalError,
    ServiceTimeoutError,
    ServiceUnreachableError,
)

JPEG = jpeg_bytes()
GOOD = (200, RECORD)
PAGE = "<html><head><title>502 Bad\nGateway</title></head><body>nginx</body></html>"
BUSY = error(503, "overloaded")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Retries as ever, but at once."""
    monkeypatch.setattr(asynchronous, "RetryPolicy", partial(RetryPolicy, first_wait_s=0.0))


# --- when to try again -----------------------------------------------------------------------------


@pytest.mark.parametrize("passing", [BUSY, error(429, "rate_limited"), cut, (503, PAGE)])
def test_what_passes_is_tried_again_with_the_time_that_is_left(passing):
    with scripted(passing, passing, GOOD) as server, Client(server.url, timeout_s=20) as client:
        assert client.detect(JPEG).image_uri == "a.jpg"
    assert len(server.requests) == 3
    left_ms = [int(headers["X-Request-Timeout-Ms"]) for _, _, headers, _ in server.requests]
    assert 20_000 >= left_ms[0] > left_ms[-1] > 0
    assert {body for *_, body in server.requests} == {JPEG}


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "image_unreadable", ServiceRefusalError),
        (401, "unauthorized", ServiceRefusalError),
        (404, "not_found", ServiceRefusalError),
        (408, "body_too_slow", ServiceTimeoutError),
        (500, "internal", ServiceRefusalError),
        (504, "deadline_exceeded", ServiceTimeoutError),
    ],
)
def test_what_does_not_pass_is_not_tried_again(status, code, kind):
    with (
        scripted(error(status, code, index=3)) as server,
        Client(server.url) as client,
        pytest.raises(kind, match=f"{code}: It is {code}.*request r1.*Do this") as caught,
    ):
        client.detect(JPEG)
    assert len(server.requests) == 1
    told = caught.value
    assert (told.status, told.code, told.request_id, told.index) == (status, code, "r1", 3)
    assert not told.transient


def test_after_the_last_attempt_the_last_answer_is_told():
    busy = error(429, "rate_limited", {"Retry-After": "0"})
    with (
        scripted(busy) as server,
        Client(server.url, max_attempts=3) as client,
        pytest.raises(ServiceBusyError, match="no room.*rate_limited.*after 3 attempts"),
    ):
        client.detect(JPEG)
    assert len(server.requests) == 3


def test_the_service_says_how_long_to_wait():
    # By the clock of the server, which may be another.
    in_a_second = {
        "Date": "Wed, 21 Oct 2015 07:28:00 GMT",
        "Retry-After": "Wed, 21 Oct 2015 07:28:01 GMT",
    }
    busy = error(503, "overloaded", in_a_second)
    with scripted(busy, GOOD) as server, Client(server.url) as client:
        start_s = time.monotonic()
        assert client.detect(JPEG).error is None
        assert 0.9 < time.monotonic() - start_s < 10
    assert len(server.requests) == 2


def test_nobody_waits_longer_than_there_is_time():
    busy = error(503, "overloaded", {"Retry-After": "3600"})
    with (
        scripted(busy) as server,
        Client(server.url, timeout_s=30) as client,
        pytest.raises(ServiceBusyError) as caught,
    ):
        client.detect(JPEG)
    assert caught.value.retry_after_s == 3600
    assert len(server.requests) == 1


def test_waits_double_at_random_and_never_fall_below_what_is_asked():
    asked = []
    policy = RetryPolicy(9, 0.25, longest_wait_s=1, uniform=lambda *span: asked.append(span) or 0.2)
    passing = ServiceCallError("busy", transient=True)
    assert [policy.wait_s(passing, attempt, 9) for attempt in (1, 2, 3, 4)] == [0.2] * 4
    assert asked == [(0, 0.25), (0, 0.5), (0, 1), (0, 1)]
    told = ServiceCallError("busy", transient=True, retry_after_s=3)
    assert policy.wait_s(told, 1, 9) == 3.2
    assert policy.wait_s(told, 1, 3.1) is None
    assert policy.wait_s(told, 9, 9) is None
    assert policy.wait_s(ServiceCallError("wrong"), 1, 9) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": " 12 "}, 12),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "²"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        (
            {
                "Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT",
                "Date": "Wed, 21 Oct 2015 07:27:30 -0000",
            },
            30,
        ),
    ],
)
def test_retry_after_comes_as_seconds_or_as_a_date(headers, seconds):
    assert retry_after_s(headers) == seconds


@pytest.mark.parametrize("arguments", [{"max_attempts": 0}, {"timeout_s": 0}, {"timeout_s": -1}])
def test_limits_that_are_none_are_refused(arguments):
    with pytest.raises(ConfigError, match="is out of range"):
        Client("http://host", **arguments)


# --- connections -----------------------------------------------------------------------------------


def test_nobody_there_is_said_with_the_next_step():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with Client(url, max_attempts=2) as client:
            with pytest.raises(ServiceUnreachableError) as caught:
                client.detect(JPEG)
            assert "(got Connection refused) [after 2 attempts]. Start one" in str(caught.value)
            assert caught.value.kind == "unreachable"
            assert client.ready() is False


def test_a_host_without_an_address_is_told_at_once():
    with Client("http://nowhere.invalid") as client:
        with pytest.raises(ServiceUnreachableError, match="no host of this name") as caught:
            client.detect(JPEG)
        assert caught.value.attempts == 1
        with pytest.raises(ServiceUnreachableError):
            client.ready()
        with pytest.raises(ServiceUnreachableError):
            client.wait_until_ready(10)


def test_who_takes_no_connection_is_not_waited_for_forever(monkeypatch):
    monkeypatch.setattr(transport, "_CONNECT_TIMEOUT_S", 0.05)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(3):  # the queue of connections is full
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        client = stack.enter_context(Client(f"http://127.0.0.1:{address[1]}", max_attempts=2))
        with pytest.raises(ServiceUnreachableError, match="does not answer.*no answer in time"):
            client.detect(JPEG)


def test_a_connection_that_is_cut_within_an_answer_is_told():
    with (
        scripted(cut_within) as server,
        Client(server.url) as client,
        pytest.raises(ServiceUnreachableError, match="cut within an answer"),
    ):
        client.detect(JPEG)
    assert len(server.requests) == 1


def test_always_cut_before_an_answer_is_told():
    with (
        scripted(cut) as server,
        Client(server.url, max_attempts=2) as client,
        pytest.raises(ServiceUnreachableError, match="has cut the connection.*2 attempts"),
    ):
        client.detect(JPEG)


def test_who_is_late_is_given_up_and_the_connection_closed():
    with scripted(never) as server, Client(server.url, timeout_s=0.3) as client:
        with pytest.raises(ServiceTimeoutError, match=r"not answered in time: b.*within 0.3 s"):
            client.detect(JPEG, name="b")
        assert server.hung_up.wait(20)
        assert client.ready(timeout_s=0.1) is False


def test_a_large_body_arrives_whole():
    with scripted(GOOD) as server, Client(server.url) as client:
        large = JPEG + bytes(3 * 2**20)
        assert client.detect(large).error is None
    assert server.requests[0][-1] == large


# --- TLS and others that answer --------------------------------------------------------------------


def test_a_certificate_that_nobody_vouches_for_is_told(tmp_path):
    make_certificate(tmp_path, ("localhost",))
    body = b'{"status": "ready"}'
    trusting = ssl.create_default_context(cafile=tmp_path / "cert.pem")

    async def use():
        async with https_server(tmp_path, {"/readyz": raw_answer(body)}) as server:
            url = f"https://localhost:{server.port}"
            async with AsyncClient(url) as wary:
                with pytest.raises(ServiceUnreachableError) as caught:
                    await wary.detect(JPEG)
            async with AsyncClient(url, ssl_context=trusting) as client:
                assert await client.ready()
            return str(caught.value)

    told = asyncio.run(use())
    assert "certificate is not trusted: https://localhost:" in told
    assert "self-signed certificate" in told
    assert "SSL_CERT_FILE" in told


def test_https_where_there_is_none_is_told():
    with (
        scripted(GOOD) as server,
        Client(server.url.replace("http", "https")) as client,
        pytest.raises(ServiceUnreachableError, match="There is no TLS.*begins with http://"),
    ):
        client.detect(JPEG)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((502, PAGE), "got status 502 and '502 Bad Gateway'"),
        ((404, "<p>Nothing\n<b>here</b></p>"), "got status 404 and 'Nothing here'"),
        ((200, PAGE), "got status 200"),
        ((200, {"status": "fine"}), "got status 200"),
        ((200, [1]), "got status 200"),
        ((400, {"error": "wrong"}), "got status 400"),
        ((302, "", {"Location": "https://login/?token=1"}), "leads to https://login/,|/login/"),
        ((200, "", {}), "got status 200"),
    ],
)
def test_what_is_not_the_appliance_is_told(answer, words):
    with scripted(answer) as server, Client(server.url) as client:
        for ask in (client.detect, client.score_compat, client.annotated):
            with pytest.raises(ForeignAnswerError, match="not the appliance") as caught:
                ask(JPEG)
        with pytest.raises(ForeignAnswerError):
            client.models()
    assert len(server.requests) == 4
    assert caught.value.kind == "foreign_answer"
    assert "token" not in str(caught.value)


def test_what_a_later_service_adds_is_left_out():
    later = {**RECORD, "more": 1, "detections": [{**RECORD["detections"][0], "mask": [1]}]}
    with scripted((200, later)) as server, Client(server.url) as client:
        assert client.detect(JPEG).detections[0].label == "circle"


def test_who_speaks_no_http_is_told():
    async def use():
        server = await asyncio.start_server(lambda _, w: w.write(b"220 mail\r\n"), "127.0.0.1", 0)
        async with (
            server,
            AsyncClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client,
        ):
            with pytest.raises(ForeignAnswerError, match="got no HTTP"):
                await client.detect(JPEG)

    asyncio.run(use())


def test_an_answer_without_an_end_is_given_up(monkeypatch):
    monkeypatch.setattr(transport, "_MAX_ANSWER_BYTES", 100)
    with (
        scripted(GOOD) as server,
        Client(server.url) as client,
        pytest.raises(ForeignAnswerError, match="larger than any"),
    ):
        client.detect(JPEG)


# --- readiness -------------------------------------------------------------------------------------


def test_a_service_that_starts_is_waited_for():
    answers = [cut, (404, PAGE), error(503, "not_ready"), (200, {"status": "ready"})]
    with scripted(*answers) as server, Client(server.url) as client:
        client.wait_until_ready(20)
        assert len(server.requests) == 4
        assert client.ready()


def test_a_service_that_does_not_get_ready_is_told_with_its_last_word():
    with scripted(error(503, "not_ready")) as server, Client(server.url) as client:
        with pytest.raises(ServiceTimeoutError, match="not ready.*It is not_ready"):
            client.wait_until_ready(0.1)
        assert client.ready() is False


# --- pictures of the web ---------------------------------------------------------------------------


def test_an_address_as_text_is_fetched_here_without_the_key(monkeypatch):
    async def picture(_):
        return web.Response(body=JPEG, content_type="image/jpeg")

    with (
        scripted(picture) as site,
        scripted(GOOD) as server,
        Client(server.url, key="dak_secret") as client,
    ):
        assert client.detect(f"{site.url}/a.jpg?signature=1").error is None
        records = list(client.detect_many([f"{site.url}/b.jpg"]))
    assert records[0].error is None
    assert "Authorization" not in site.requests[0][2]
    assert site.paths[0] == "/a.jpg?signature=1"
    method, path, headers, body = server.requests[0]
    assert (method, body, headers["Authorization"]) == ("POST", JPEG, "Bearer dak_secret")
    assert "a.jpg" in path
    assert "signature" not in path


def test_a_picture_that_cannot_be_fetched_is_told(monkeypatch):
    with scripted((404, "gone"), GOOD) as site, Client("http://127.0.0.1:1") as client:
        with pytest.raises(ImageError, match=r"cannot be fetched: .*/a\.jpg \(got status 404\)"):
            client.detect(f"{site.url}/a.jpg?signature=1")
        monkeypatch.setattr(transport, "MAX_PICTURE_BYTES", 10)
        with pytest.raises(ImageError, match="expected at most 10 bytes") as caught:
            client.detect(f"{site.url}/a.jpg")
        assert caught.value.kind == "too_large"
        with pytest.raises(ImageError, match=r"http://127.0.0.1:1/ \(got Connection refused"):
            client.detect("http://127.0.0.1:1/")
        with pytest.raises(ImageError, match="cannot be fetched"):
            client.detect("http://")
    with (
        scripted(never) as site,
        Client("http://127.0.0.1:1", timeout_s=0.2) as client,
        pytest.raises(ImageError, match="no answer in time"),
    ):
        client.detect(f"{site.url}/a.jpg")


def test_a_picture_too_large_for_a_service_is_not_even_sent(monkeypatch, tmp_path):
    monkeypatch.setattr(pictures, "MAX_PICTURE_BYTES", 10)
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG)
    with (
        Client("http://127.0.0.1:1") as client,
        pytest.raises(ImageError, match="too large for a picture: .*at most 10 bytes"),
    ):
        client.detect(path)


def test_the_wish_of_an_address_for_the_service_goes_out_as_such():
    with scripted(GOOD) as server, Client(server.url) as client:
        client.detect(Url("https://pictures.example.com/a.jpg?b=1"), max_detections=2)
    _, path, headers, body = server.requests[0]
    assert headers["Content-Type"] == "application/json"
    assert body == b'{"image": {"url": "https://pictures.example.com/a.jpg?b=1"}}'
    assert path == ("/v1/detect?max_detections=2&name=https%3A%2F%2Fpictures.example.com%2Fa.jpg")


def test_a_closed_client_says_so():
    client = Client("http://127.0.0.1:1")
    client.close()
    client.close()
    with pytest.raises(ServiceError, match="The client is closed"):
        client.detect(JPEG)
