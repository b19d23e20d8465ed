"""Many pictures at once, many threads, a loop that runs already, forks, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
import itertools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from factories import jpeg_bytes
from scripted_server import RECORD, WAIT_S, error, never, response, scripted

from appliance.client import AsyncClient, Client, event_loop
from appliance.errors import ServiceError

JPEG = jpeg_bytes()
GOOD = (200, RECORD)


class InRounds:
    """Answers only when `count` requests are at work, all of them together."""

    def __init__(self, count):
        self.count = count
        self.barrier = None

    async def __call__(self, request):
        self.barrier = self.barrier or asyncio.Barrier(self.count)
        await asyncio.wait_for(self.barrier.wait(), WAIT_S)
        return named(request)


def named(request):
    return response(200, {**RECORD, "image_uri": request.query["name"]})


async def first_last(request):
    """The first picture is answered when all others have been asked for."""
    server = first_last.server
    while request.query["name"] == "[0]" and len(server.requests) < first_last.count:
        await asyncio.sleep(0.01)
    return named(request)


def names(records):
    return [record.image_uri for record in records]


def collected(agen):
    async def collect():
        return [item async for item in agen]

    return collect()


@pytest.mark.parametrize("ordered", [True, False])
def test_as_many_are_in_work_as_allowed_and_no_more(ordered):
    with scripted(InRounds(3)) as server, Client(server.url, max_attempts=1) as client:
        records = client.detect_many([JPEG] * 12, concurrency=3, ordered=ordered)
        assert sorted(names(records)) == sorted(f"[{index}]" for index in range(12))
        assert server.at_once == 3

    async def use(url):
        async with AsyncClient(url, max_attempts=1) as client:
            many = client.detect_many([JPEG] * 12, concurrency=3, ordered=ordered)
            return await collected(many)

    with scripted(InRounds(3)) as server:
        assert len(names(asyncio.run(use(server.url)))) == 12
        assert server.at_once == 3


def test_a_slow_picture_holds_others_back_only_in_order():
    with scripted(first_last) as server, Client(server.url) as client:
        first_last.server, first_last.count = server, 4
        assert names(client.detect_many([JPEG] * 6, concurrency=2)) == [
            f"[{index}]" for index in range(6)
        ]
        server.requests.clear()
        first_last.count = 6
        given = names(client.detect_many([JPEG] * 6, concurrency=2, ordered=False))
        # The last is asked for when four have been given back; which of the two ends first is open.
        assert given.index("[0]") >= 4


@pytest.mark.parametrize(("ordered", "ahead"), [(True, 8), (False, 4)])
def test_an_iterable_without_an_end_is_asked_as_there_is_room(ordered, ahead):
    asked = itertools.count()

    def endless():
        for _ in asked:
            yield JPEG

    async def endless_async():
        for picture in endless():
            yield picture

    def taken():
        return int(repr(asked)[6:-1])

    async def use(url):
        async with AsyncClient(url) as client:
            given = 0
            records = client.detect_many(endless_async(), concurrency=4, ordered=ordered)
            async for _ in records:
                given += 1
                assert taken() - before <= given + ahead
                if given == 50:
                    break
            await records.aclose()

    with scripted(GOOD) as server, Client(server.url) as client:
        records = client.detect_many(endless(), concurrency=4, ordered=ordered)
        assert taken() == 0
        for given in range(1, 51):
            next(records)
            assert taken() <= given + ahead
        records.close()
        before = taken()
        asyncio.run(use(server.url))
        assert client.detect(JPEG).error is None


def test_what_the_iterable_raises_ends_it_and_what_is_in_work():
    def broken():
        yield JPEG
        raise RuntimeError("the camera is gone")

    with scripted(never) as server:
        with Client(server.url) as client, pytest.raises(RuntimeError, match="camera is gone"):
            list(client.detect_many(broken()))

        async def use():
            async with AsyncClient(server.url) as client:
                await collected(client.detect_many(broken()))

        with pytest.raises(RuntimeError, match="camera is gone"):
            asyncio.run(use())
        assert server.in_work == 0 or server.hung_up.wait(WAIT_S)


def test_a_service_that_is_busy_throughout_makes_records_too():
    busy = error(503, "overloaded", {"Retry-After": "9"})
    with scripted(busy) as server, Client(server.url, timeout_s=5) as client:
        records = list(client.detect_many([JPEG, ("b", JPEG)]))
    assert [(record.image_uri, record.error_kind) for record in records] == [
        ("[0]", "overloaded"),
        ("b", "overloaded"),
    ]
    assert "no room for this now: b" in records[1].error


def test_threads_share_a_client():
    with (
        scripted(InRounds(8)) as server,
        Client(server.url) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        asked = [f"{index}.jpg" for index in range(16)]
        records = pool.map(lambda name: client.detect(JPEG, name=name), asked)
        assert names(records) == asked
        assert server.at_once == 8


def test_a_loop_that_runs_already_does_not_matter():
    async def notebook(url):
        with Client(url) as client:
            return client.detect(JPEG), list(client.detect_many([JPEG] * 3))

    with scripted(GOOD) as server:
        one, many = asyncio.run(notebook(server.url))
        assert many == [one] * 3


def test_cancelling_closes_the_connection():
    async def use(server):
        async with AsyncClient(server.url) as client:
            asking = asyncio.create_task(client.detect(JPEG))
            await asyncio.to_thread(server.wait_for_work)
            asking.cancel()
            await asyncio.wait([asking])
            assert asking.cancelled()
            assert await asyncio.to_thread(server.hung_up.wait, WAIT_S)

    with scripted(never) as server:
        asyncio.run(use(server))


def test_leaving_early_closes_the_connections():
    with scripted(GOOD, never) as server, Client(server.url) as client:
        records = client.detect_many([JPEG] * 5, concurrency=2)
        next(records)
        server.wait_for_work()
        records.close()
        assert server.hung_up.wait(WAIT_S)


def test_closing_ends_what_others_wait_for():
    with scripted(never) as server, ThreadPoolExecutor(2) as pool:
        client = Client(server.url)
        waiting = pool.submit(client.detect, JPEG)
        many = pool.submit(list, client.detect_many([JPEG]))
        server.wait_for_work(2)
        client.close()
        for future in (waiting, many):
            with pytest.raises(ServiceError, match="closed before the answer came"):
                future.result(WAIT_S)
        assert server.hung_up.wait(WAIT_S)


def test_ctrl_c_ends_the_wait_and_the_request(monkeypatch):
    with scripted(never) as server, Client(server.url) as client:

        class Interrupted:
            def __init__(self, future):
                self.future = future
                self.cancel = future.cancel

            def result(self):
                server.wait_for_work()
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            event_loop.result_of(
                Interrupted(client._started().loop.submit(client._started().client.detect(JPEG)))
            )
        assert server.hung_up.wait(WAIT_S)


def test_a_client_that_is_thrown_away_leaves_no_thread():
    def threads():
        return [thread for thread in threading.enumerate() if thread.name == "appliance-client"]

    before = len(threads())
    with scripted(GOOD) as server:
        client = Client(server.url)
        client.detect(JPEG)
        loop_thread = client._started().loop
        client.itself = client  # only the collector of garbage finds it
        assert len(threads()) == before + 1
        del client
        gc.collect()
        loop_thread._thread.join(WAIT_S)
        assert len(threads()) == before


def test_the_collector_may_come_by_in_the_thread_of_the_client():
    with scripted(GOOD) as server:
        client = Client(server.url)
        client.detect(JPEG)
        loop_thread = client._started().loop
        client.itself = client
        del client

        async def collect():
            gc.collect()

        loop_thread.submit(collect()).result(WAIT_S)
        loop_thread._thread.join(WAIT_S)
        assert not loop_thread._thread.is_alive()


def test_an_async_client_belongs_to_one_loop():
    with scripted(GOOD) as server:
        client = AsyncClient(server.url)

        async def use(then_close):
            await client.detect(JPEG)
            if then_close:
                await client.close()

        with asyncio.Runner() as first:
            first.run(use(then_close=False))
            with (
                asyncio.Runner() as second,
                pytest.raises(ServiceError, match="event loop that used"),
            ):
                second.run(use(then_close=False))
            first.run(use(then_close=True))
            with pytest.raises(ServiceError, match="The client is closed"):
                first.run(use(then_close=False))
        assert repr(client) == f"AsyncClient('{server.url}')"


FORKING = """
import os, sys
from appliance.client import Client
client = Client(sys.argv[1])
with open(sys.argv[2], "rb") as file:
    data = file.read()
before = client.detect(data)
child = os.fork()
same = client.detect(data) == before
if child == 0:
    client.close()
    os._exit(0 if same else 3)
_, status = os.waitpid(child, 0)
print(same, os.waitstatus_to_exitcode(status), client.detect(data) == before)
"""


def test_a_forked_process_goes_on_with_connections_of_its_own(tmp_path):
    picture = tmp_path / "a.jpg"
    picture.write_bytes(JPEG)
    with scripted(GOOD) as server:
        done = subprocess.run(
            [sys.executable, "-W", "default", "-c", FORKING, server.url, str(picture)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (done.stdout, done.stderr) == ("True 0 True\n", "")
    assert len(server.requests) == 4


def test_importing_the_client_costs_no_big_library():
    program = (
        "import sys, appliance.client; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    heavy = {"torch", "ray", "pandas", "pyarrow", "numpy", "PIL", "aiohttp", "pydantic"}
    assert "appliance" in loaded.stdout.split()
    assert heavy.isdisjoint(loaded.stdout.split())
