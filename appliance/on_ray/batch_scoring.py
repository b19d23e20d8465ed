"""Scores every picture of a folder or bucket into Parquet, with Ray Data.

The path of a job:

    list pictures -> cut the listing into parts -> Ray Data runs them on workers (`part_pool`), which
    decode, infer and write one file a part (`part_scorer`) -> all are there -> commit (`scores_folder`)

Every picture listed gives exactly one row, in the order of the listing, also when it could not be read.
Through Ray pass only names and counts, in few large tasks: each task costs it about a tenth of a second.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from appliance import storage
from appliance.errors import ConfigError, ServiceError, StorageError
from appliance.images.decoding import EXTENSIONS, ImageLimits
from appliance.model import model_file
from appliance.on_ray import cluster
from appliance.on_ray.part_pool import WorkerPool, run_parts, size_pool
from appliance.on_ray.part_scorer import PartJob, PartOutcome, ScorerSettings
from appliance.on_ray.progress import ImageProgress, ProgressStyle
from appliance.on_ray.scores_folder import PARTS, Manifest, Part, ScoresFolder

MIN_IMAGES_PER_PART = 16
MAX_IMAGES_PER_PART = 1024
PARTS_PER_WORKER = 8
"""So many parts a worker even out the end of a job and make its progress visible."""
MIN_IMAGES_PER_WORKER = 64
"""A worker takes seconds to start: for fewer pictures it is not worth it."""


@dataclass(frozen=True)
class BatchScoringConfig:
    """How to score.

    Attributes:
        workers: Processes that score; by default what the CPUs, or the GPUs, of the cluster allow.
        cpus_per_worker: CPUs of each; by default 1, or a GPU's share of them, at most 8.
        gpus_per_worker: GPUs of each, also fractions; by default 1 where the cluster has any.
        batch_size: Pictures handed to the network at once.
        images_per_part: Pictures of one Parquet file; by default 16 to 1024, by the size of the job.
        score_threshold: Overrides the model's own, 0..1.
        max_detections: Overrides the model's own.
        max_image_bytes: Larger files get an error row.
        max_image_pixels: So do larger pictures.
        gpu_jpeg: Decode JPEGs on the GPUs that score; needs the extra of that name on every node.
        stall_timeout_s: Give up when no part was finished for so long: the cluster has no room for a
            single worker, or a worker hangs.
        progress: "bar", "log" (a line each ten seconds), "off", or "auto": a bar on a terminal.

    Raises:
        ConfigError: A value is out of range.
    """

    workers: int | None = None
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None
    batch_size: int = 8
    images_per_part: int | None = None
    score_threshold: float | None = None
    max_detections: int | None = None
    max_image_bytes: int = ImageLimits.max_bytes
    max_image_pixels: int = ImageLimits.max_pixels
    gpu_jpeg: bool = False
    stall_timeout_s: float = 1800.0
    progress: ProgressStyle = "auto"

    def __post_init__(self) -> None:
        for name in (
            "workers",
            "cpus_per_worker",
            "batch_size",
            "images_per_part",
            "max_image_bytes",
            "max_image_pixels",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is wrong", got=value, expected="at least 1")
        if self.gpus_per_worker is not None and self.gpus_per_worker < 0:
            raise ConfigError("gpus_per_worker is wrong", got=self.gpus_per_worker, expected=">= 0")


@dataclass(frozen=True)
class BatchSummary:
    """What a job did.

    Attributes:
        output_uri: Where the scores are.
        images: Pictures listed.
        rows: Records written; equal to `images`.
        errors_by_kind: Word -> pictures that could not be read.
        objects_per_label: Label -> detections.
        model_name: As in the records.
        model_version: As in the records.
        workers: Processes that were asked for.
        wall_s: Seconds from the call to the commit.
        start_up_s: Seconds of these before the first picture: cluster, processes, model.
        images_per_s: Pictures by the time from the first picture to the last.
    """

    output_uri: str
    images: int
    rows: int
    errors_by_kind: dict[str, int]
    objects_per_label: dict[str, int]
    model_name: str
    model_version: str
    workers: int
    wall_s: float
    start_up_s: float
    images_per_s: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `_summary.json` and the last line of a job."""
        return asdict(self)


