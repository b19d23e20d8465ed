"""What every worker of a run on Ray Train does; `on_ray.training` starts it and waits for it.

Checkpoints go into the folder of the run without Ray's help, as those of a run in one process do: so all
that was saved counts, at whatever moment a worker is killed. Ray starts the workers again, and these begin
at the newest good checkpoint of that folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.train import UserCallback
from ray.train.collective import broadcast_from_rank_zero

from appliance import storage
from appliance.annotations.annotated_image import AnnotatedImage
from appliance.errors import ApplianceError, StorageError, TrainingError, TrainingStopped
from appliance.model.weights import NAMED_WEIGHTS
from appliance.on_ray.run_control import StopSignal
from appliance.training.checkpoint import Checkpoint
from appliance.training.checkpoint_store import CheckpointStore
from appliance.training.data import Share
from appliance.training.engine import TrainingOutcome
from appliance.training.plan import TrainingPlan
from appliance.training.run import train_in_folder
from appliance.training.run_folder import RunFolder


@dataclass(frozen=True)
class WorkerTask:
    """All that a worker is given.

    Attributes:
        plan: What to do.
        images: Ray's reference to the training data.
        validation: Likewise to the pictures to validate on.
        run_uri: Folder of the run.
        control: Actor of `on_ray.run_control`.
    """

    plan: TrainingPlan
    images: ray.ObjectRef[Any]
    validation: ray.ObjectRef[Any]
    run_uri: str
    control: Any


def run_worker(loop_config: dict[str, WorkerTask]) -> dict[str, Any] | TrainingStopped:
    """Trains one worker's share.

    Args:
        loop_config: The task, under "task".

    Returns:
        The fields of the `TrainingOutcome`, or what says that the run was asked to stop.
    """
    task = loop_config["task"]
    context = ray.train.get_context()
    share = Share(context.get_world_rank(), context.get_world_size())
    with RunFolder(task.run_uri) as folder:
        store = folder.checkpoints(task.plan.config.keep_checkpoints)
        try:
            _, outcome = train_in_folder(
                task.plan,
                ray.get(task.images),
                folder,
                validation=ray.get(task.validation),
                device=str(ray.train.torch.get_device()),
                share=share,
                checkpoint=_common_checkpoint(store, share),
                stop_requested=StopSignal(task.control),
                on_line=task.control.add_line.remote,
            )
        except TrainingStopped as stopped:
            return stopped
        return asdict(outcome)


def _common_checkpoint(store: CheckpointStore, share: Share) -> Checkpoint | None:
    """The newest good checkpoint, as rank 0 finds it: all workers must begin at the same step."""
    found = store.newest() if share.rank == 0 else None
    step = broadcast_from_rank_zero(None if found is None else found.step)
    if share.rank == 0 or step is None:
        return found
    try:
        return store.load(step)
    except StorageError as error:
        raise TrainingError(
            "A worker does not see the checkpoint that the others go on from",
            where=error.where,
            got=error.got,
            hint="Choose a --run-dir that all nodes share, or an object store",
        ) from None


def for_workers(plan: TrainingPlan) -> TrainingPlan:
    """The plan with addresses that mean the same in the working folder of a worker."""
    init = plan.init if plan.init in NAMED_WEIGHTS else storage.absolute(plan.init)
    return replace(plan, init=init)


def images_for_workers(images: Sequence[AnnotatedImage]) -> list[AnnotatedImage]:
    """Likewise the pictures."""
    return [replace(i, storage_path=storage.absolute(i.storage_path)) for i in images]


class GiveUp(UserCallback):
    """Ends a run at once where trying again cannot help: Ray itself would repeat any failure.

    What raises an `ApplianceError` (a picture that is gone, a disk that is full, a loss that is not finite)
    raises it again after a restart; what kills a worker does not.
    """

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """Raises the error of a worker, if it is one of ours."""
        error = error_of_ours(worker_exceptions.values())
        if error is not None:
            raise error


def error_of_ours(exceptions: Any) -> ApplianceError | None:
    """The first `ApplianceError` among exceptions and their causes."""
    for exception in exceptions:
        for candidate in (exception, getattr(exception, "cause", None), exception.__cause__):
            if isinstance(candidate, ApplianceError):
                return candidate
    return None


def outcome_of(return_value: Any) -> TrainingOutcome:
    """How the run ended, from what rank 0 has returned.

    Raises:
        TrainingStopped: It was asked to stop.
    """
    if isinstance(return_value, TrainingStopped):
        raise return_value
    return TrainingOutcome(**return_value)
