"""The folder of a run, on a disk or in an object store: plan, checkpoints, metrics, TensorBoard files.

Metrics and TensorBoard files grow line by line, which objects in a store cannot. For a run in a store they
are written into a temporary folder of the machine and uploaded at every checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from appliance import storage
from appliance.errors import ConfigError
from appliance.storage import folders
from appliance.training.checkpoint_store import CheckpointStore
from appliance.training.monitor import METRICS_FILE, VALIDATION_FILE, read_metrics
from appliance.training.plan import TrainingPlan

PLAN_FILE = "plan.json"
CHECKPOINTS_DIR = "checkpoints"
_OF_THE_DATA = ("init", "images", "dataset_digest")


class RunFolder:
    """One run's folder; a `with` block removes what is temporary of it at its end.

    Args:
        uri: Local path or URI of an object store.
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        self.uri = storage.absolute(uri)
        self._temporary: Path | None = None
        self._uploaded: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    @property
    def is_remote(self) -> bool:
        """Whether it lies in an object store."""
        return storage.is_remote(self.uri)

    @property
    def local(self) -> Path:
        """Where files that grow are written: the folder itself, or a temporary one of this process."""
        if not self.is_remote:
            return storage.local_path(self.uri)
        if self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="run-"))
        return self._temporary

    def checkpoints(self, keep: int = 2) -> CheckpointStore:
        """Its checkpoints."""
        return CheckpointStore(storage.join(self.uri, CHECKPOINTS_DIR), keep)

    def begun(self) -> bool:
        """Whether a run has been begun in it.

        Raises:
            StorageError: That cannot be found out.
        """
        return self._holds(PLAN_FILE)

    def write_plan(self, plan: TrainingPlan) -> None:
        """Keeps the plan beside what comes of it.

        Raises:
            StorageError: The folder cannot be written.
        """
        text = json.dumps(plan.to_json(), indent=2, sort_keys=True)
        storage.write_bytes(self._file(PLAN_FILE), text.encode())

    def read_plan(self) -> TrainingPlan:
        """The plan of the run.

        Raises:
            StorageError: There is none, or it cannot be read.
            ConfigError: It is no plan of this version.
        """
        uri = self._file(PLAN_FILE)
        try:
            return TrainingPlan.from_json(json.loads(storage.read_bytes(uri)))
        except (KeyError, ValueError, TypeError) as error:
            raise ConfigError(
                "The plan of the run cannot be read", where=uri, got=repr(error)
            ) from None

    def fetch_metrics(self) -> list[dict[str, Any]]:
        """The recorded steps so far; brings the records here first where the run lies in a store.

        Raises:
            StorageError: The store cannot be read.
        """
        for name in (METRICS_FILE, VALIDATION_FILE) if self.is_remote else ():
            if self._holds(name):
                (self.local / name).write_bytes(storage.read_bytes(self._file(name)))
        return read_metrics(self.local)

    def publish(self) -> None:
        """Uploads what has grown or is new since the last time; on a disk there is nothing to do.

        Raises:
            StorageError: The store cannot be written.
        """
        if not self.is_remote:
            return
        for path in sorted(p for p in self.local.rglob("*") if p.is_file()):
            name = path.relative_to(self.local).as_posix()
            state = (path.stat().st_size, path.stat().st_mtime_ns)
            if self._uploaded.get(name) != state:
                storage.write_bytes(self._file(*name.split("/")), path.read_bytes())
                self._uploaded[name] = state

    def _file(self, *names: str) -> str:
        return storage.join(self.uri, *names)

    def _holds(self, name: str) -> bool:
        return folders.exists(self._file(name))


def check_free(folder: RunFolder, *, resume: bool) -> None:
    """Refuses to begin where a run has begun, and to go on where none has.

    Raises:
        ConfigError: It is so.
        StorageError: The folder cannot be looked into.
    """
    begun = folder.begun()
    if resume and not begun:
        raise ConfigError(
            "There is no training run to go on with",
            where=folder.uri,
            hint="Correct --run-dir, or begin one without --resume",
        )
    if begun and not resume:
        raise ConfigError(
            "The folder holds a training run already",
            where=folder.uri,
            hint="Go on with it by `appliance train --resume`, or choose another folder",
        )


def check_same_run(plan: TrainingPlan, folder: RunFolder) -> list[str]:
    """Compares a plan with that of the run it shall go on with.

    Returns:
        Names of the settings that differ, with both values: the run goes on, but is not the run it was.

    Raises:
        ConfigError: The network is another one, so that its checkpoints do not fit.
        StorageError: The plan of the run cannot be read.
    """
    before, now = folder.read_plan().to_json(), plan.to_json()
    if before["spec"] != now["spec"]:
        spec_before, spec_now = before["spec"], now["spec"]
        names = sorted(k for k in spec_now if spec_now[k] != spec_before.get(k))
        raise ConfigError(
            "The run has another network",
            where=folder.uri,
            got=", ".join(f"{k} {spec_now[k]}" for k in names),
            expected=", ".join(f"{k} {spec_before.get(k)}" for k in names),
            hint="Repeat the flags with which the run was begun",
        )
    values_before, values_now = (
        {**{name: plan[name] for name in _OF_THE_DATA}, **plan["config"]} for plan in (before, now)
    )
    return [
        f"{name} {values_before.get(name)} -> {value}"
        for name, value in values_now.items()
        if value != values_before.get(name)
    ]
