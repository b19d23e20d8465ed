"""A whole run: plan in, trained network out, and a folder from which it can go on whatever happens.

`train_here` runs it in this process. `on_ray.training` does so on workers, each of which runs
`train_in_folder`: so checkpoints, records and errors are the same here and there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchvision.models.detection import FasterRCNN

from appliance.annotations.dataset import AnnotatedImage
from appliance.errors import ApplianceError, ConfigError, StorageError, TrainingStopped
from appliance.model.device import resolve_device
from appliance.storage.failures import reason
from appliance.training import agreement
from appliance.training.checkpoint import Checkpoint
from appliance.training.checkpoint_store import CheckpointStore
from appliance.training.data import Share
from appliance.training.engine import StepReport, TrainingOutcome, train
from appliance.training.monitor import RunRecorder, TrainingProgress
from appliance.training.plan import TrainingPlan
from appliance.training.run_folder import RunFolder, check_same_run
from appliance.training.validation import Validator

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Recording:
    """What rank 0 writes down of a run.

    Attributes:
        folder: Of the run.
        store: Of its checkpoints.
        recorder: Of metrics and curves.
        on_line: Told each line of metrics.
    """

    folder: RunFolder
    store: CheckpointStore
    recorder: RunRecorder
    on_line: Callable[[dict[str, Any]], None]


def train_here(
    plan: TrainingPlan,
    images: Sequence[AnnotatedImage],
    run_dir: str | os.PathLike[str],
    *,
    validation: Sequence[AnnotatedImage] = (),
    device: str = "auto",
    resume: bool = False,
    progress: bool = True,
    stop_requested: Callable[[], bool] = lambda: False,
) -> FasterRCNN:
    """Trains in this process.

    Args:
        plan: What to do.
        images: The training data.
        run_dir: Folder of the run, local or in an object store: plan, metrics, TensorBoard files,
            checkpoints.
        validation: Pictures that training does not see, to find the best step by.
        device: "cpu", "cuda" or "auto".
        resume: Go on from the newest checkpoint in `run_dir`, if there is one.
        progress: Show a progress bar.
        stop_requested: Asked after each step; True ends the run with a checkpoint.

    Returns:
        The network, on its device: after the best step where it was validated, else after the last one.

    Raises:
        TrainingStopped: It was asked to stop.
        ApplianceError: See `training.engine.train`; the hint names the checkpoint to go on from.
    """
    with RunFolder(run_dir) as folder, TrainingProgress(plan.steps, enabled=progress) as bar:
        store = folder.checkpoints(plan.config.keep_checkpoints)
        begin(plan, folder, resume=resume)
        network, outcome = train_in_folder(
            plan,
            images,
            folder,
            validation=validation,
            device=device,
            checkpoint=store.newest() if resume else None,
            stop_requested=stop_requested,
            on_line=bar.update,
        )
        network.load_state_dict(kept_checkpoint(store, outcome).model_state)
        return network


def begin(plan: TrainingPlan, folder: RunFolder, *, resume: bool) -> None:
    """Writes the plan, and says where it differs from that of the run it goes on with.

    Raises:
        ConfigError: The run in the folder has another network.
        StorageError: The folder cannot be read or written.
    """
    if resume and folder.begun():
        for difference in check_same_run(plan, folder):
            logger.warning("going on with another setting than before: %s", difference)
    else:
        # What an abandoned run has left would be taken for checkpoints of this one.
        folder.checkpoints().clear()
    folder.write_plan(plan)


def train_in_folder(
    plan: TrainingPlan,
    images: Sequence[AnnotatedImage],
    folder: RunFolder,
    *,
    validation: Sequence[AnnotatedImage] = (),
    device: str,
    share: Share = Share(),
    checkpoint: Checkpoint | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    on_line: Callable[[dict[str, Any]], None] = lambda line: None,
) -> tuple[FasterRCNN, TrainingOutcome]:
    """One worker's share of a run that is kept in a folder; rank 0 writes, the others only compute.

    Args:
        plan: What to do.
        images: The training data.
        folder: Of the run.
        validation: Pictures to find the best step by.
        device: "cpu", "cuda" or "auto".
        share: This worker's part.
        checkpoint: Where to go on; the same for all workers.
        stop_requested: Asked on rank 0 after each step.
        on_line: Told each line of metrics, on rank 0.

    Returns:
        The network after the last step, and how the run ended.

    Raises:
        TrainingStopped: It was asked to stop; the message names the checkpoint.
        ApplianceError: See `training.engine.train`; the hint names the checkpoint to go on from.
    """
    store = folder.checkpoints(plan.config.keep_checkpoints)
    try:
        if share.rank != 0:
            return _train(plan, images, validation, device, share=share, checkpoint=checkpoint)
        folder.fetch_metrics()
        recorder = RunRecorder(folder.local, checkpoint.step if checkpoint else 0)
        try:
            done = _train(
                plan,
                images,
                validation,
                device,
                share=share,
                checkpoint=checkpoint,
                stop_requested=stop_requested,
                recording=Recording(folder, store, recorder, on_line),
            )
        finally:
            recorder.close()
        folder.publish()
        return done
    except TrainingStopped as stopped:
        stopped.where = store.address(stopped.step)
        stopped.hint = f"Go on with the same command and --run-dir {folder.uri} --resume"
        raise
    except ConfigError:
        raise  # before the first step
    except ApplianceError as error:
        raise naming_last(error, store) from error
    except OSError as error:  # of the records, which are plain files
        told = StorageError(
            "Cannot write the records of the run", where=folder.local, got=reason(error)
        )
        raise naming_last(told, store) from error


def _train(
    plan: TrainingPlan,
    images: Sequence[AnnotatedImage],
    validation: Sequence[AnnotatedImage],
    device: str,
    *,
    share: Share,
    checkpoint: Checkpoint | None,
    stop_requested: Callable[[], bool] = lambda: False,
    recording: Recording | None = None,
) -> tuple[FasterRCNN, TrainingOutcome]:
    here = resolve_device(device)
    validator = Validator(validation, plan.spec, device=device) if validation else None

    def on_step(report: StepReport) -> None:
        if recording is not None:
            recording.on_line(recording.recorder.on_step(report))

    def on_validation(step: int, metrics: Mapping[str, float]) -> None:
        if recording is not None and validator is not None:
            recording.recorder.on_validation(step, metrics, validator.comparisons())

    def on_checkpoint(state: Checkpoint) -> None:
        if recording is not None:
            # In this order: records of steps after the last checkpoint are dropped, but none can be made up.
            recording.folder.publish()
            recording.store.save(state)
        # A worker that fails right after this must not end the one that is still writing.
        agreement.any_worker(False, share, here)

    network = plan.build_network()
    outcome = train(
        network,
        plan.spec,
        images,
        plan.config,
        steps=plan.steps,
        train_batch_norm=bool(plan.config.train_batch_norm),
        device=here,
        share=share,
        checkpoint=checkpoint,
        on_step=on_step,
        on_checkpoint=on_checkpoint,
        validate=validator,
        on_validation=on_validation,
        stop_requested=stop_requested,
    )
    return network, outcome


def kept_checkpoint(store: CheckpointStore, outcome: TrainingOutcome) -> Checkpoint:
    """What a run is for: the checkpoint of its best step where it was validated, else the last one.

    Raises:
        StorageError, ModelFileError: It cannot be read.
    """
    return store.load(outcome.step if outcome.best_step is None else outcome.best_step)


def naming_last(error: ApplianceError, store: CheckpointStore) -> ApplianceError:
    """The same error, with the checkpoint from which the run can go on in its hint."""
    try:
        state = store.newest()
        last = None if state is None else store.address(state.step)
    except ApplianceError:  # the store is what has failed
        last = store.last_saved
    told = (
        "The run has no checkpoint yet"
        if last is None
        else f"The last good checkpoint is {last}: go on from it with --resume"
    )
    error.hint = told if not error.hint else f"{error.hint}. {told}"
    return error


def train_share(
    plan: TrainingPlan,
    images: Sequence[AnnotatedImage],
    *,
    device: str,
    share: Share = Share(),
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_checkpoint: Callable[[Checkpoint], None] = lambda state: None,
) -> FasterRCNN:
    """One worker's share of a run that leaves no trace; returns the network after the last step."""
    network = plan.build_network()
    train(
        network,
        plan.spec,
        images,
        plan.config,
        steps=plan.steps,
        train_batch_norm=bool(plan.config.train_batch_norm),
        device=resolve_device(device),
        share=share,
        checkpoint=checkpoint,
        on_step=on_step,
        on_checkpoint=on_checkpoint,
    )
    return network
