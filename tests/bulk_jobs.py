"""Batch jobs without a cluster: what workers would do, done in this process."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from appliance.bulk.config import BatchScoringConfig
from appliance.bulk.inputs.listing import Listing
from appliance.bulk.job_start import Begin, Existing, GoOn, JobRequest, Nothing, start_job
from appliance.bulk.part_scorer import PartScorer
from appliance.bulk.scores.folder import ScoresFolder, UnfinishedJob
from appliance.bulk.summary import BatchSummary, summarize
from appliance.on_ray import job_run
from appliance.on_ray.part_pool import WorkerPool


def begin_here(
    model: object,
    listing: Listing,
    output: object,
    *,
    images_per_part: int = 2,
    config: BatchScoringConfig = BatchScoringConfig(),
    existing: Existing = "refuse",
) -> tuple[JobRequest, Begin | GoOn | Nothing, UnfinishedJob | None]:
    """Starts a job as the command does; there is none where nothing is left to do."""
    folder = ScoresFolder(str(output))
    folder.prepare()
    request = JobRequest.of(str(model), {"uri": "pictures"}, config)
    start = start_job(folder, request, lambda: listing, existing)
    if isinstance(start, Nothing):
        return request, start, None
    if isinstance(start, GoOn):
        return request, start, start.job
    return request, start, folder.begin(start.listing, images_per_part, **start.facts(request))


def score_parts(
    job: UnfinishedJob,
    request: JobRequest,
    config: BatchScoringConfig = BatchScoringConfig(),
    only: Sequence[int] | None = None,
) -> None:
    """Scores the parts that are missing, or only some of them."""
    threads = torch.get_num_threads()
    settings = job_run.scorer_settings(job, config, WorkerPool(1, 1, 0), request)
    scorer = PartScorer(settings)
    for part in job_run.part_jobs(job, job.done()):
        if only is None or part.index in only:
            scorer.score_part(part)
    torch.set_num_threads(threads)


def score_here(
    model: object,
    listing: Listing,
    output: object,
    *,
    config: BatchScoringConfig = BatchScoringConfig(),
    existing: Existing = "refuse",
) -> BatchSummary:
    """A whole job."""
    request, start, job = begin_here(model, listing, output, config=config, existing=existing)
    if job is None:
        return start.summary
    score_parts(job, request, config)
    parts = list(dict(sorted(job.done().items())).values())
    summary = summarize(
        parts,
        (),
        output_uri=str(output),
        images=job.plan.images,
        repeated=0,
        model_name=request.model["name"],
        model_version=request.model["version"],
        workers=1,
        wall_s=1.0,
        start_up_s=0.0,
    )
    job.decide(parts, summary.to_json(), start.before)
    job.publish()
    return summary
