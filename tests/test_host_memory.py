"""Freed memory is used again without asking the kernel for every page of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import json, resource, sys
import torch
from appliance.model.host_memory import give_back_freed_memory, keep_freed_memory

def faults() -> int:
    # Two blocks at a time, so that the end of the heap is free in between.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        blocks = [torch.empty(48 * 2**20, dtype=torch.uint8).fill_(1) for _ in range(2)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

counts = [faults()]
keep_freed_memory()
give_back_freed_memory()  # before anything is kept: what lies in the heap by then may stay there
counts.append(faults())
keep_freed_memory()
warm_up = faults(), faults()
# A kernel that is short of memory may take pages back in between: that only adds to a count.
counts.append(min(faults() for _ in range(3)))
print(json.dumps(counts))
"""


def counted(**environment: str) -> list[int]:
    outside = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC", "GLIBC"))
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        # Huge pages would make their own count.
        env={**outside, "THP_MEM_ALLOC_ENABLE": "0", **environment},
    )
    return list(json.loads(done.stdout))


def test_what_is_kept_is_not_asked_for_again() -> None:
    before, given_back, kept = counted()
    assert before > 10_000
    assert kept < before / 10
    assert given_back > before / 2


def test_the_settings_of_a_user_stand() -> None:
    before, _, kept = counted(MALLOC_TRIM_THRESHOLD_="131072")
    assert kept > before / 2