def score_folder(
    model_uri: str | os.PathLike[str],
    input_uri: str | os.PathLike[str],
    output_uri: str | os.PathLike[str],
    *,
    config: BatchScoringConfig = BatchScoringConfig(),
    overwrite: bool = False,
    address: str | None = None,
) -> BatchSummary:
    """Scores all pictures below a folder or prefix.

    Local paths are made absolute; on a cluster of several nodes they have to lie on a file system that
    all of them share.

    Args:
        model_uri: Model file.
        input_uri: Folder or prefix, searched to any depth.
        output_uri: New or empty folder; see `scores_folder` for what lies in it afterwards.
        config: How.
        overwrite: Whether an earlier job's output may be replaced once this job has succeeded.
        address: Cluster to join when this process is in none; see `cluster.connect`.

    Raises:
        StorageError: No such folder, no pictures in it, or the output cannot be written.
        ModelFileError: The model file is none.
        ConfigError: A setting does not fit the model.
        ServiceError: The cluster failed.
    """
    image_uris = storage.list_files(storage.absolute(input_uri), EXTENSIONS)
    if not image_uris:
        raise StorageError(
            "No pictures in the folder",
            where=storage.absolute(input_uri),
            expected=f"files in {' '.join(EXTENSIONS)}",
            hint="Check the path, and the endings of the names",
        )
    return score_pictures(
        model_uri,
        image_uris,
        output_uri,
        input_uri=input_uri,
        config=config,
        overwrite=overwrite,
        address=address,
    )


def score_pictures(
    model_uri: str | os.PathLike[str],
    image_uris: Sequence[str],
    output_uri: str | os.PathLike[str],
    *,
    input_uri: str | os.PathLike[str] | None = None,
    config: BatchScoringConfig = BatchScoringConfig(),
    overwrite: bool = False,
    address: str | None = None,
) -> BatchSummary:
    """Scores the pictures named; errors as in `score_folder`.

    Args:
        model_uri: Model file.
        image_uris: At least one; the rows stand in their order.
        output_uri: As in `score_folder`.
        input_uri: The folder they came from, for the manifest; None if there is none.
        config: How.
        overwrite: As in `score_folder`.
        address: As in `score_folder`.
    """
    started = time.perf_counter()
    started_s = time.time()
    model_uri, output_uri = storage.absolute(model_uri), storage.absolute(output_uri)
    input_uri = None if input_uri is None else storage.absolute(input_uri)
    model = _describe_model(model_uri, config)
    output = ScoresFolder.create(output_uri, overwrite=overwrite)
    try:
        cluster.connect(address)
        pool = size_pool(
            math.ceil(len(image_uris) / MIN_IMAGES_PER_WORKER),
            workers=config.workers,
            cpus_per_worker=config.cpus_per_worker,
            gpus_per_worker=config.gpus_per_worker,
        )
        jobs = _cut(image_uris, pool, config, output)
        settings = _scorer_settings(model_uri, config, pool)
        outcomes = []
        with ImageProgress(len(image_uris), config.progress) as progress:
            for outcome in run_parts(jobs, settings, pool, stall_timeout_s=config.stall_timeout_s):
                outcomes.append(outcome)
                progress.advance(outcome.rows)
        outcomes.sort(key=lambda outcome: outcome.index)
        _check_complete(outcomes, jobs, model["version"])
        first_s = min(outcome.started_s for outcome in outcomes)
        last_s = max(outcome.finished_s for outcome in outcomes)
        summary = BatchSummary(
            output_uri=output_uri,
            images=len(image_uris),
            rows=sum(outcome.rows for outcome in outcomes),
            errors_by_kind=_total(outcome.errors_by_kind for outcome in outcomes),
            objects_per_label=_total(outcome.objects_per_label for outcome in outcomes),
            model_name=model["name"],
            model_version=model["version"],
            workers=pool.workers,
            wall_s=round(time.perf_counter() - started, 3),
            start_up_s=round(first_s - started_s, 3),
            images_per_s=round(len(image_uris) / max(last_s - first_s, 1e-9), 3),
        )
        output.commit(
            _manifest(output, outcomes, model, input_uri, image_uris, config), summary.to_json()
        )
    finally:
        output.discard()
    return summary


