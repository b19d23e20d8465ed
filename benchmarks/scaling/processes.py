"""What the processes of a service take of the machine, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from benchmarks.serving.service import name_of

_MIB = 2**20


@dataclass(frozen=True)
class CpuTimes:
    """A look at all processes that this one has started.

    Attributes:
        seconds: Process id -> name, and CPU seconds since its start.
    """

    seconds: Mapping[int, tuple[str, float]]

    @classmethod
    def now(cls) -> CpuTimes:
        """Those that run at present."""
        found = {}
        for child in psutil.Process().children(recursive=True):
            try:
                times = child.cpu_times()
                name = name_of(child.cmdline() or [child.name()])
                found[child.pid] = name, times.user + times.system
            except psutil.Error:
                continue
        return cls(found)

    def since(self, before: CpuTimes) -> dict[str, float]:
        """Seconds by name between two looks; of a process that ended meanwhile what it took is lost."""
        taken: dict[str, float] = {}
        for pid, (name, seconds) in self.seconds.items():
            _, earlier = before.seconds.get(pid, (name, 0.0))
            taken[name] = taken.get(name, 0.0) + seconds - earlier
        return {name: round(seconds, 3) for name, seconds in sorted(taken.items())}


def object_store_mib() -> int:
    """Memory of Ray's object store that is in use: what its raylets share."""
    size_bytes = 0
    for child in psutil.Process().children(recursive=True):
        try:
            if child.name() == "raylet":
                size_bytes += child.memory_info().shared
        except psutil.Error:
            continue
    return size_bytes // _MIB


def available_mib() -> int:
    """Memory of this machine that can still be given out."""
    return int(psutil.virtual_memory().available // _MIB)
