"""Runs the parts of a job that are missing, whatever workers are lost, and watches over what comes of them."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from appliance import storage
from appliance.bulk.annotated import AnnotatedPictures
from appliance.bulk.config import BatchScoringConfig
from appliance.bulk.job_start import JobRequest
from appliance.bulk.part_scorer import PartJob, PartOutcome, ScorerSettings
from appliance.bulk.scores.folder import UnfinishedJob
from appliance.bulk.scores.part_file import PartCounts
from appliance.errors import ServiceError, StorageError, WorkersLostError
from appliance.on_ray.part_pool import WorkerPool, run_parts, size_pool
from appliance.on_ray.progress import ImageProgress

logger = logging.getLogger(__name__)

MAX_LOSSES = 3
"""How often in a row a job goes on after losing workers without having finished a part in between."""
MIN_IMAGES_PER_WORKER = 64
"""A worker takes seconds to start: for fewer pictures it is not worth it."""


@dataclass(frozen=True)
class Scored:
    """All parts of a job in order, what became of those scored now, and how many workers were asked for."""

    parts: list[PartCounts]
    outcomes: list[PartOutcome]
    workers: int


def run_job(job: UnfinishedJob, request: JobRequest, config: BatchScoringConfig) -> Scored:
    """Scores the parts that are missing.

    Raises:
        StorageError, ServiceError: As in `score_input`.
    """
    images, version = job.plan.images, request.model["version"]
    parts = {i: part for i, part in job.done().items() if part.model_version == version}
    before = sum(part.rows for part in parts.values())
    if before:
        logger.info("going on: %d of %d pictures have been scored before", before, images)
    pool = pool_for(images - before, config)
    settings = scorer_settings(job, config, pool, request)
    outcomes: list[PartOutcome] = []
    try:
        with ImageProgress(images, config.progress, done=before) as progress:
            for outcome in _outcomes(job, parts, settings, pool, config.stall_timeout_s):
                check_version(outcome.counts, version)
                outcomes.append(outcome)
                parts[outcome.counts.index] = outcome.counts
                progress.advance(outcome.counts.rows, outcome.started_s)
                check_error_rate(parts.values(), images, config.max_error_rate, job)
        check_complete(parts, job)
    except BaseException:
        if not parts and not job.done():
            job.discard()  # nothing is lost by it, and the output is as it was before
        raise
    return Scored([parts[index] for index in range(job.plan.parts)], outcomes, pool.workers)


def _outcomes(
    job: UnfinishedJob,
    parts: Mapping[int, PartCounts],
    settings: ScorerSettings,
    pool: WorkerPool,
    stall_timeout_s: float,
) -> Iterator[PartOutcome]:
    """Those of the parts that are missing; `parts`, which the caller fills, says which."""
    losses = 0
    while True:
        done_before = len(parts)
        try:
            yield from run_parts(
                part_jobs(job, parts), settings, pool, stall_timeout_s=stall_timeout_s
            )
        except WorkersLostError as error:
            losses = losses + 1 if len(parts) == done_before else 1
            if losses > MAX_LOSSES:
                raise
            logger.warning("going on with the workers that are left: %s", error.got)
            pool = replace(pool, min_workers=1)  # there may be no room for all of them any more
        else:
            return


def pool_for(images: int, config: BatchScoringConfig) -> WorkerPool:
    """The workers that so many pictures are worth, on the cluster this process is connected to."""
    return size_pool(
        math.ceil(images / MIN_IMAGES_PER_WORKER),
        workers=config.workers,
        min_workers=config.min_workers,
        cpus_per_worker=config.cpus_per_worker,
        gpus_per_worker=config.gpus_per_worker,
    )


def part_jobs(job: UnfinishedJob, done: Mapping[int, PartCounts]) -> list[PartJob]:
    """The parts that are missing."""
    plan = job.plan
    return [
        PartJob(
            index, job.listing_uri, plan.kind, job.part_uri(index), index * plan.images_per_part
        )
        for index in range(plan.parts)
        if index not in done
    ]


def scorer_settings(
    job: UnfinishedJob, config: BatchScoringConfig, pool: WorkerPool, request: JobRequest
) -> ScorerSettings:
    """What each worker of a job is told."""
    annotated = None
    if config.annotated_uri is not None:
        wanted = config.annotated_pictures or job.plan.images
        uri = storage.absolute(config.annotated_uri)
        annotated = AnnotatedPictures(uri, wanted, job.plan.images)
    return ScorerSettings(
        request.model["uri"],
        config.limits,
        device="auto" if pool.gpus else "cpu",
        threads=pool.cpus,
        batch_size=config.batch_size,
        score_threshold=config.score_threshold,
        max_detections=config.max_detections,
        labels=config.labels,
        tiling=config.tiling,
        gpu_jpeg=config.gpu_jpeg,
        annotated=annotated,
    )


def check_version(part: PartCounts, model_version: str) -> None:
    """Refuses a part that another model has made.

    Raises:
        StorageError: It has.
    """
    if part.model_version != model_version:
        raise StorageError(
            "The model file changed while the job ran",
            got=f"version {part.model_version}",
            expected=f"version {model_version}",
            hint="Run the job again with --overwrite, or put the model back and repeat the command",
        )


def check_error_rate(
    parts: Iterable[PartCounts], images: int, max_error_rate: float, job: UnfinishedJob
) -> None:
    """Gives up as soon as it is certain that too many pictures cannot be read."""
    parts = list(parts)
    kinds = sum((part.errors_by_kind for part in parts), Counter[str]())
    if kinds.total() > max_error_rate * images:
        examples = [
            text for part in parts for texts in part.error_examples.values() for text in texts
        ]
        job.discard()  # rows of errors must not outlive what made them
        got = f"{error_counts(kinds)} of {images} so far; the first: {examples[0]}"
        raise error_rate_error(job.plan.input["uri"], got, max_error_rate)


def error_counts(errors_by_kind: Mapping[str, int]) -> str:
    """For people."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(errors_by_kind.items()))


def error_rate_error(
    where: str | None,
    got: str,
    max_error_rate: float,
    hint: str = "See whether the input is what it should be",
) -> ServiceError:
    """Too many pictures could not be read."""
    return ServiceError(
        "Too many pictures cannot be read",
        where=where,
        got=got,
        expected=f"at most {max_error_rate:.1%} of them, by --max-error-rate",
        hint=hint,
    )


def check_complete(parts: Mapping[int, PartCounts], job: UnfinishedJob) -> None:
    """Makes sure that every picture has its row.

    Raises:
        ServiceError: One has not.
    """
    rows = {index: part.rows for index, part in parts.items()}
    if rows != {index: job.plan.rows_of(index) for index in range(job.plan.parts)}:
        raise ServiceError(
            "The scoring job lost parts",
            got=f"{len(parts)} parts",
            expected=f"{job.plan.parts}",
            hint="Run the same command again: it scores those that are missing",
        )
