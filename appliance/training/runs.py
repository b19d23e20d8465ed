"""The list of runs: which there are below a folder, how each one stands, how good it became.

Whoever drives a run keeps a small file in its folder that says since when, by which process and how it
ended; a process that was killed could not write the end, and is found not to be there any more. All else
is read from the plan and the metrics. Folders may lie in an object store.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from appliance import storage
from appliance.errors import ApplianceError, StorageError, TrainingStopped
from appliance.model.model_file import version_of
from appliance.training.monitor import METRICS_FILE, VALIDATION_FILE, parse_lines
from appliance.training.run_folder import PLAN_FILE

Status = Literal["running", "finished", "stopped", "failed"]

STATUS_FILE = "run.json"


@dataclass(frozen=True)
class DriverRecord:
    """What the process that drives a run keeps in `run.json`.

    Attributes:
        status: "running" until it has ended.
        model: Where the model file goes.
        host: Name of the machine of the process.
        pid: Its number there.
        process_start: When that process began, in the kernel's ticks: numbers are used again.
        started_at: ISO time, UTC, of the first start.
        ended_at: Of the end.
        error: The sentence it ended with, if it failed.
        version: Of the model file that the run has written last; None where it has not.
    """

    status: Status
    model: str
    host: str
    pid: int
    process_start: int | None
    started_at: str
    ended_at: str | None = None
    error: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class RunSummary:
    """One run in the list.

    Attributes:
        run_dir: Its folder.
        status: How it stands.
        step: Steps done.
        steps: Steps planned; None where the plan does not say.
        metric: The validation metric that counts: "map_50" or "coco_ap".
        best: Its best value; None without a validation.
        best_step: The step of it.
        loss: Of the last step.
        model: The model file it makes; None where nobody has said.
        started_at: ISO time, UTC; likewise.
        error: The sentence it failed with.
    """

    run_dir: str
    status: Status
    step: int
    steps: int | None
    metric: str
    best: float | None
    best_step: int | None
    loss: float | None
    model: str | None
    started_at: str | None
    error: str | None = None


@contextmanager
def recorded(run_dir: str | os.PathLike[str], model: str) -> Iterator[Callable[[str], None]]:
    """Keeps the status of a run that this process drives for the length of a `with` block.

    Args:
        run_dir: Folder of the run, local or in an object store.
        model: Where its model file goes.

    Yields:
        To be called with the version of the model file when that is written.

    Raises:
        StorageError: The folder cannot be written when the run begins; what cannot be written at its end
            does not hide how it ended.
    """
    uri = storage.join(run_dir, STATUS_FILE)
    before = _read_record(uri)
    record = DriverRecord(
        status="running",
        model=storage.absolute(model),
        host=socket.gethostname(),
        pid=os.getpid(),
        process_start=_process_start(os.getpid()),
        started_at=before.started_at if before else _now(),
        version=before.version if before else None,
    )
    _write(uri, record)

    def written(version: str) -> None:
        nonlocal record
        record = replace(record, version=version)

    try:
        yield written
    except (KeyboardInterrupt, SystemExit, GeneratorExit, TrainingStopped):
        _end(uri, record, "stopped")
        raise
    except BaseException as error:
        message = error.message if isinstance(error, ApplianceError) else repr(error)
        _end(uri, replace(record, error=message), "failed")
        raise
    _end(uri, record, "finished")


def has_written(run_dir: str | os.PathLike[str], model: str) -> bool:
    """Whether a file is the very model file that a run has written there, and nobody since.

    Raises:
        StorageError: The file cannot be read.
    """
    record = _read_record(storage.join(run_dir, STATUS_FILE))
    if record is None or record.model != storage.absolute(model):
        return False
    return record.version == version_of(model)


def list_runs(folder: str | os.PathLike[str]) -> list[RunSummary]:
    """The runs in a folder and below it, the oldest first.

    Raises:
        StorageError: There is no such folder, or it cannot be listed.
    """
    found = map(_folder_of_plan, storage.list_files(folder, [PLAN_FILE]))
    runs = [summarise(run_dir) for run_dir in found if run_dir is not None]
    return sorted(runs, key=lambda run: (run.started_at or "", run.run_dir))


def summarise(run_dir: str) -> RunSummary:
    """How one run stands; of what cannot be read nothing is said."""
    record = _read_record(storage.join(run_dir, STATUS_FILE))
    config = _read_json(storage.join(run_dir, PLAN_FILE)).get("config") or {}
    lines = _lines(storage.join(run_dir, METRICS_FILE))
    metric = str(config.get("validation_metric") or "map_50")
    validations = [v for v in _lines(storage.join(run_dir, VALIDATION_FILE)) if metric in v]
    best = max(validations, key=lambda line: float(line[metric]), default=None)
    steps = config.get("steps")
    step = int(lines[-1]["step"]) if lines else 0
    return RunSummary(
        run_dir=run_dir,
        status=_status(record, done=step == steps),
        step=step,
        steps=steps,
        metric=metric,
        best=best[metric] if best else None,
        best_step=best["step"] if best else None,
        loss=lines[-1].get("loss") if lines else None,
        model=record.model if record else None,
        started_at=record.started_at if record else None,
        error=record.error if record else None,
    )


def _folder_of_plan(uri: str) -> str | None:
    """The folder of a plan; None where the name only ends alike. Options of a store stay at the end."""
    path, mark, options = uri.partition("?") if storage.is_remote(uri) else (uri, "", "")
    ending = f"/{PLAN_FILE}"
    return path.removesuffix(ending) + mark + options if path.endswith(ending) else None


def _status(record: DriverRecord | None, *, done: bool) -> Status:
    if record is None:
        # Of a run in somebody's own Python there are only its steps.
        return "finished" if done else "stopped"
    if record.status != "running" or record.host != socket.gethostname():
        return record.status
    started = _process_start(record.pid)
    is_alive = started is not None and started == record.process_start
    return "running" if is_alive else "stopped"


def _process_start(pid: int) -> int | None:
    """When a process of this machine began, in ticks since the machine did; None where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in brackets may hold anything, also spaces and brackets.
    return int(stat.rpartition(")")[2].split()[19])


def _end(uri: str, record: DriverRecord, status: Status) -> None:
    try:
        _write(uri, replace(record, status=status, ended_at=_now()))
    except StorageError:
        if status == "finished":
            raise


def _write(uri: str, record: DriverRecord) -> None:
    storage.write_bytes(uri, json.dumps(asdict(record), indent=2).encode())


def _read_record(uri: str) -> DriverRecord | None:
    values = _read_json(uri)
    try:
        return DriverRecord(**values) if values else None
    except TypeError:
        return None  # of another version: the steps say enough


def _read_json(uri: str) -> dict[str, Any]:
    """The document of a file; empty where there is none, or none that can be understood."""
    try:
        values = json.loads(_read(uri) or "{}")
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _lines(uri: str) -> list[dict[str, Any]]:
    return parse_lines(_read(uri))


def _read(uri: str) -> str:
    try:
        return storage.read_bytes(uri).decode(errors="replace")
    except StorageError:
        return ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
