"""How this process deals with memory that it frees on the CPU.

glibc gives large blocks back to the kernel as soon as they are freed, and the kernel clears every page of a block
that is asked for again. A network asks for the same blocks with every picture: at 1333 x 800 pixels that is a
quarter of the time. See mallopt(3).
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
_MIB = 2**20
# The largest that fit mallopt's int: what is freed stays, for as long as the process lives.
_KEPT = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * _MIB, _MMAP_THRESHOLD: 2**30}
# Where glibc's own thresholds end up once a block of 32 MiB was freed, which is as far as they go.
_BY_DEFAULT = {_TRIM_THRESHOLD: 64 * _MIB, _TOP_PAD: 128 * 1024, _MMAP_THRESHOLD: 32 * _MIB}
_VARIABLES = (
    "GLIBC_TUNABLES",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
)


def keep_freed_memory() -> None:
    """Lets this process use again what it frees, so that it stays as large as it has once been.

    Leaves the settings of a user alone, who has made some by a variable that glibc knows. Does nothing where there
    is no glibc.
    """
    if not any(variable in os.environ for variable in _VARIABLES):
        _set(_KEPT)


def give_back_freed_memory() -> None:
    """What glibc does by itself, for comparison."""
    _set(_BY_DEFAULT)


def _set(options: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in options.items():
            mallopt(option, value)
