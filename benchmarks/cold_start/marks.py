"""Moments of a start, noted by the processes that it consists of in one file, which a variable names.

A moment is wall-clock time, the one clock that processes share. Without the variable nothing is noted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

FILE_VARIABLE = "APPLIANCE_BENCH_MARKS"


def mark(name: str) -> None:
    """Notes that this process has got so far, and since when it runs."""
    path = os.environ.get(FILE_VARIABLE)
    if path is None:
        return
    moment = {
        "name": name,
        "at_s": time.time(),
        "pid": os.getpid(),
        "process_began_s": psutil.Process().create_time(),
    }
    # One write each: lines of several processes do not mix.
    with open(path, "ab", buffering=0) as file:
        file.write(json.dumps(moment).encode() + b"\n")


def read_marks(path: Path) -> list[dict[str, Any]]:
    """All moments noted in a file, in the order of time."""
    lines = path.read_text().splitlines() if path.exists() else []
    return sorted((json.loads(line) for line in lines), key=lambda moment: moment["at_s"])


def mark_imports(prefix: str, modules: Sequence[str]) -> None:
    """Notes when the first import of each module begins and ends, as `PREFIX: import MODULE` and `... MODULE ends`.

    Args:
        prefix: Of the names of the moments.
        modules: Not imported yet; those that are told nothing.
    """
    sys.meta_path.insert(0, _Finder(prefix, {name for name in modules if name not in sys.modules}))


class _Finder(MetaPathFinder):
    """Finds the modules where they are, and has them loaded by `_Loader`."""

    def __init__(self, prefix: str, names: set[str]) -> None:
        self._prefix = prefix
        self._names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._names:
            return None
        self._names.discard(name)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, f"{self._prefix}: import {name}")
        return spec


class _Loader(Loader):
    """Loads a module as its own loader does, between two marks."""

    def __init__(self, loader: Any, what: str) -> None:
        self._loader = loader
        self._what = what

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        # Who asks the module for its loader, such as for its source, gets the real one.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        mark(self._what)
        self._loader.exec_module(module)
        mark(f"{self._what} ends")