def _describe_model(model_uri: str, config: BatchScoringConfig) -> dict[str, Any]:
    """What the manifest says of the model; also the proof that workers will be able to use it."""
    loaded = model_file.load(model_uri)
    loaded.spec.with_settings(
        score_threshold=config.score_threshold, max_detections=config.max_detections
    )
    sha256 = hashlib.sha256(storage.read_bytes(model_uri)).hexdigest()
    return {
        "uri": model_uri,
        "name": loaded.name,
        "version": loaded.version,
        "sha256": sha256,
        "labels": list(loaded.spec.label_map.names),
    }


def _cut(
    image_uris: Sequence[str], pool: WorkerPool, config: BatchScoringConfig, output: ScoresFolder
) -> list[PartJob]:
    size = config.images_per_part
    if size is None:
        even = math.ceil(len(image_uris) / (pool.workers * PARTS_PER_WORKER))
        size = min(max(even, MIN_IMAGES_PER_PART), MAX_IMAGES_PER_PART)
    starts = range(0, len(image_uris), size)
    return [
        PartJob(index, tuple(image_uris[start : start + size]), output.part_uri(index))
        for index, start in enumerate(starts)
    ]


def _scorer_settings(
    model_uri: str, config: BatchScoringConfig, pool: WorkerPool
) -> ScorerSettings:
    return ScorerSettings(
        model_uri,
        ImageLimits(config.max_image_bytes, config.max_image_pixels),
        device="auto" if pool.gpus else "cpu",
        threads=pool.cpus,
        batch_size=config.batch_size,
        score_threshold=config.score_threshold,
        max_detections=config.max_detections,
        gpu_jpeg=config.gpu_jpeg,
    )


def _check_complete(
    outcomes: Sequence[PartOutcome], jobs: Sequence[PartJob], model_version: str
) -> None:
    done = [(outcome.index, outcome.rows) for outcome in outcomes]
    if done != [(job.index, len(job.image_uris)) for job in jobs]:
        raise ServiceError(
            "The scoring job lost parts", got=f"{len(done)} parts", expected=f"{len(jobs)}"
        )
    versions = {outcome.model_version for outcome in outcomes}
    if versions != {model_version}:
        raise StorageError(
            "The model file changed while the job ran",
            got=f"versions {', '.join(sorted(versions | {model_version}))}",
            hint="Run the job again",
        )


def _manifest(
    output: ScoresFolder,
    outcomes: Sequence[PartOutcome],
    model: Mapping[str, Any],
    input_uri: str | None,
    image_uris: Sequence[str],
    config: BatchScoringConfig,
) -> Manifest:
    parts = tuple(
        Part(f"{PARTS}/{output.part_name(outcome.index)}", outcome.rows, outcome.size_bytes)
        for outcome in outcomes
    )
    listing_sha256 = hashlib.sha256("\n".join(image_uris).encode()).hexdigest()
    return Manifest(
        run_id=output.run_id,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        rows=sum(part.rows for part in parts),
        parts=parts,
        model=model,
        input={"uri": input_uri, "images": len(image_uris), "listing_sha256": listing_sha256},
        settings=asdict(config),
    )


def _total(counters: Iterable[Counter[str]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return dict(sorted(total.items()))
