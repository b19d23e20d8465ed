"""What every published number carries: command, machine, versions, commit, raw data."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from appliance.versions import versions

RESULTS_DIR = Path(__file__).parent / "results"


def write_result(name: str, module: str, result: dict[str, Any], folder: str) -> Path:
    """Writes one benchmark's JSON below `benchmarks/results/`.

    Args:
        name: File name without its ending.
        module: What was run, as in `python -m MODULE`.
        result: The figures, raw data included.
        folder: Subfolder of `benchmarks/results/`.

    Returns:
        The path written.
    """
    document = {
        "benchmark": name,
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(),
        "versions": versions(),
        **result,
    }
    path = result_path(name, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def result_path(name: str, folder: str) -> Path:
    """Where a benchmark's JSON lies: below `benchmarks/results/`, or in a folder named from the root on."""
    return RESULTS_DIR / folder / f"{name}.json"


def tell_written(path: Path) -> None:
    """Says where a result is, as it is reached from where the command was given."""
    here = Path.cwd()
    print(f"wrote {path.relative_to(here) if path.is_relative_to(here) else path}", flush=True)


def machine() -> dict[str, Any]:
    """Processor, cores and memory of this machine."""
    facts = Path("/proc/cpuinfo").read_text()
    lines = dict(line.split(":", 1) for line in facts.splitlines() if ":" in line)
    names = {key.strip(): value.strip() for key, value in lines.items()}
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    flags = names.get("flags", "").split()
    return {
        "processor": names.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "instructions": [flag for flag in ("avx2", "avx512f", "amx_bf16") if flag in flags],
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
    }


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    shown = subprocess.run(
        command, capture_output=True, text=True, cwd=RESULTS_DIR.parent, check=False
    )
    return shown.stdout.strip() or "unknown"
