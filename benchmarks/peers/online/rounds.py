"""One round of one server: started, its answers compared, loaded, its memory watched, stopped."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.online.protocols import WrongAnswerError
from benchmarks.peers.detector import WEIGHTS
from benchmarks.peers.online.asking import ASKINGS, read_answer
from benchmarks.peers.online.servers import Server
from benchmarks.peers.preparation import Material
from benchmarks.peers.processes import PeerFailedError, Running, free_port
from benchmarks.serving.figures import OK

_START_TIMEOUT_S = 240.0
_WARM_UP = 8


@dataclass(frozen=True)
class Loads:
    """What every server gets in every round.

    Attributes:
        seconds: Of each load.
        clients: Numbers of clients that send one request after the other; the first is one.
        equal_per_s: Requests a second that all get.
        overload_per_s: More of them than anybody can take ...
        give_up_s: ... from clients that hang up after so long.
    """

    seconds: float
    clients: Sequence[int]
    equal_per_s: float
    overload_per_s: float
    give_up_s: float


def run_round(server: Server, python: Path, material: Material, loads: Loads) -> dict[str, Any]:
    """Start-up time, whether the answers agree, what came of each load, memory.

    Raises:
        PeerFailedError: It does not start, or answers otherwise than plain torchvision.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        command = server.command(python, material, port, Path(folder))
        variables = _variables(server, python, material, port)
        with Running(command, variables, Path(folder)) as running:
            start_up_s = _wait_until_right(server, url, material, running)
            compared = _compare(server, url, material)
            idle_mib = running.memory_mib()
            steps = []
            with running.watched() as samples_mib:
                for clients in loads.clients:
                    told = _load(server, url, material, loads, clients=clients)
                    steps.append({"clients": clients, **told})
                told = _load(server, url, material, loads, rate=loads.equal_per_s)
                steps.append({"step": "equal_per_s", "rate": loads.equal_per_s, **told})
                # Whoever waits in vain hangs up: else a queue that nobody limits would take minutes.
                how = {"rate": loads.overload_per_s, "give-up-s": loads.give_up_s}
                told = _load(server, url, material, loads, **how)
                steps.append({"step": "overload_per_s", "rate": loads.overload_per_s, **told})
            if not running.alive():
                raise PeerFailedError(f"ended under load: {running.said()}")
    return {
        "start_up_s": round(start_up_s, 2),
        "pictures_compared": compared,
        "idle_mib": idle_mib,
        "peak_mib": max(samples_mib),
        "steps": steps,
    }


def _variables(server: Server, python: Path, material: Material, port: int) -> dict[str, str]:
    return {
        "PORT": str(port),
        "MODEL": material.model,
        WEIGHTS: material.weights,
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "MLSERVER_HTTP_PORT": str(port),
        "MLSERVER_GRPC_PORT": str(free_port()),
        "MLSERVER_METRICS_PORT": str(free_port()),
        **server.variables,
    }


def _wait_until_right(server: Server, url: str, material: Material, running: Running) -> float:
    """Seconds from its start until it has answered a picture."""
    asking = ASKINGS[server.asking]
    picture = material.read_pictures()[0]
    while time.perf_counter() < running.started_s + _START_TIMEOUT_S:
        if not running.alive():
            raise PeerFailedError(f"does not start: {running.said()}")
        try:
            _post(url + asking.path, asking.body(picture.jpeg), asking.headers)
        except (OSError, http.client.HTTPException):
            time.sleep(0.1)
            continue
        return time.perf_counter() - running.started_s
    raise PeerFailedError(f"no answer after {_START_TIMEOUT_S:g} s: {running.said()}")


def _compare(server: Server, url: str, material: Material) -> int:
    """Holds the answer for every picture against plain torchvision's; gives their number."""
    asking = ASKINGS[server.asking]
    pictures = material.read_pictures()
    held = material.references()
    for picture in pictures:
        try:
            answer = _post(url + asking.path, asking.body(picture.jpeg), asking.headers)
            held.check(read_answer(asking, answer, picture), picture)
        except (WrongAnswerError, OSError, http.client.HTTPException) as error:
            raise PeerFailedError(f"{picture.name}: {error}") from None
    return len(pictures)


def _post(url: str, body: bytes, headers: dict[str, str]) -> bytes:
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - on this machine
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        answer: bytes = response.read()
        return answer


def _load(
    server: Server, url: str, material: Material, loads: Loads, **how: float
) -> dict[str, Any]:
    width, height = material.size_wh
    options = {
        "asking": server.asking,
        "expected": material.expected,
        "width": width,
        "height": height,
        "score-threshold": material.score_threshold,
        "max-detections": material.max_detections,
        "seconds": loads.seconds,
        "warm-up": _WARM_UP,
        **how,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.peers.online.load", url, material.pictures]
    done = subprocess.run([*command, *words], stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout)
    requests = told.pop("requests")
    right, others = [], []
    for one in requests:
        (right if one["status"] == OK and one["wrong"] is None else others).append(one)
    return {
        **told,
        "requests": len(requests),
        "right_ms": [one["total_ms"] for one in right],
        "others": others,
    }
