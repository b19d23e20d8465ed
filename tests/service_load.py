"""Clients that load a service from a thread of the test, and what came of each of their requests."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass, field

import aiohttp
from factories import jpeg_bytes
from serving import JPEG_TYPE

JPEG = jpeg_bytes((128, 96), seed=1)
WAIT_S = 120.0
REFUSED, CUT = 0, -1  # no connection; one that ended without an answer


@dataclass
class Load:
    """Clients that send one request after the other on connections that stay open."""

    url: str
    clients: int
    headers: dict[str, str] = field(default_factory=dict)
    answers: list[tuple[float, float, int]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    async def run(self):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(self.client(session, n) for n in range(self.clients)))

    async def client(self, session, number):
        while not self.ended.is_set() and number < self.clients:
            start_s, status = time.monotonic(), CUT
            try:
                async with session.post(
                    f"{self.url}/v1/detect", data=JPEG, headers={**JPEG_TYPE, **self.headers}
                ) as response:
                    assert "error" in await response.json() or response.status == 200
                    status = response.status
            except aiohttp.ClientConnectorError:  # pragma: no cover - the service may end last
                status = REFUSED
            except aiohttp.ClientError:  # pragma: no cover - a replica that is killed may have none
                pass
            self.answers.append((start_s, time.monotonic(), status))

    def good_since(self, since_s):
        return [end_s for _, end_s, status in self.answers if status == 200 and end_s > since_s]

    @property
    def failures(self):
        return [status for _, _, status in self.answers if status != 200]


@contextlib.contextmanager
def under_load(url, clients=4, headers=None):
    """Load that is at work when the block begins, and ends after it."""
    load = Load(url, clients, headers or {})
    thread = threading.Thread(target=lambda: asyncio.run(load.run()))
    thread.start()
    try:
        wait_for(lambda: len(load.good_since(0)) > 2 * clients)
        yield load
    finally:
        load.ended.set()
        thread.join()


def wait_for(condition, timeout_s=WAIT_S):
    end_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end_s
        time.sleep(0.05)
    return found
