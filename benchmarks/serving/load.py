"""Sends pictures to a service and notes what comes back; a process of its own, which knows nothing of the service.

    python -m benchmarks.serving.load URL FOLDER --clients 4 --seconds 10
    python -m benchmarks.serving.load URL FOLDER --rate 60 --seconds 10 --deadline-ms 2000

With --clients so many send one request after the other, each on a connection that stays open. With --rate
requests are sent at that rate, evenly, whatever becomes of those before. Prints one JSON document: for each
request its status, the model that answered, its time in ms (from before it is sent to the last byte of its answer), and the stages of
the Server-Timing header; and the share of a core that this process took, since it shares the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

_STAGE = re.compile(r"(\w+);dur=([\d.]+)")


class Load:
    """Requests to one address, and what came of them.

    Args:
        session: Keeps the connections.
        url: Where to post.
        bodies: Sent in turn.
        headers: Sent with each.
        keep_answers: Notes with each request the `index` of its body and its `answer`.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        bodies: Sequence[bytes],
        headers: Mapping[str, str],
        *,
        keep_answers: bool = False,
    ) -> None:
        self.requests: list[dict[str, Any]] = []
        self._session = session
        self._url = url
        self._bodies: Iterator[tuple[int, bytes]] = itertools.cycle(enumerate(bodies))
        self._headers = dict(headers)
        self._keep_answers = keep_answers

    async def clients(self, count: int, seconds: float) -> None:
        """So many clients for so long; each finishes what it began."""
        end_s = time.perf_counter() + seconds

        async def client() -> None:
            while time.perf_counter() < end_s:
                await self.send()

        await asyncio.gather(*(client() for _ in range(count)))

    async def rate(self, per_s: float, seconds: float) -> None:
        """So many requests a second for so long, whether or not those before are answered."""
        start_s = time.perf_counter()
        sent = []
        for number in range(int(per_s * seconds)):
            await asyncio.sleep(max(0.0, start_s + number / per_s - time.perf_counter()))
            sent.append(asyncio.create_task(self.send()))
        await asyncio.gather(*sent)

    async def send(self) -> None:
        """One request; a connection that breaks or waits too long counts as status 0."""
        index, body = next(self._bodies)
        start_s = time.perf_counter()
        status, model, stages, answer = 0, None, {}, b""
        try:
            async with self._session.post(self._url, data=body, headers=self._headers) as response:
                answer = await response.read()
                status = response.status
                model = response.headers.get("X-Model")
                told = response.headers.get("Server-Timing", "")
                stages = {name: float(ms) for name, ms in _STAGE.findall(told)}
        except (aiohttp.ClientError, TimeoutError):
            pass
        total_ms = (time.perf_counter() - start_s) * 1000
        facts = {"start_s": start_s, "total_ms": total_ms, "stages_ms": stages}
        kept = {"index": index, "answer": answer} if self._keep_answers else {}
        self.requests.append({"status": status, "model": model, **facts, **kept})


async def _run(options: argparse.Namespace) -> dict[str, Any]:
    pictures = [path.read_bytes() for path in sorted(Path(options.pictures).glob("*.jpg"))]
    headers = {"Content-Type": "image/jpeg"}
    if options.deadline_ms is not None:
        headers["X-Request-Timeout-Ms"] = f"{options.deadline_ms:g}"
    async with connections() as session:
        load = Load(session, f"{options.url}/v1/detect", pictures, headers)
        return await send_all(load, options)


def connections(give_up_s: float = 120) -> aiohttp.ClientSession:
    """As many as are wanted; who waits longer than so many seconds for an answer hangs up."""
    timeout = aiohttp.ClientTimeout(total=give_up_s)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)


async def send_all(load: Load, options: argparse.Namespace) -> dict[str, Any]:
    """Sends what the options of `add_load_arguments` ask for, and tells what came of it."""
    for _ in range(options.warm_up):
        await load.send()
    load.requests.clear()
    start_s, start_cpu_s = time.perf_counter(), _cpu_s()
    if options.rate is None:
        await load.clients(options.clients, options.seconds)
    else:
        await load.rate(options.rate, options.seconds)
    took_s = time.perf_counter() - start_s
    return {
        "seconds": took_s,
        "cores_of_the_load_generator": (_cpu_s() - start_cpu_s) / took_s,
        "requests": [
            {**request, "start_s": request["start_s"] - start_s} for request in load.requests
        ],
    }


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def add_load_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds where to send, and how much for how long."""
    parser.add_argument("url")
    parser.add_argument("pictures", help="folder of JPEGs")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--rate", type=float, help="requests a second, instead of clients")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--warm-up", type=int, default=5, help="requests that do not count")


def main() -> None:
    """Sends the load."""
    parser = argparse.ArgumentParser(description="Sends pictures to a service.")
    add_load_arguments(parser)
    parser.add_argument("--deadline-ms", type=float)
    print(json.dumps(asyncio.run(_run(parser.parse_args()))))


if __name__ == "__main__":
    main()
