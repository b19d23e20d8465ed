"""The service as a user starts it, and the load on it, each in processes of their own."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil

from appliance.errors import ServiceError
from benchmarks.programs import told_by

APPLIANCE = "appliance.cli.main"
"""The command as users have it."""

_ACTORS = ("ServeReplica", "ServeController", "ProxyActor")
_MIB = 2**20
_START_TIMEOUT_S = 240


@contextmanager
def running_service(
    model: str,
    *options: str,
    module: str = APPLIANCE,
    environment: Mapping[str, str] | None = None,
    port: int | None = None,
) -> Iterator[str]:
    """`appliance serve MODEL OPTIONS` for the length of a block; gives its URL.

    Args:
        model: The model file.
        options: Of the command.
        module: What is run as `appliance`.
        environment: Variables besides those of this process.
        port: Where; None takes a free one.

    Raises:
        ServiceError: It ends, or does not answer in time.
    """
    port = free_port() if port is None else port
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", module, "serve", model, "--port", str(port)]
    variables = {**os.environ, **(environment or {})}
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            [*command, *options], stdout=said, stderr=said, env=variables, process_group=0
        ) as process,
    ):
        try:
            _wait_until_ready(url, process, said)
            yield url
        finally:
            process.terminate()


def send_load(url: str, pictures: str, **options: float | None) -> dict[str, Any]:
    """What `benchmarks.serving.load` prints; options as it has them, `warm_up=3` for `--warm-up 3`."""
    words = [
        word
        for name, value in options.items()
        if value is not None
        for word in ("--" + name.replace("_", "-"), f"{value:g}")
    ]
    command = [sys.executable, "-m", "benchmarks.serving.load", url, pictures, *words]
    told: dict[str, Any] = json.loads(told_by(command))
    return told


def memory_mib() -> dict[str, int]:
    """Proportional memory of all processes that this one has started, in MiB by name."""
    found: dict[str, int] = {}
    for child in psutil.Process().children(recursive=True):
        try:
            words = child.cmdline()
            size = child.memory_full_info().pss // _MIB
        except psutil.Error:
            continue
        name = name_of(words)
        found[name] = found.get(name, 0) + size
    return found


def name_of(words: list[str]) -> str:
    """What a process of a service is called in results, by its command line."""
    line = " ".join(words)
    if line.startswith("ray::"):
        # While it works on something, an actor's title begins with its name and ends with what it does.
        if (actor := next((name for name in _ACTORS if f":{name}" in line), None)) is not None:
            return actor
        return words[0].removeprefix("ray::").partition(":")[0].partition(".")[0]
    known = {" serve ": "command", "gcs_server": "gcs_server", "raylet": "raylet"}
    return next((name for part, name in known.items() if part in line), words[0].rpartition("/")[2])


def free_port() -> int:
    """One that Ray will not take while it starts: those come from 32768 on."""
    while True:
        port = random.randrange(20_000, 32_000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


def is_ready(url: str) -> bool:
    """Whether the service at an address says so."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5):  # noqa: S310 - ours
            return True
    except OSError:  # urllib's own errors are such, too
        return False


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], said: Any) -> None:
    end_s = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < end_s:
        if is_ready(url):
            return
        time.sleep(0.2)
    said.seek(0)
    lines = [line for line in map(str.strip, said) if line]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    raise ServiceError(
        "The service to be measured does not start",
        got=(errors or lines or [f"nothing within {_START_TIMEOUT_S} s"])[-1],
    )
