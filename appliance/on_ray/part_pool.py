"""Runs the parts of a batch job on a Ray Data actor pool, and turns Ray's errors into ours.

One row of the dataset is one part: the slice of the input listing goes in, a few numbers come out. Each
worker loads the model once (`part_scorer`) and takes one part after another; a worker that dies is
replaced and its part done again.
"""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from appliance.bulk.part_scorer import PartJob, PartOutcome, PartScorer, ScorerSettings
from appliance.errors import ApplianceError, ServiceError, WorkersLostError
from appliance.on_ray.waiting import StandstillError, each_within

if TYPE_CHECKING:
    import ray.data

PART_RETRIES = 5
"""Attempts after the first when workers die on a part. Without a limit, Ray would try for ever."""

_MAX_CPUS_PER_GPU = 8
# Ray Data's own watch comes first, for it cleans up. It is blind where the thread that keeps it hangs itself:
# asking where an actor is waits without limit for one that died while it was made (Ray 2.60).
_WATCH_GRACE_S = 30.0


@dataclass(frozen=True)
class WorkerPool:
    """How many workers, and what each of them takes of the cluster.

    Attributes:
        workers: At most.
        cpus: Of each.
        gpus: Of each.
        min_workers: To begin with; Ray adds others as there is room. None: all at once.
    """

    workers: int
    cpus: int
    gpus: float
    min_workers: int | None = None


def size_pool(
    most: int,
    *,
    workers: int | None = None,
    min_workers: int | None = None,
    cpus_per_worker: int | None = None,
    gpus_per_worker: float | None = None,
) -> WorkerPool:
    """A pool that fits the cluster this process is connected to.

    Args:
        most: Workers that are worth their start.
        workers: So many, whatever fits; by default what the CPUs, or the GPUs, allow.
        min_workers: As in `WorkerPool`.
        cpus_per_worker: By default 1, or a GPU's share of the CPUs, at most 8.
        gpus_per_worker: By default 1 where the cluster has any GPU.
    """
    import ray

    resources = ray.cluster_resources()
    total_cpus, total_gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    gpus = gpus_per_worker if gpus_per_worker is not None else float(total_gpus > 0)
    if gpus:
        share = int(total_cpus / max(total_gpus, 1) * gpus)
        cpus = cpus_per_worker or max(1, min(_MAX_CPUS_PER_GPU, share))
        fitting = min(int(total_gpus / gpus), total_cpus // cpus)
    else:
        cpus = cpus_per_worker or 1
        fitting = total_cpus // cpus
    count = workers or max(1, min(fitting, most))
    return WorkerPool(count, cpus, gpus, None if min_workers is None else min(min_workers, count))


def run_parts(
    jobs: Sequence[PartJob], settings: ScorerSettings, pool: WorkerPool, *, stall_timeout_s: float
) -> Iterator[PartOutcome]:
    """Scores the parts; outcomes come as they are done, in any order.

    Args:
        jobs: What to score.
        settings: For the scorer of each worker.
        pool: Of what size.
        stall_timeout_s: Give up when no part was finished for so long.

    Raises:
        ApplianceError: What a worker met that concerns the whole job, such as a full disk.
        WorkersLostError: Workers or nodes died, more often than Ray makes up for.
        ServiceError: The cluster has no room for a single worker.
    """
    import ray
    from ray.data.exceptions import ExecutionTimeoutError

    dataset = _pipeline(jobs, settings, pool)
    dataset.context.execution_no_progress_timeout_s = stall_timeout_s
    try:
        yield from each_within(_outcomes(dataset), stall_timeout_s + _WATCH_GRACE_S)
    except (ExecutionTimeoutError, StandstillError) as error:
        raise ServiceError(
            "The scoring job stands still",
            got=f"no part finished in {stall_timeout_s:.0f} s",
            hint="See by `ray status` whether the cluster has free CPUs or GPUs for a worker",
        ) from error
    except ray.exceptions.RayError as error:
        raise WorkersLostError(
            "The scoring job failed on the cluster",
            got=str(error).strip().splitlines()[-1],
            hint="See in the logs of the workers why, or whether memory is short: then use fewer workers",
        ) from error


def _outcomes(dataset: ray.data.Dataset) -> Generator[PartOutcome, None, None]:
    """What comes of the parts; an error that a worker met is raised."""
    with closing(cast(Any, iter(dataset.iter_rows()))) as rows:
        for row in rows:
            outcome = pickle.loads(row["outcome"])  # noqa: S301  (our own workers made it)
            if isinstance(outcome, ApplianceError):
                raise outcome
            yield outcome


class _Worker:
    """A row with a pickled `PartJob` in, a row with a pickled outcome or error out.

    Errors meant for the user travel as values: raised here, they would reach him as Ray's own error
    around a traceback, and a failing constructor would lose them altogether.
    """

    def __init__(self, settings: ScorerSettings) -> None:
        self._scorer: PartScorer | ApplianceError
        try:
            self._scorer = PartScorer(settings)
        except ApplianceError as error:
            self._scorer = error

    def __call__(self, row: Mapping[str, bytes]) -> dict[str, bytes]:
        outcome: PartOutcome | ApplianceError
        if isinstance(self._scorer, ApplianceError):
            outcome = self._scorer
        else:
            try:
                job = pickle.loads(row["job"])  # noqa: S301  (our own driver made it)
                outcome = self._scorer.score_part(job)
            except ApplianceError as error:
                outcome = error
        return {"outcome": pickle.dumps(outcome)}


def _pipeline(
    jobs: Sequence[PartJob], settings: ScorerSettings, pool: WorkerPool
) -> ray.data.Dataset:
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    _silence_ray_data()
    rows = [{"job": pickle.dumps(job)} for job in jobs]
    with warnings.catch_warnings():
        # Ray 2.60 announces that 2.64 will not take `max_task_retries` here, and has no other way yet.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            cast(Any, _Worker),
            fn_constructor_args=(settings,),
            compute=ray.data.ActorPoolStrategy(
                min_size=pool.min_workers or pool.workers, max_size=pool.workers
            ),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            max_task_retries=PART_RETRIES,
        )
    dataset.context.enable_progress_bars = False  # ours counts pictures, Ray's would count parts
    dataset.context.print_on_execution_start = False
    return dataset


def _silence_ray_data() -> None:
    """Leaves Ray Data its log file and takes the console from it: progress and errors are ours to tell."""
    for handler in logging.getLogger("ray.data").handlers:
        # Only Ray's own: others may have hung theirs on this logger too.
        is_rays = type(handler).__module__.startswith("ray.")
        if is_rays and isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
