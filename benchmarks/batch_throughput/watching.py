"""Runs a side and watches the memory of its processes while it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from typing import Any

import psutil

from appliance.errors import ServiceError
from benchmarks.programs import started

_INTERVAL_S = 0.5
_MIB = 2**20
_ROLES = {"raylet/raylet": "object_store", "ray::MapWorker": "workers", "ray::": "ray"}


def run_side(side: str, model: str, pictures: str) -> dict[str, Any]:
    """What a side says of itself, with `peak_mib` by role.

    Roles are `driver`; `workers`, the largest of them; `object_store`, what the raylet shares; and `ray`,
    all its other processes together. Of the first two only memory of their own counts (USS).

    Raises:
        ServiceError: The side failed.
    """
    command = [sys.executable, "-m", "benchmarks.batch_throughput.sides", side, model, pictures]
    with started(command, stdout=subprocess.PIPE) as process:
        peaks: dict[str, int] = defaultdict(int)
        while process.poll() is None:
            for role, size_bytes in _memory_bytes(process).items():
                peaks[role] = max(peaks[role], size_bytes)
            psutil.wait_procs([process], timeout=_INTERVAL_S)
        printed = process.stdout.read()
    if process.returncode:
        raise ServiceError(
            "A side failed",
            where=side,
            got=f"exit code {process.returncode}",
            hint="What it said stands above",
        )
    told = json.loads(printed.splitlines()[-1])
    return {"side": side, **told, "peak_mib": {r: round(b / _MIB) for r, b in peaks.items()}}


def _memory_bytes(driver: psutil.Process) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    try:
        found["driver"] = driver.memory_full_info().uss
        for child in driver.children(recursive=True):
            line = " ".join(child.cmdline())
            role = next((role for word, role in _ROLES.items() if word in line), "ray")
            memory = child.memory_full_info()
            if role == "object_store":
                found[role] = memory.shared
            elif role == "workers":
                found[role] = max(found[role], memory.uss)
            else:
                found[role] += memory.uss
    except psutil.Error:
        pass  # one of them has just ended; the next look sees the rest
    return found
