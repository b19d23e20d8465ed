"""Training on Ray Train: the same share of a run that `training.run` does here, on workers.

Rank 0 records metrics in the folder of the run and hands checkpoints to Ray, which keeps them there; the
driver follows the metrics for its progress bar. A worker that dies is started again by Ray and goes on at
the last checkpoint; a driver that dies is started again with `resume=True`.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from torchvision.models.detection import FasterRCNN

from appliance import storage
from appliance.annotations.dataset import AnnotatedImage
from appliance.errors import ApplianceError, ConfigError, TrainingError
from appliance.model import model_file
from appliance.model.faster_rcnn import build_network
from appliance.model.model_file import ModelInfo
from appliance.model.weights import NAMED_WEIGHTS
from appliance.training import checkpoint as checkpoints
from appliance.training.checkpoint import Checkpoint
from appliance.training.data import Share
from appliance.training.engine import StepReport
from appliance.training.monitor import RunRecorder, TrainingProgress, read_metrics
from appliance.training.plan import TrainingPlan
from appliance.training.run import train_share, write_plan

logger = logging.getLogger(__name__)

_RAY_RUN = "ray"
_PROGRESS_INTERVAL_S = 0.25
# Reports are a barrier paced by the controller's polling; its default of 2 s costs 2 s a checkpoint.
_TRAIN_ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}


@dataclass(frozen=True)
class Workers:
    """On what to train.

    Attributes:
        count: Number of workers; every batch is split over them.
        use_gpu: One GPU each.
        cpus_each: CPU cores (and threads) of each; None shares out those of the cluster.
        max_failures: How often a run goes on after losing a worker.
    """

    count: int = 1
    use_gpu: bool = False
    cpus_each: int | None = None
    max_failures: int = 3


@dataclass(frozen=True)
class TrainedModel:
    """What came of a run.

    Attributes:
        version: Of the model file.
        wall_s: Seconds from the first to the last worker's step, start-up included.
        final_loss: Mean loss of the last tenth of the steps.
    """

    version: str
    wall_s: float
    final_loss: float


def check_run(plan: TrainingPlan, run_dir: Path, workers: Workers, *, resume: bool) -> None:
    """Refuses, before any cluster has started, what could only fail on one.

    Raises:
        ConfigError: The batch cannot be split over so many workers, `run_dir` holds a run already, or
            none to resume.
    """
    if plan.config.batch_size % workers.count:
        raise ConfigError(
            "The batch cannot be split evenly over the workers",
            got=f"batch size {plan.config.batch_size} and {workers.count} workers",
            hint=f"Choose a batch size that is a multiple of {workers.count}",
        )
    begun = (run_dir / _RAY_RUN).exists()
    if resume and not begun:
        raise ConfigError(
            "There is no training run to go on with",
            where=run_dir,
            hint="Correct --run-dir, or begin one without --resume",
        )
    if begun and not resume:
        raise ConfigError(
            "The folder holds a training run already",
            where=run_dir,
            hint="Go on with it by --resume, or choose another --run-dir",
        )


def train_to_file(
    plan: TrainingPlan,
    images: Sequence[AnnotatedImage],
    run_dir: Path,
    model_uri: str,
    *,
    workers: Workers = Workers(),
    resume: bool = False,
    progress: bool = True,
) -> TrainedModel:
    """Trains on Ray and writes the model file; arguments and errors as in `train_on_ray`."""
    storage.check_writable(model_uri)
    started_s = time.perf_counter()
    network = train_on_ray(plan, images, run_dir, workers=workers, resume=resume, progress=progress)
    wall_s = time.perf_counter() - started_s
    losses = [line["loss"] for line in read_metrics(run_dir)]
    last = losses[-max(1, len(losses) // 10) :]
    final_loss = round(sum(last) / len(last), 4)
    info = ModelInfo(
        training=plan.config.to_json(),
        metrics={"final_loss": final_loss},
        dataset_digest=plan.dataset_digest,
        parent=plan.init,
    )
    version = model_file.save(model_uri, network, plan.spec, info=info)
    return TrainedModel(version, wall_s, final_loss)


def train_on_ray(
    plan: TrainingPlan,
    images: Sequence[AnnotatedImage],
    run_dir: Path,
    *,
    workers: Workers = Workers(),
    resume: bool = False,
    progress: bool = True,
) -> FasterRCNN:
    """Trains on the Ray cluster this process is connected to.

    Args:
        plan: What to do.
        images: The training data; every worker must be able to read their files.
        run_dir: Folder of the run, which all nodes must see: plan, metrics, checkpoints.
        workers: On what.
        resume: Go on with the run in `run_dir`.
        progress: Show a progress bar.

    Returns:
        The trained network, on the CPU.

    Raises:
        ConfigError: The batch cannot be split over so many workers, or `run_dir` holds a run already.
        TrainingError: Training cannot go on, also after restarts.
    """
    run_dir = run_dir.absolute()
    check_run(plan, run_dir, workers, resume=resume)
    os.environ.update(_TRAIN_ENVIRONMENT)
    write_plan(plan, run_dir)
    trainer = ray.train.torch.TorchTrainer(
        _train_loop,
        train_loop_config={
            # Workers have a working folder of their own: relative paths would mean something else there.
            "plan": replace(plan, init=_for_workers(plan.init)).to_json(),
            "images": ray.put(
                [replace(i, storage_path=storage.absolute(i.storage_path)) for i in images]
            ),
            "run_dir": str(run_dir),
        },
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.use_gpu,
            resources_per_worker=_resources(workers),
        ),
        run_config=RunConfig(
            name=_RAY_RUN,
            storage_path=str(run_dir),
            failure_config=FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        result = _fit(trainer, plan.steps, run_dir, progress=progress)
    except TrainingFailedError as failure:
        raise _cause(failure, run_dir) from failure
    if result.checkpoint is None:
        raise TrainingError("The run left no checkpoint", where=run_dir)
    with result.checkpoint.as_directory() as folder:
        state = checkpoints.load(str(Path(folder) / checkpoints.FILE_NAME))
    network = build_network(plan.spec)
    network.load_state_dict(state.network_state)
    return network


def _train_loop(loop_config: dict[str, Any]) -> None:
    """What every worker runs."""
    plan = TrainingPlan.from_json(loop_config["plan"])
    run_dir = Path(loop_config["run_dir"])
    context = ray.train.get_context()
    share = Share(context.get_world_rank(), context.get_world_size())
    checkpoint = _latest_checkpoint()
    first_step = checkpoint.step if checkpoint else 0
    recorder = RunRecorder(run_dir, first_step) if share.rank == 0 else None

    def on_step(report: StepReport) -> None:
        if recorder is not None:
            recorder.on_step(report)

    try:
        train_share(
            plan,
            ray.get(loop_config["images"]),
            device=str(ray.train.torch.get_device()),
            share=share,
            checkpoint=checkpoint,
            on_step=on_step,
            on_checkpoint=lambda state: _report(state, share),
        )
    finally:
        if recorder is not None:
            recorder.close()


def _latest_checkpoint() -> Checkpoint | None:
    latest = ray.train.get_checkpoint()
    if latest is None:
        return None
    with latest.as_directory() as folder:
        return checkpoints.load(str(Path(folder) / checkpoints.FILE_NAME))


def _report(state: Checkpoint, share: Share) -> None:
    metrics = {"step": state.step}
    if share.rank != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.save(str(Path(folder) / checkpoints.FILE_NAME), state)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _for_workers(init: str) -> str:
    return init if init in NAMED_WEIGHTS else storage.absolute(init)


def _resources(workers: Workers) -> dict[str, float]:
    cluster_cpus = int(ray.cluster_resources().get("CPU", 1))
    cpus = workers.cpus_each or max(1, cluster_cpus // workers.count)
    resources: dict[str, float] = {"CPU": cpus}
    return {**resources, "GPU": 1} if workers.use_gpu else resources


def _fit(
    trainer: ray.train.torch.TorchTrainer, steps: int, run_dir: Path, *, progress: bool
) -> ray.train.Result:
    """Runs the trainer in a thread and follows its metrics file in this one.

    In the main thread Ray Train would take Ctrl-C for itself, for good, and end the process without a
    word; so it is ours, as everywhere.
    """
    outcome: Future[ray.train.Result] = Future()

    def fit() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for it
            outcome.set_exception(error)

    threading.Thread(target=fit, name="ray-train", daemon=True).start()
    shown = len(read_metrics(run_dir))
    if shown and progress:
        logger.info("going on with a run of %d steps so far", shown)
    with TrainingProgress(steps, enabled=progress) as bar:
        finished = False
        while not finished:
            finished = bool(wait([outcome], timeout=_PROGRESS_INTERVAL_S).done)
            lines = read_metrics(run_dir)
            shown = min(
                shown, len(lines)
            )  # a resumed run first forgets what came after its checkpoint
            for line in lines[shown:]:
                bar.update(line)
            shown = len(lines)
    return outcome.result()


def _cause(failure: TrainingFailedError, run_dir: Path) -> ApplianceError:
    """The error a worker raised, if it is one of ours; else one sentence that says where to look."""
    for error in getattr(failure, "worker_failures", {}).values():
        for candidate in (error, getattr(error, "cause", None), error.__cause__):
            if isinstance(candidate, ApplianceError):
                return candidate
    return TrainingError(
        "Training failed on its workers",
        where=run_dir,
        got=str(failure).strip().splitlines()[-1],
        hint="Go on from the last checkpoint with --resume",
    )
