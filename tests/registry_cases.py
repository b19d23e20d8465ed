"""Model files for the registry, made without torch, and processes that change a registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from appliance.registry.entry import ModelEntry
from appliance.registry.references import Reference
from appliance.registry.registry import Registry

TESTS = Path(__file__).parent


def model_bytes(seed: int = 0, *, parent: str | None = "imagenet", **metrics: float) -> bytes:
    """A file with all that a registry looks at: header, description, one tensor; no network to load."""
    document = {
        "format_version": 1,
        "name": "model",
        "spec": {"labels": ["circle", "square"], "architecture": "fasterrcnn_compact"},
        "metrics": {"map_50": 0.5 + seed / 1000, **metrics},
        "dataset_digest": f"{seed:064x}",
        "parent": parent,
    }
    return safetensors_bytes({"__metadata__": {"appliance": json.dumps(document)}})


def safetensors_bytes(header: dict) -> bytes:
    """Such a file with one number as its only tensor."""
    tensor = {"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps({**tensor, **header}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4)


def model_file_at(path: Path, seed: int = 0, **facts: float) -> Path:
    path.write_bytes(model_bytes(seed, **facts))
    return path


def registered(root: Path, *files: Path) -> Registry:
    """A registry with the files as versions of the model `shapes`, the first of them in production."""
    registry = Registry(root)
    for file in files:
        registry.add("shapes", file)
    registry.promote(Reference("shapes", 1))
    return registry


def state_of(entry: ModelEntry | None) -> list:
    """What a command must have changed wholly or not at all, without times."""
    there = entry or ModelEntry("")
    history = [(change.alias, change.before, change.after) for change in there.history]
    versions = [(version.number, version.sha256) for version in there.versions]
    values = [entry is None, versions, dict(there.aliases), history, there.next_number]
    return json.loads(json.dumps(values))


def child(program: str, *arguments: object) -> subprocess.Popen:
    """A process that can import the tests; its output is read line by line."""
    search = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": search},
    )
