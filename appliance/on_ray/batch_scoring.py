"""Scores every picture of a folder, bucket, list, table, archive or video into Parquet, with Ray Data.

The path of a job:

    list pictures -> cut the listing into parts -> Ray Data runs them on workers (`job_run`), which
    decode, infer and write one file a part (`part_scorer`) -> all are there -> commit (`scores.folder`)

Every picture listed gives exactly one row, in the order of the listing, also when it could not be read, and
whatever is killed on the way: the same command goes on with the parts that are missing. Through Ray pass
only numbers, in few large tasks: each costs some 30 ms, a third of them in the one process that hands them out
(`python -m benchmarks.scaling --only tasks`).
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from appliance import storage
from appliance.bulk.annotated import check_apart
from appliance.bulk.config import BatchScoringConfig
from appliance.bulk.inputs.listing import Listing
from appliance.bulk.inputs.opening import InputOptions, list_input
from appliance.bulk.job_start import Begin, Existing, GoOn, JobRequest, Nothing, start_job
from appliance.bulk.scores.exports import EXPORT_NAMES, export_scores
from appliance.bulk.scores.folder import ScoresFolder, UnfinishedJob
from appliance.bulk.scores.manifest import open_dataset, read_manifest
from appliance.bulk.summary import BatchSummary, summarize
from appliance.images.gpu_jpeg import GpuJpegDecoder
from appliance.model.device import resolve_device
from appliance.on_ray import cluster
from appliance.on_ray.job_run import (
    Scored,
    error_counts,
    error_rate_error,
    pool_for,
    run_job,
)
from appliance.on_ray.part_pool import WorkerPool
from appliance.storage import folders
from appliance.storage.ownership import owned

logger = logging.getLogger(__name__)

MIN_IMAGES_PER_PART = 16
MAX_IMAGES_PER_PART = 1024
PARTS_PER_WORKER = 8
"""So many parts a worker even out the end of a job and make its progress visible."""


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
    if config.gpu_jpeg:
        _check_gpu_jpeg(config, address)
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
                _check_finished(summary, config)
                _tell_if_undrawn(config)
            else:
                cluster.connect(address)
                job = (
                    start.job if isinstance(start, GoOn) else _begin(folder, start, request, config)
                )
                scored = run_job(job, request, config)
                summary = _summary(folder, job, scored, started)
                ownership.check()
                job.decide(scored.parts, summary.to_json(), start.before)
                job.publish()
            _export(folder, config)
            return summary
    finally:
        folder.remove_if_empty()


def _check_gpu_jpeg(config: BatchScoringConfig, address: str | None) -> None:
    """Refuses now what workers would refuse; of a cluster that is joined only they know."""
    has_gpus = config.gpus_per_worker != 0
    if not has_gpus or not cluster.joins_a_cluster(address):
        GpuJpegDecoder.beside(resolve_device("auto" if has_gpus else "cpu"))


def _check_finished(summary: BatchSummary, config: BatchScoringConfig) -> None:
    """Refuses finished scores that a job with this limit would not have finished; they stay."""
    if summary.errors > config.max_error_rate * summary.images:
        raise error_rate_error(
            summary.output_uri,
            f"{error_counts(summary.errors_by_kind)} of {summary.images}, scored before without this limit",
            config.max_error_rate,
            hint="These scores stay as they are; raise the limit, or mend the input and use --overwrite",
        )


def _tell_if_undrawn(config: BatchScoringConfig) -> None:
    """Says that nothing is drawn where all is scored already; a job that was begun with it has drawn."""
    uri = config.annotated_uri
    if uri is not None and not folders.entries(storage.absolute(uri)):
        logger.warning(
            "no pictures are drawn into %s: that is done while scoring, "
            "which `--overwrite` begins anew",
            uri,
        )


def _begin(
    folder: ScoresFolder, start: Begin, request: JobRequest, config: BatchScoringConfig
) -> UnfinishedJob:
    images = len(start.listing)
    images_per_part = config.images_per_part or _images_per_part(images, pool_for(images, config))
    return folder.begin(start.listing, images_per_part, **start.facts(request))


def _summary(
    folder: ScoresFolder, job: UnfinishedJob, scored: Scored, started: float
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


def _images_per_part(images: int, pool: WorkerPool) -> int:
    even = math.ceil(images / (pool.workers * PARTS_PER_WORKER))
    return min(max(even, MIN_IMAGES_PER_PART), MAX_IMAGES_PER_PART)


def _export(folder: ScoresFolder, config: BatchScoringConfig) -> None:
    for form in config.formats:
        labels = read_manifest(folder.uri).labels
        batches = open_dataset(folder.uri).to_batches()
        export_scores(batches, labels, storage.join(folder.uri, EXPORT_NAMES[form]), form)
