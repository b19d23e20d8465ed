"""What every published number carries: command, machine, versions, commit, raw data."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from appliance.errors import ConfigError
from appliance.versions import versions

RESULTS_DIR = Path(__file__).parent / "results"

_LOAD_BEFORE = os.getloadavg()
"""As this is read first, so before anything is measured."""
_written: dict[Path, dict[str, Any]] = {}


def require_writable(name: str, folder: str) -> None:
    """Finds out before hours of measuring whether its result can be kept.

    Raises:
        ConfigError: It cannot.
    """
    if not name or Path(name).name != name:
        raise ConfigError(
            "The name of a result is that of a file",
            got=name or "nothing",
            expected="such as before",
            hint="--folder says where it goes",
        )
    place = _result_path(name, folder).parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(place, os.W_OK | os.X_OK) else "Permission denied"
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        raise ConfigError("Results cannot be written there", where=place, got=reason)


def write_result(name: str, module: str, result: dict[str, Any], folder: str) -> None:
    """Writes one benchmark's JSON below `benchmarks/results/`, as unfinished until `finish_results`.

    Args:
        name: File name without its ending.
        module: What was run, as in `python -m MODULE`.
        result: The figures, raw data included.
        folder: Subfolder of `benchmarks/results/`.

    Raises:
        ConfigError: It cannot be written.
    """
    document = {
        "benchmark": name,
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(),
        "versions": versions(),
        "quick": "--quick" in sys.argv[1:],
        "finished": False,
        **result,
    }
    path = _result_path(name, folder)
    _written[path] = document
    _write(path, document)


def finish_results() -> list[Path]:
    """Marks what this process has written as finished; gives where it is.

    Raises:
        ConfigError: It cannot be written.
    """
    for path, document in _written.items():
        _write(path, {**document, "finished": True})
    paths = list(_written)
    _written.clear()
    return paths


def _write(path: Path, document: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(document, indent=2) + "\n")
        part.replace(path)
    except OSError as error:
        raise ConfigError("A result cannot be written", where=path, got=error.strerror) from None


def _result_path(name: str, folder: str) -> Path:
    """Below `benchmarks/results/`, or in a folder named from the root on."""
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
        "load_average_before": [round(load, 2) for load in _LOAD_BEFORE],
    }


@cache
def _commit() -> str:
    """The commit, and whether what was run differs from it."""
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git(
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ":/",
        ":(top,exclude)benchmarks/results",
    )
    return f"{commit or 'unknown'}{', changed' if changed else ''}"


def _git(*words: str) -> str:
    told = subprocess.run(
        ["git", *words], capture_output=True, text=True, cwd=RESULTS_DIR.parent, check=False
    )
    return told.stdout.strip()
