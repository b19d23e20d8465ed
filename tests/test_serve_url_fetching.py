"""Pictures from URLs: what is fetched from real servers, and what hostile ones get."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import socket
import ssl
import threading

import pytest
from https_server import HOST, answer, https_server, make_certificate, redirect

from serve_app.errors import RequestError
from serve_app.security.admission import ByteBudget
from serve_app.security.url_fetching import UrlFetcher, _CheckedResolver
from serve_app.settings import ServiceSettings

LOOPBACK = ipaddress.ip_network("127.0.0.1/32")
PICTURE = b"the bytes of a picture"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    make_certificate(folder)
    return folder


class Names:
    """A name server: the answers to each host in turn, the last one for ever."""

    def __init__(self, *answers):
        self.answers = list(answers or [["127.0.0.1"]])
        self.asked = []

    async def __call__(self, host):
        self.asked.append(host)
        told = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(told, Exception):
            raise told
        return told


def fetching(
    certificate, answers, *paths, names=None, addresses=("127.0.0.1",), take=None, **options
):
    """Asks a server for paths one after the other: contents or errors, and the server."""

    async def run():
        async with https_server(certificate, answers, addresses) as server:
            for path, told in answers.items():
                if isinstance(told, str):
                    answers[path] = redirect(told.replace("PORT", str(server.port)))
            values = {
                "max_bytes": 100_000,
                "timeout_s": 5.0,
                "also_allowed": [LOOPBACK],
                "ssl_context": ssl.create_default_context(cafile=certificate / "cert.pem"),
                "resolve": names or Names(),
                **options,
            }
            fetcher = UrlFetcher([f"*.example.com:{server.port}"], **values)
            results = []
            try:
                for path in paths:
                    try:
                        url = f"https://{HOST}:{server.port}{path}"
                        results.append(await fetcher.fetch(url, take))
                    except RequestError as error:
                        results.append(error)
            finally:
                await fetcher.close()
                await fetcher.close()
            return results, server

    return asyncio.run(run())


def failure(certificate, answers, *, path="/a", **options):
    """The error of asking for one path, which must not tell an address."""
    (error,), _ = fetching(certificate, answers, path, **options)
    assert isinstance(error, RequestError), error
    told = f"{error.message} {error.hint}"
    assert "127.0.0" not in told
    assert "192.168" not in told
    return error.status, error.code, error.message


def test_a_picture_is_fetched_with_nothing_of_ours_in_the_request(certificate, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    names = Names()
    answers = {"/a?b=%2F": answer(PICTURE, "200 OK", "Set-Cookie: a=b; Domain=example.com")}
    results, server = fetching(certificate, answers, "/a?b=%2F", "/a?b=%2F", names=names)
    assert results == [PICTURE, PICTURE]
    assert names.asked == [HOST]  # the second came through the same connection
    for lines in server.requests["/a?b=%2F"]:
        headers = dict(line.split(": ") for line in lines[1:] if line)
        assert headers == {
            "Host": f"{HOST}:{server.port}",
            "Accept": "image/*",
            "Accept-Encoding": "identity",
            "User-Agent": "detection-appliance",
        }


def test_an_answer_in_chunks_and_an_empty_one(certificate):
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    results, _ = fetching(certificate, {"/a": chunked, "/b": answer()}, "/a", "/b")
    assert results == [b"abcde", b""]


def test_without_an_allowance_loopback_is_refused_before_any_connection(certificate):
    for addresses in (["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"]):
        (error,), server = fetching(
            certificate, {"/a": answer(PICTURE)}, "/a", names=Names(addresses), also_allowed=()
        )
        assert (error.status, error.code) == (403, "url_not_allowed")
        assert not server.connections


def test_the_connection_goes_to_the_address_that_was_looked_at(certificate):
    # A name server that answers with a forbidden address from the second time on.
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    closing = answer(PICTURE, "200 OK", "Connection: close")
    (first, second), server = fetching(
        certificate,
        {"/a": closing},
        "/a",
        "/a",
        names=names,
        addresses=("127.0.0.1", "127.0.0.2"),
    )
    assert first == PICTURE
    assert (second.status, second.code) == (403, "url_not_allowed")
    assert names.asked == [HOST, HOST]
    assert server.connections == {"127.0.0.1": 1}


def test_redirects_within_the_list_are_followed(certificate):
    answers = {
        "/a": "/b",
        "/b": "https://other.example.com:PORT/c",
        "/c": "//pictures.example.com:PORT/d",
        "/d": answer(PICTURE),
    }
    names = Names()
    results, _ = fetching(certificate, answers, "/a", names=names)
    assert results == [PICTURE]
    assert names.asked == [HOST, HOST, "other.example.com", HOST]


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.example/secret-path",
        "http://pictures.example.com:PORT/b",
        "https://pictures.example.com/b",
        "https://127.0.0.1:PORT/b",
        "https://[::1]:PORT/b",
        "https://user@pictures.example.com:PORT/b",
        "file:///etc/passwd",
        "https://[::1/b",
        "/b b",
        "/\xff\xfe\x80",
    ],
)
def test_redirects_off_the_list_are_not_followed(certificate, location):
    (error,), server = fetching(certificate, {"/a": location, "/b": answer(PICTURE)}, "/a")
    assert (error.status, error.code) == (403, "url_not_allowed")
    assert "secret-path" not in error.message
    assert list(server.requests) == ["/a"]


def test_a_redirect_to_a_name_with_a_private_address_is_not_followed(certificate):
    names = Names(["127.0.0.1"], ["192.168.0.7"])
    answers = {"/a": "https://inside.example.com:PORT/b"}
    assert failure(certificate, answers, names=names)[:2] == (403, "url_not_allowed")
    assert names.asked == [HOST, "inside.example.com"]


def test_redirects_end(certificate):
    status, code, message = failure(certificate, {"/a": "/a"})
    assert (status, code) == (424, "url_bad_answer")
    assert "more than 3 redirects" in message
    without_location = answer(b"", "302 Found")
    assert failure(certificate, {"/a": without_location})[1] == "url_bad_answer"


async def far_too_long(writer):
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(5000):  # 500 times what is allowed
        writer.write(b"x" * 10_000)
        await writer.drain()


async def silent(writer):
    await writer.drain()
    await asyncio.sleep(60)  # the client hangs up long before


async def drips(writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def breaks_off(writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")


async def hangs_up(writer):
    await writer.drain()


@pytest.mark.parametrize(
    ("told", "status", "code", "words"),
    [
        (answer(b"x" * 100_001), 413, "url_too_large", "100,000 bytes"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            413,
            "url_too_large",
            "100,000",
        ),
        (far_too_long, 413, "url_too_large", "100,000 bytes"),
        (
            answer(gzip.compress(b"x"), "200 OK", "Content-Encoding: gzip"),
            424,
            "url_bad_answer",
            "compr",
        ),
        (answer(b"x", "200 OK", "Content-Encoding: br"), 424, "url_bad_answer", "compressed"),
        (answer(b"x", "404 Not Found"), 424, "url_bad_answer", "status 404"),
        (answer(b"x", "206 Partial Content"), 424, "url_bad_answer", "status 206"),
        (answer(b"", "304 Not Modified"), 424, "url_bad_answer", "status 304"),
        (answer(b"", "500 Oh"), 424, "url_bad_answer", "status 500"),
        (breaks_off, 424, "url_bad_answer", "broke off"),
        (hangs_up, 424, "url_bad_answer", "broke off"),
        (b"SSH-2.0-OpenSSH_9\r\n", 424, "url_bad_answer", "not HTTP"),
        (answer(b"x", "200 OK", "Content-Length: 7"), 424, "url_bad_answer", "not HTTP"),
        (answer(b"x", "200 OK", "X: " + "y" * 20_000), 424, "url_bad_answer", "not HTTP"),
        (answer(b"x", "200 OK", *["X: y"] * 200), 424, "url_bad_answer", "not HTTP"),
    ],
)
def test_hostile_answers_are_refused(certificate, told, status, code, words):
    got = failure(certificate, {"/a": told})
    assert got[:2] == (status, code)
    assert words in got[2]


@pytest.mark.parametrize("told", [silent, drips])
def test_slow_servers_are_given_up(certificate, told):
    assert failure(certificate, {"/a": told}, timeout_s=0.2)[:2] == (424, "url_timeout")


def test_a_name_server_that_does_not_answer_is_given_up(certificate):
    async def never(_):
        await asyncio.Event().wait()

    assert failure(certificate, {}, names=never, timeout_s=0.1)[:2] == (424, "url_timeout")


@pytest.mark.parametrize(
    "names",
    [Names([]), Names(socket.gaierror(-2, "Name or service not known")), Names(["127.0.0.3"])],
)
def test_hosts_that_are_not_there(certificate, names):
    allowed = [ipaddress.ip_network("127.0.0.0/8")]
    got = failure(certificate, {}, names=names, also_allowed=allowed)
    assert got[:2] == (424, "url_unreachable")


def test_certificates_of_strangers_and_of_other_names_are_not_believed(certificate, tmp_path):
    answers = {"/a": answer(PICTURE)}
    strangers = ssl.create_default_context()
    assert failure(certificate, answers, ssl_context=strangers)[1] == "url_unreachable"
    assert failure(certificate, answers, ssl_context=None)[1] == "url_unreachable"
    make_certificate(tmp_path, names=["other.example.com"])
    trusting = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    assert failure(tmp_path, answers, ssl_context=trusting)[1] == "url_unreachable"


def test_pictures_may_be_taken_from_a_budget(certificate):
    budget = ByteBudget(100_000)
    answers = {"/a": answer(b"x" * 60_000)}
    first, second = fetching(certificate, answers, "/a", "/a", take=budget.take)[0]
    assert len(first) == 60_000
    assert (second.status, second.code) == (503, "overloaded")


def test_names_are_looked_up_by_the_system_in_threads_that_end():
    # `.invalid` exists nowhere, by agreement (RFC 2606).
    async def fetch():
        fetcher = UrlFetcher(["nowhere.invalid"])
        try:
            await fetcher.fetch("https://nowhere.invalid/a")
        finally:
            threads = [each for each in threading.enumerate() if each.name.startswith("names")]
            await fetcher.close()
            for thread in threads:
                thread.join()

    with pytest.raises(RequestError) as refused:
        asyncio.run(fetch())
    assert refused.value.code == "url_unreachable"


def test_what_the_system_answers_is_looked_at():
    networks = ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")

    async def resolve(also_allowed):
        resolver = _CheckedResolver(None, also_allowed)
        try:
            return await resolver.resolve("localhost", 443)
        finally:
            await resolver.close()

    found = asyncio.run(resolve(networks))
    assert {(each["host"], each["port"]) for each in found} <= {("127.0.0.1", 443), ("::1", 443)}
    with pytest.raises(RequestError, match="not on the public internet"):
        asyncio.run(resolve(()))


def test_who_is_cancelled_stays_cancelled(certificate):
    async def run():
        async with https_server(certificate, {"/a": silent}) as server:
            fetcher = UrlFetcher(
                [f"{HOST}:{server.port}"],
                resolve=Names(),
                also_allowed=[LOOPBACK],
                ssl_context=ssl.create_default_context(cafile=certificate / "cert.pem"),
            )
            async with asyncio.timeout(0.2):
                try:
                    await fetcher.fetch(f"https://{HOST}:{server.port}/a")
                finally:
                    await fetcher.close()

    with pytest.raises(TimeoutError):
        asyncio.run(run())


def test_the_settings_switch_fetching_on():
    assert UrlFetcher.of(ServiceSettings(model="m")) is None
    settings = ServiceSettings(model="m", url_hosts="a.example.com, *.shop.example")
    assert isinstance(UrlFetcher.of(settings), UrlFetcher)
