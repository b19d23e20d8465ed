"""The service as a user starts it, and the load on it, each in processes of their own."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

_MIB = 2**20
_START_TIMEOUT_S = 240


@contextmanager
def running_service(model: str, *options: str) -> Iterator[str]:
    """`appliance serve MODEL OPTIONS` for the length of a block; gives its URL.

    Raises:
        RuntimeError: It does not answer in time.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "appliance.cli.main", "serve", model, "--port", str(port)]
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen([*command, *options], stdout=said, stderr=said) as process,
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
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
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
        name = _name_of(words)
        found[name] = found.get(name, 0) + size
    return found


def _name_of(words: list[str]) -> str:
    line = " ".join(words)
    if line.startswith("ray::"):
        return words[0].removeprefix("ray::").partition(":")[0].partition(".")[0]
    known = {"appliance.cli.main": "command", "gcs_server": "gcs_server", "raylet": "raylet"}
    return next((name for part, name in known.items() if part in line), words[0].rpartition("/")[2])


def _free_port() -> int:
    """One that Ray will not take while it starts: those come from 32768 on."""
    while True:
        port = random.randrange(20_000, 32_000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], said: Any) -> None:
    end_s = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < end_s:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):  # noqa: S310 - ours
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    said.seek(0)
    raise RuntimeError(f"the service does not answer:\n{said.read()}")
