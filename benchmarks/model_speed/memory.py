"""Peak memory of a piece of work: of the GPU where there is one, else of this process."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_MIB = 2**20
_RESET_PEAK = "5"  # see proc(5), /proc/PID/clear_refs


@dataclass
class PeakMemory:
    """What `peak_memory` found; None while it is still looking, or where the kernel does not tell."""

    growth_mib: float | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """Measures how far memory grows at most within the block, in MiB.

    On a CPU it is the resident set, and what freed memory the allocator still held is given back first. On
    a GPU it is what torch has allocated. Weights that are there already are not counted.
    """
    measured = PeakMemory()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before_bytes = torch.cuda.memory_allocated(device)
        yield measured
        growth_bytes = torch.cuda.max_memory_allocated(device) - before_bytes
        measured.growth_mib = growth_bytes / _MIB
        return
    ctypes.CDLL(None).malloc_trim(0)
    before = _status_mib("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    except OSError:
        # Some containers forbid it; then nothing is said rather than something wrong.
        yield measured
        return
    yield measured
    measured.growth_mib = _status_mib("VmHWM") - before


def _status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024
