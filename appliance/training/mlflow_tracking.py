"""A run as MLflow sees it. A thread follows the files of the run, so a slow server never slows a step."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

from appliance import storage
from appliance.errors import ServiceError, StorageError, TrainingStopped
from appliance.mlflow_client import first_line, mlflow_client
from appliance.training.monitor import METRICS_FILE, VALIDATION_FILE, parse_lines
from appliance.training.plan import TrainingPlan

logger = logging.getLogger(__name__)

EXPERIMENT = "appliance"
RUN_FILE = "mlflow.json"
_INTERVAL_S = 5.0
_METRICS_A_REQUEST = 1000
_PARAMETERS_A_REQUEST = 100
_LONGEST_VALUE = 500
# Of each file the prefix of its figures, and what in its lines is no figure.
_FILES = {METRICS_FILE: "train", VALIDATION_FILE: "validation"}
_NOT_FIGURES = ("step", "steps", "validation")


@contextmanager
def tracked(tracking_uri: str | None, plan: TrainingPlan, run_dir: str) -> Iterator[None]:
    """Shows a run in MLflow for the length of a `with` block: settings, figures of each step, how it ended.

    Args:
        tracking_uri: Of the MLflow server, database or folder; None does nothing.
        plan: Its settings become parameters.
        run_dir: Folder of the run, local or in an object store. A run that goes on goes on in MLflow too.

    Raises:
        ConfigError: MLflow is not installed.
        ServiceError: MLflow does not answer at that address when the run begins. What it refuses later is
            only warned of: the model is worth more than its curves.
    """
    if tracking_uri is None:
        yield
        return
    follower = _Follower(tracking_uri, plan, run_dir)
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit, TrainingStopped):
        status = "KILLED"
        raise
    finally:
        follower.close(status)


class _Follower:
    """Sends what is new in the files of a run, until it is closed."""

    def __init__(self, tracking_uri: str, plan: TrainingPlan, run_dir: str) -> None:
        mlflow = mlflow_client(tracking_uri, otherwise="leave --mlflow out")
        self._entities = mlflow.entities
        self._failures = (mlflow.exceptions.MlflowException, OSError)
        self._run_dir = run_dir
        self._last_step = dict.fromkeys(_FILES, 0)
        self._is_told = False
        self._ended = threading.Event()
        try:
            self._client: Any = mlflow.MlflowClient(tracking_uri=tracking_uri)
            self._run_id = self._go_on(tracking_uri) or self._begin(tracking_uri, plan)
        except self._failures as error:
            raise ServiceError(
                "MLflow cannot be used",
                where=tracking_uri,
                got=first_line(error),
                hint="Check the address, or leave --mlflow out",
            ) from None
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)
        self._thread.start()

    def close(self, status: str) -> None:
        """Sends the rest and how the run has ended."""
        self._ended.set()
        self._thread.join()
        try:
            self._client.set_terminated(self._run_id, status)
        except self._failures as error:
            logger.warning("MLflow was not told how the run ended: %s", first_line(error))

    def _go_on(self, tracking_uri: str) -> str | None:
        """The run in MLflow that an earlier start of this one has begun there."""
        try:
            kept = json.loads(storage.read_bytes(storage.join(self._run_dir, RUN_FILE)))
        except (StorageError, ValueError):
            return None
        if kept.get("tracking_uri") != tracking_uri:
            return None
        run_id = str(kept["run_id"])
        self._client.update_run(run_id, status="RUNNING")
        return run_id

    def _begin(self, tracking_uri: str, plan: TrainingPlan) -> str:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        experiment_id = (
            self._client.create_experiment(EXPERIMENT)
            if experiment is None
            else experiment.experiment_id
        )
        name = PurePath(self._run_dir).name
        run_id = str(self._client.create_run(experiment_id, run_name=name).info.run_id)
        parameters = [
            self._entities.Param(key, str(value)[:_LONGEST_VALUE])
            for key, value in {**plan.spec.to_json(), **plan.config.to_json()}.items()
        ]
        for first in range(0, len(parameters), _PARAMETERS_A_REQUEST):
            chunk = parameters[first : first + _PARAMETERS_A_REQUEST]
            self._client.log_batch(run_id, params=chunk)
        kept = {"tracking_uri": tracking_uri, "run_id": run_id}
        storage.write_bytes(storage.join(self._run_dir, RUN_FILE), json.dumps(kept).encode())
        return run_id

    def _follow(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(_INTERVAL_S)
            for file in _FILES:
                try:
                    self._send_new(file)
                except self._failures as error:
                    if not self._is_told:
                        logger.warning("MLflow does not take the figures: %s", first_line(error))
                    self._is_told = True

    def _send_new(self, file: str) -> None:
        try:
            text = storage.read_bytes(storage.join(self._run_dir, file)).decode()
        except StorageError:
            return  # no step is done yet
        lines = [line for line in parse_lines(text) if line["step"] > self._last_step[file]]
        now_ms = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(
                f"{_FILES[file]}/{_allowed(name)}", float(value), now_ms, line["step"]
            )
            for line in lines
            for name, value in line.items()
            if name not in _NOT_FIGURES and math.isfinite(value)
        ]
        for first in range(0, len(metrics), _METRICS_A_REQUEST):
            self._client.log_batch(
                self._run_id, metrics=metrics[first : first + _METRICS_A_REQUEST]
            )
        if lines:
            self._last_step[file] = lines[-1]["step"]


def _allowed(name: str) -> str:
    """`map_50/a,b` -> `map_50.a_b`: a label may hold what names may not, and `map_50` is no folder."""
    return "".join(c if c.isalnum() or c in "_-. " else "_" for c in name.replace("/", ".", 1))
