"""Training on Ray Train: the same share of a run that `training.run` does here, on workers.

Here is the side of the command: it starts the workers, shows their progress, hands on the wish to stop,
and reads what they have left in the folder of the run. A worker that dies is started again by Ray and goes on
at the newest checkpoint; a command that dies is started again with `resume=True`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from torchvision.models.detection import FasterRCNN

from appliance import storage
from appliance.annotations.dataset import AnnotatedImage
from appliance.errors import ApplianceError, TrainingError, TrainingStopped
from appliance.model import model_file
from appliance.model.faster_rcnn import build_network
from appliance.model.model_file import ModelInfo
from appliance.on_ray.free_room import nodes_with_room
from appliance.on_ray.process_environment import variables
from appliance.on_ray.run_control import start_run_control
from appliance.on_ray.run_driver import StopWish, follow
from appliance.on_ray.scratch import scratch_folder
from appliance.on_ray.training_loop import (
    GiveUp,
    WorkerTask,
    error_of_ours,
    for_workers,
    images_for_workers,
    outcome_of,
    run_worker,
)
from appliance.on_ray.workers import Workers as Workers  # part of what this module offers
from appliance.on_ray.workers import cpus_for_each, room_for
from appliance.training.disk_space import check_disk
from appliance.training.engine import TrainingOutcome
from appliance.training.monitor import TrainingProgress
from appliance.training.plan import TrainingPlan
from appliance.training.precision import autocast_dtype
from appliance.training.run import begin, kept_checkpoint, naming_last
from appliance.training.run_folder import RunFolder, check_free, check_same_run

# How soon Ray notices that workers are lost or done; its own 2 s is a lot of a short run.
_TRAIN_ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
# How long an elastic run waits for the room of a lost node before it tries with fewer workers.
_ELASTIC_ENVIRONMENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"}


@dataclass(frozen=True)
class TrainedModel:
    """What came of a run.

    Attributes:
        version: Of the model file.
        wall_s: Seconds from the first to the last worker's step, start-up included.
        final_loss: Mean loss of the last tenth of the steps.
        outcome: How training ended.
    """

    version: str
    wall_s: float
    final_loss: float
    outcome: TrainingOutcome


def check_run(
    plan: TrainingPlan,
    run_dir: str | os.PathLike[str],
    workers: Workers,
    *,
    resume: bool,
    model_uri: str | None = None,
) -> None:
    """Refuses, before any cluster has started, what could only fail on one.

    Args:
        plan: What to do.
        run_dir: Folder of the run.
        workers: On what.
        resume: Whether the run in `run_dir` goes on.
        model_uri: Where its model file goes, for the room on that disk.

    Raises:
        ConfigError: The batch cannot be split over so many workers, CPUs do not have the precision, `run_dir`
            holds a run already, or none to resume, or one of another network.
        StorageError: `run_dir` cannot be looked into, or what the run writes does not fit on its disk.
    """
    workers.check_batch(plan.config)
    if not workers.use_gpu:
        autocast_dtype(plan.config, torch.device("cpu"))
    folder = RunFolder(run_dir)
    check_free(folder, resume=resume)
    if resume:
        check_same_run(plan, folder)
    check_disk(plan, folder, model_uri)


def train_to_file(
    plan: TrainingPlan,
    images: Sequence[AnnotatedImage],
    run_dir: str | os.PathLike[str],
    model_uri: str,
    *,
    validation: Sequence[AnnotatedImage] = (),
    workers: Workers = Workers(),
    resume: bool = False,
    progress: bool = True,
    stop: StopWish | None = None,
) -> TrainedModel:
    """Trains on Ray and writes the model file; arguments and errors as in `train_on_ray`."""
    storage.check_writable(model_uri)
    started_s = time.perf_counter()
    network, outcome = train_on_ray(
        plan,
        images,
        run_dir,
        validation=validation,
        workers=workers,
        resume=resume,
        progress=progress,
        stop=stop,
    )
    wall_s = time.perf_counter() - started_s
    with RunFolder(run_dir) as folder:
        losses = [line["loss"] for line in folder.fetch_metrics()]
    last = losses[-max(1, len(losses) // 10) :]
    metrics = {"final_loss": round(sum(last) / len(last), 4)}
    if outcome.best_metric is not None:
        metrics[plan.config.validation_metric] = outcome.best_metric
    info = ModelInfo(
        training=plan.config.to_json(),
        metrics=metrics,
        dataset_digest=plan.dataset_digest,
        parent=plan.init,
    )
    version = model_file.save(model_uri, network, plan.spec, info=info)
    return TrainedModel(version, wall_s, metrics["final_loss"], outcome)


def train_on_ray(
    plan: TrainingPlan,
    images: Sequence[AnnotatedImage],
    run_dir: str | os.PathLike[str],
    *,
    validation: Sequence[AnnotatedImage] = (),
    workers: Workers = Workers(),
    resume: bool = False,
    progress: bool = True,
    stop: StopWish | None = None,
) -> tuple[FasterRCNN, TrainingOutcome]:
    """Trains on the Ray cluster this process is connected to.

    While it runs, SIGTERM (and Ctrl-C, if `stop` says so) means: finish the step, save, and end with
    `TrainingStopped`.

    Args:
        plan: What to do.
        images: The training data; every worker must be able to read their files.
        run_dir: Folder of the run, which all nodes must see, or a place in an object store: plan, metrics,
            checkpoints.
        validation: Pictures that training does not see, to find the best step by.
        workers: On what.
        resume: Go on with the run in `run_dir`.
        progress: Show a progress bar.
        stop: Which signals ask for a stop, and which one came; None for SIGTERM alone.

    Returns:
        The trained network, on the CPU: after the best step where it was validated, else after the last
        one; and how the run ended.

    Raises:
        ConfigError: The batch cannot be split over so many workers, or `run_dir` holds a run already.
        TrainingStopped: It was asked to stop.
        ServiceError: The cluster has no room for the workers, and does not grow.
        TrainingError: Training cannot go on, also after restarts.
        ApplianceError: See `training.engine.train`; the hint names the checkpoint to go on from.
    """
    check_run(plan, run_dir, workers, resume=resume)
    environment = _TRAIN_ENVIRONMENT | (_ELASTIC_ENVIRONMENT if workers.is_elastic else {})
    with (
        RunFolder(run_dir) as folder,
        scratch_folder("appliance-train-") as scratch,
    ):
        begin(plan, folder, resume=resume)
        store = folder.checkpoints(plan.config.keep_checkpoints)
        control = start_run_control()
        task = WorkerTask(
            for_workers(plan),
            ray.put(images_for_workers(images)),
            ray.put(images_for_workers(validation)),
            folder.uri,
            control,
        )
        nodes = nodes_with_room()
        cpus = cpus_for_each(workers, [node.get("CPU", 0) for node in nodes])
        patience_s = None if room_for(workers, cpus, nodes) else workers.room_timeout_s
        trainer = _trainer(task, workers, cpus, patience_s, str(scratch))
        try:
            with variables(environment), TrainingProgress(plan.steps, enabled=progress) as bar:
                result = follow(
                    trainer.fit, control, bar.update, stop=stop, start_timeout_s=patience_s
                )
        except TrainingFailedError as failure:
            raise _told(failure, folder) from failure
        except TrainingStopped as stopped:
            raise naming_last(stopped, store) from None
        outcome = outcome_of(result.return_value)
        network = build_network(plan.spec)
        network.load_state_dict(kept_checkpoint(store, outcome).model_state)
        return network, outcome


def _trainer(
    task: WorkerTask, workers: Workers, cpus: int, patience_s: float | None, scratch: str
) -> Any:
    """Ray's trainer; what it calls metrics and checkpoints stays empty, so it keeps nothing of ours."""
    # Its annotations are those of its first version, which is another class.
    trainer: Any = ray.train.torch.TorchTrainer
    scaling: Any = ScalingConfig
    run: Any = RunConfig
    failures: Any = FailureConfig
    return trainer(
        run_worker,
        train_loop_config={"task": task},
        scaling_config=scaling(
            num_workers=(workers.fewest, workers.count) if workers.is_elastic else workers.count,
            use_gpu=workers.use_gpu,
            resources_per_worker={"CPU": cpus} | ({"GPU": 1} if workers.use_gpu else {}),
        ),
        run_config=run(
            name="run",
            storage_path=scratch,
            failure_config=failures(
                max_failures=workers.max_failures,
                # One for each minute without room; Ray would ask for it for ever.
                controller_failure_limit=-1 if patience_s is None else int(patience_s // 60),
            ),
            callbacks=[GiveUp()],
        ),
    )


def _told(failure: TrainingFailedError, folder: RunFolder) -> ApplianceError:
    """The error a worker raised, if it is one of ours; else one sentence that says where to look."""
    errors = (failure, *getattr(failure, "worker_failures", {}).values())
    ours = error_of_ours([*errors, getattr(failure, "controller_failure", failure)])
    if ours is not None:
        return ours
    told = TrainingError(
        "Training failed on its workers",
        where=folder.uri,
        got=str(failure).strip().splitlines()[-1],
    )
    return naming_last(told, folder.checkpoints())
