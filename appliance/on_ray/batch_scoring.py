"""Scores every picture of a folder, bucket, list, table, archive or video into Parquet, with Ray Data.

The path of a job:

    list pictures -> cut the listing into parts -> Ray Data runs them on workers (`part_pool`), which
    decode, infer and write one file a part (`part_scorer`) -> all are there -> commit (`scores.folder`)

Every picture listed gives exactly one row, in the order of the listing, also when it could not be read, and
whatever is killed on the way: the same command goes on with the parts that are missing. Through Ray pass
only numbers, in few large tasks: each task costs it about a tenth of a second.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from appliance import storage
from appliance.bulk.annotated import AnnotatedPictures, check_apart
from appliance.bulk.config import BatchScoringConfig
from appliance.bulk.inputs.listing import Listing
from appliance.bulk.inputs.opening import InputOptions, list_input
from appliance.bulk.job_start import Begin, Existing, GoOn, JobRequest, Nothing, start_job
from appliance.bulk.part_scorer import PartJob, PartOutcome, ScorerSettings
from appliance.bulk.scores.exports import EXPORT_NAMES, export_scores
from appliance.bulk.scores.folder import ScoresFolder, UnfinishedJob
from appliance.bulk.scores.manifest import open_dataset, read_manifest
from appliance.bulk.scores.ownership import owned
from appliance.bulk.scores.part_file import PartCounts
from appliance.bulk.summary import BatchSummary, summarize
from appliance.errors import ServiceError, StorageError
from appliance.on_ray import cluster
from appliance.on_ray.part_pool import WorkerPool, run_parts, size_pool
from appliance.on_ray.progress import ImageProgress

logger = logging.getLogger(__name__)

MIN_IMAGES_PER_PART = 16
MAX_IMAGES_PER_PART = 1024
PARTS_PER_WORKER = 8
"""So many parts a worker even out the end of a job and make its progress visible."""
MIN_IMAGES_PER_WORKER = 64
"""A worker takes seconds to start: for fewer pictures it is not worth it."""


@dataclass(frozen=True)
class _Scored:
    """All parts of a job in order, what became of those scored now, and how many workers were asked for."""

    parts: list[PartCounts]
    outcomes: list[PartOutcome]
    workers: int


def score_input(
    model_uri: str | os.PathLike[str],
    input_uri: str | os.PathLike[str],
    output_uri: str | os.PathLike[str],
    *,
    options: InputOptions = InputOptions(),
    config: BatchScoringConfig = BatchScoringConfig(),
    existing: Existing = "refuse",
    address: str | None = None,
) -> BatchSummary:
    """Scores all pictures of an input.

    Local paths are made absolute; on a cluster of several nodes they have to lie on a file system that
    all of them share.

    Args:
        model_uri: Model file.
        input_uri: Folder, prefix, pattern, picture, list, table, archive or video: see `list_input`.
        output_uri: Folder or prefix; see `scores.folder` for what lies in it afterwards. Where an
            interrupted run of the same job has left its parts there, this one goes on with the rest.
        options: What of the input is meant.
        config: How.
        existing: What becomes of an output that another job has finished there: see `start_job`.
        address: Cluster to join when this process is in none; see `cluster.connect`.

    Raises:
        StorageError: There are no pictures, or the output cannot be written, or is in use.
        ModelFileError: The model file is none.
        ConfigError, LabelError: A setting does not fit the model or the input.
        ServiceError: The cluster failed, or more pictures than allowed could not be read.
    """
    uri = storage.absolute(input_uri)
    return _score(
        model_uri,
        {"uri": uri, **asdict(options)},
        lambda: list_input(uri, options),
        output_uri,
        config,
        existing,
        address,
    )


def score_pictures(
    model_uri: str | os.PathLike[str],
    image_uris: Sequence[str],
    output_uri: str | os.PathLike[str],
    *,
    config: BatchScoringConfig = BatchScoringConfig(),
    existing: Existing = "refuse",
    address: str | None = None,
) -> BatchSummary:
    """Scores the pictures named, each of them once; arguments and errors as in `score_input`.

    Args:
        model_uri: Model file.
        image_uris: At least one; the rows stand in their order.
        output_uri: As in `score_input`.
        config: How.
        existing: As in `score_input`.
        address: As in `score_input`.
    """
    listing = Listing.of_files([storage.absolute(uri) for uri in image_uris])
    asked = {"uri": None, "listing_sha256": listing.sha256()}
    return _score(model_uri, asked, lambda: listing, output_uri, config, existing, address)


def _score(
    model_uri: str | os.PathLike[str],
    asked: Mapping[str, Any],
    list_pictures: Callable[[], Listing],
    output_uri: str | os.PathLike[str],
    config: BatchScoringConfig,
    existing: Existing,
    address: str | None,
) -> BatchSummary:
    started = time.perf_counter()
    folder = ScoresFolder(storage.absolute(output_uri))
    if config.annotated_uri is not None:
        check_apart(folder.uri, config.annotated_uri)
    request = JobRequest.of(storage.absolute(model_uri), asked, config)
    folder.prepare()
    try:
        with owned(folder.uri) as ownership:
            start = start_job(folder, request, list_pictures, existing)
            if isinstance(start, Nothing):
                summary = start.summary
            else:
                cluster.connect(address)
                job = (
                    start.job if isinstance(start, GoOn) else _begin(folder, start, request, config)
                )
                scored = _run(job, request, config)
                summary = _summary(folder, job, scored, started)
                ownership.check()
                job.decide(scored.parts, summary.to_json(), start.before)
                job.publish()
            _export(folder, config)
            return summary
    finally:
        folder.remove_if_empty()


def _begin(
    folder: ScoresFolder, start: Begin, request: JobRequest, config: BatchScoringConfig
) -> UnfinishedJob:
    images = len(start.listing)
    images_per_part = config.images_per_part or _images_per_part(images, _pool(images, config))
    return folder.begin(start.listing, images_per_part, **start.facts(request))


def _run(job: UnfinishedJob, request: JobRequest, config: BatchScoringConfig) -> _Scored:
    """Scores the parts that are missing.

    Raises:
        StorageError, ServiceError: As in `score_input`.
    """
    images, version = job.plan.images, request.model["version"]
    parts = {i: part for i, part in job.done().items() if part.model_version == version}
    before = sum(part.rows for part in parts.values())
    if before:
        logger.info("going on: %d of %d pictures have been scored before", before, images)
    pool = _pool(images - before, config)
    settings = _scorer_settings(job, config, pool, request)
    outcomes: list[PartOutcome] = []
    todo = _part_jobs(job, parts)
    try:
        with ImageProgress(images, config.progress, done=before) as progress:
            for outcome in run_parts(todo, settings, pool, stall_timeout_s=config.stall_timeout_s):
                _check_version(outcome.counts, version)
                outcomes.append(outcome)
                parts[outcome.counts.index] = outcome.counts
                progress.advance(outcome.counts.rows)
                _check_error_rate(parts.values(), images, config.max_error_rate, job)
        _check_complete(parts, job)
    except BaseException:
        if not parts and not job.done():
            job.discard()  # nothing is lost by it, and the output is as it was before
        raise
    return _Scored([parts[index] for index in range(job.plan.parts)], outcomes, pool.workers)


def _summary(
    folder: ScoresFolder, job: UnfinishedJob, scored: _Scored, started: float
) -> BatchSummary:
    wall_s = time.perf_counter() - started
    now_s = time.time()
    first_s = min((outcome.started_s for outcome in scored.outcomes), default=now_s)
    return summarize(
        scored.parts,
        scored.outcomes,
        output_uri=folder.uri,
        images=job.plan.images,
        repeated=job.plan.input["repeated"],
        model_name=job.plan.model["name"],
        model_version=job.plan.model["version"],
        workers=scored.workers,
        wall_s=round(wall_s, 3),
        start_up_s=round(wall_s - (now_s - first_s), 3),
    )


def _pool(images: int, config: BatchScoringConfig) -> WorkerPool:
    return size_pool(
        math.ceil(images / MIN_IMAGES_PER_WORKER),
        workers=config.workers,
        min_workers=config.min_workers,
        cpus_per_worker=config.cpus_per_worker,
        gpus_per_worker=config.gpus_per_worker,
    )


def _images_per_part(images: int, pool: WorkerPool) -> int:
    even = math.ceil(images / (pool.workers * PARTS_PER_WORKER))
    return min(max(even, MIN_IMAGES_PER_PART), MAX_IMAGES_PER_PART)


def _part_jobs(job: UnfinishedJob, done: Mapping[int, PartCounts]) -> list[PartJob]:
    plan = job.plan
    return [
        PartJob(
            index, job.listing_uri, plan.kind, job.part_uri(index), index * plan.images_per_part
        )
        for index in range(plan.parts)
        if index not in done
    ]


def _scorer_settings(
    job: UnfinishedJob, config: BatchScoringConfig, pool: WorkerPool, request: JobRequest
) -> ScorerSettings:
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


def _check_version(part: PartCounts, model_version: str) -> None:
    if part.model_version != model_version:
        raise StorageError(
            "The model file changed while the job ran",
            got=f"version {part.model_version}",
            expected=f"version {model_version}",
            hint="Run the job again with --overwrite, or put the model back and repeat the command",
        )


def _check_error_rate(
    parts: Iterable[PartCounts], images: int, max_error_rate: float, job: UnfinishedJob
) -> None:
    """Gives up as soon as it is certain that too many pictures cannot be read."""
    kinds: Counter[str] = Counter()
    examples: list[str] = []
    for part in parts:
        kinds.update(part.errors_by_kind)
        examples += [text for texts in part.error_examples.values() for text in texts]
    if kinds.total() > max_error_rate * images:
        job.discard()  # rows of errors must not outlive what made them
        raise ServiceError(
            "Too many pictures cannot be read",
            where=job.plan.input["uri"],
            got=", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            + f" of {images} so far; the first: {examples[0]}",
            expected=f"at most {max_error_rate:.1%} of them, by --max-error-rate",
            hint="See whether the input is what it should be",
        )


def _check_complete(parts: Mapping[int, PartCounts], job: UnfinishedJob) -> None:
    rows = {index: part.rows for index, part in parts.items()}
    if rows != {index: job.plan.rows_of(index) for index in range(job.plan.parts)}:
        raise ServiceError(
            "The scoring job lost parts",
            got=f"{len(parts)} parts",
            expected=f"{job.plan.parts}",
            hint="Run the same command again: it scores those that are missing",
        )


def _export(folder: ScoresFolder, config: BatchScoringConfig) -> None:
    for form in config.formats:
        labels = read_manifest(folder.uri).labels
        batches = open_dataset(folder.uri).to_batches()
        export_scores(batches, labels, storage.join(folder.uri, EXPORT_NAMES[form]), form)
