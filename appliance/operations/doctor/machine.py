"""Cores, memory, shared memory and disks, as the limits of a container leave them to this process."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from appliance.operations.doctor.finding import Finding, gib, good, improvable, wrong

_GIB = 2**30
_LEAST_MEMORY, _GOOD_MEMORY = 2 * _GIB, 4 * _GIB
_LEAST_DISK, _GOOD_DISK = 1 * _GIB, 10 * _GIB
_FULL_SHARE = 0.95
"""Beyond it Ray spills no more objects to the disk, and tasks that make some wait."""
_GOOD_STORE = 2**28
"""Shared memory that Ray's objects of our jobs fit into: blocks are lists of names."""
SHARED_MEMORY = Path("/dev/shm")
_CGROUP = Path("/sys/fs/cgroup")


def look_at_machine(folder: Path, *, shared_memory: Path = SHARED_MEMORY) -> Iterator[Finding]:
    """What the machine leaves to this process.

    Args:
        folder: Where results are to go.
        shared_memory: Where Ray keeps objects.
    """
    yield good("CPUs", f"{len(os.sched_getaffinity(0))}")
    yield memory(available_memory_bytes())
    yield _shared_memory(shared_memory)
    yield disk(folder)
    scratch = Path(tempfile.gettempdir())
    if scratch.stat().st_dev != _existing(folder).stat().st_dev:
        yield disk(scratch, "disk of temporary files")


def memory(available_bytes: int) -> Finding:
    """Whether so much memory suffices."""
    found = f"{gib(available_bytes)} available"
    if available_bytes < _LEAST_MEMORY:
        return wrong(
            "memory",
            found,
            f"End other programs, or take a machine or container with {gib(_GOOD_MEMORY)} free",
        )
    if available_bytes < _GOOD_MEMORY:
        return improvable(
            "memory", found, "Train with `--batch-size 1`, and serve with one replica"
        )
    return good("memory", found)


def disk(folder: Path, name: str = "disk", *, good_bytes: int = _GOOD_DISK) -> Finding:
    """Whether the disk of a folder, which need not exist yet, has room."""
    place = _existing(folder)
    usage = shutil.disk_usage(place)
    found = f"{gib(usage.free)} of {gib(usage.total)} free in {place}"
    if usage.free < _LEAST_DISK or usage.used > _FULL_SHARE * (usage.used + usage.free):
        return wrong(
            name,
            found,
            f"Make room: below {1 - _FULL_SHARE:.0%} free Ray stops spilling objects, and a "
            "training's checkpoints need hundreds of megabytes",
        )
    if usage.free < good_bytes:
        return improvable(name, found, f"Make room: {gib(good_bytes)} hold most runs")
    return good(name, found)


def available_memory_bytes() -> int:
    """Memory that can still be taken, within the limit of a container."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    facts = {
        name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)
    }
    available = facts["MemAvailable"] * 1024
    limit = _number(_CGROUP / "memory.max")
    used = _number(_CGROUP / "memory.current")
    return available if limit is None or used is None else min(available, max(0, limit - used))


def _shared_memory(folder: Path) -> Finding:
    name = "shared memory"
    if not folder.is_dir():
        return improvable(
            name, f"no {folder}: Ray keeps objects on the disk", f"Mount a tmpfs at {folder}"
        )
    usage = shutil.disk_usage(folder)
    found = f"{gib(usage.free)} of {gib(usage.total)} free in {folder}"
    if usage.free < _GOOD_STORE:
        return improvable(
            name,
            f"{found}: Ray keeps objects on the disk",
            "Start the container with `--shm-size=2g`, or remove files of programs that were killed",
        )
    return good(name, found)


def _number(file: Path) -> int | None:
    text = file.read_text().strip() if file.is_file() else ""
    return int(text) if text.isdigit() else None


def _existing(folder: Path) -> Path:
    return next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
