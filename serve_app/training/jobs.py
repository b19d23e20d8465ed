"""Trainings as jobs of the Ray cluster that this process is in: submitted, listed, followed, cancelled.

All of it is kept by Ray, so that every replica answers the same, and one that is replaced loses nothing. Ray's own
client blocks, so it works in threads; a dashboard that does not answer holds up nobody else.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from appliance import storage
from appliance.errors import ServiceError
from serve_app.errors import RequestError
from serve_app.training.answers import BY, ENDED, MARK, Training, training_of
from serve_app.training.requests import TrainRequest

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from serve_app.settings import ServiceSettings

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_TIMEOUT_S = 25.0
_MAX_COMMAND_BYTES = 100_000
"""Linux takes 131,072 for one word, which the whole line is to the shell that gets it."""
_STOP_TIMEOUT_S = 60
"""So long a cancelled training may take to save its last step; Ray would give it three seconds."""


def jobs_address() -> str | None:
    """`host:port` where the cluster of this process takes jobs; None where it has no dashboard."""
    import ray
    from ray._private.services import get_webui_url_from_internal_kv

    # Workers themselves take the usual port for granted, where there may be the dashboard of another cluster.
    return (get_webui_url_from_internal_kv() or None) if ray.is_initialized() else None


def require_jobs_api(settings: ServiceSettings) -> None:
    """Refuses a trainer on a cluster that cannot run one.

    Raises:
        ServiceError: It is switched on, and the cluster of this process takes no jobs.
    """
    if settings.trainer and jobs_address() is None:
        raise ServiceError(
            "This cluster takes no jobs, so nothing can be trained on it",
            hint="Start it with its dashboard, as `ray start --head` does",
        )


class TrainingJobs:
    """The trainings of a cluster.

    Args:
        folder: Where each of them gets a folder of its own: a shared disk or an object store.
        registry: Address of the registry that they add their models to.
    """

    def __init__(self, folder: str, registry: str) -> None:
        self._folder = folder
        self._registry = registry

    async def submit(self, request: TrainRequest, by: str) -> Training:
        """Begins a training.

        Args:
            request: What to do.
            by: Name of the key that asks for it.

        Raises:
            RequestError: 413, its command line is too long; 503, the cluster does not take it.
        """
        training_id = (
            f"train-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
        )
        folder = storage.join(self._folder, training_id)
        command = request.command_line(
            run_dir=storage.join(folder, "run"),
            out=storage.join(folder, "model.safetensors"),
            registry=self._registry,
        )
        if len(command.encode()) > _MAX_COMMAND_BYTES:
            raise RequestError(
                413, "too_many_settings", "The settings are too long", hint="Leave some of them out"
            )
        metadata = {MARK: request.model_dump_json(by_alias=True, exclude_defaults=True), BY: by}

        def begin(client: JobSubmissionClient) -> Training:
            client.submit_job(
                entrypoint=command,
                submission_id=training_id,
                metadata=metadata,
                runtime_env={"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_TIMEOUT_S)}},
            )
            return found_training(client, training_id)

        training = await _asked(begin)
        logger.info("%s has begun %s for the model %s", by, training_id, request.model)
        return training

    async def list(self) -> list[Training]:
        """All of them, the newest first.

        Raises:
            RequestError: 503, the cluster does not answer.
        """
        jobs = await _asked(lambda client: client.list_jobs())
        jobs.sort(key=lambda job: job.start_time or 0, reverse=True)
        return [training for job in jobs if (training := training_of(job)) is not None]

    async def get(self, training_id: str) -> Training:
        """One of them, with what its log tells.

        Raises:
            RequestError: 404, there is none; 503, the cluster does not answer.
        """
        return await _asked(lambda client: found_training(client, training_id, with_log=True))

    async def log(self, training_id: str) -> tuple[str, bool]:
        """All that a training has written, and whether that was all.

        Raises:
            RequestError: As `get`.
        """

        def read(client: JobSubmissionClient) -> tuple[str, bool]:
            # In this order: what was written before it ended is in the log that is read afterwards.
            has_ended = found_training(client, training_id).status in ENDED
            return client.get_job_logs(training_id) or "", has_ended

        return await _asked(read)

    async def cancel(self, training_id: str) -> Training:
        """Ends a training; one that has ended stays as it is.

        Raises:
            RequestError: As `get`.
        """

        def stop(client: JobSubmissionClient) -> Training:
            if found_training(client, training_id).status not in ENDED:
                client.stop_job(training_id)
            return found_training(client, training_id)

        return await _asked(stop)


def found_training(
    client: JobSubmissionClient, training_id: str, *, with_log: bool = False
) -> Training:
    """One training.

    Raises:
        RequestError: 404, there is none.
        RuntimeError: Ray does not tell.
    """
    missing = RequestError(
        404,
        "no_such_training",
        f"There is no training of this name: {training_id[:80]}",
        hint="GET /v1/train lists them; they are forgotten with the cluster",
    )
    if not training_id.startswith("train-"):
        raise missing
    try:
        job = client.get_job_info(training_id)
    except RuntimeError as error:
        if "status code 404" in str(error):
            raise missing from None
        raise
    training = training_of(job)
    if training is None:
        raise missing
    if with_log:
        return training_of(job, client.get_job_logs(training_id)) or training
    return training


async def _asked(question: Callable[[JobSubmissionClient], Result]) -> Result:
    """What Ray's client answers.

    Raises:
        RequestError: 503, it does not, or cannot.
    """
    try:
        return await asyncio.wait_for(asyncio.to_thread(lambda: question(job_client())), _TIMEOUT_S)
    except RequestError:
        raise
    except Exception as error:  # of what Ray raises there is no list
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RequestError(
            503,
            "cluster_unavailable",
            f"The cluster does not answer about trainings: {lines[-1][:300]}",
            hint="Look at its dashboard, or at `ray status`",
            headers={"Retry-After": "2"},
        ) from error


def job_client() -> JobSubmissionClient:
    """Ray's client for the cluster of this process.

    Raises:
        RequestError: 503, it takes no jobs.
    """
    from ray.job_submission import JobSubmissionClient

    address = jobs_address()
    if address is None:
        raise RequestError(
            503,
            "no_jobs_api",
            "The cluster of this service takes no jobs, so nothing can be trained on it",
            hint="Start it with its dashboard, as `ray start --head` does",
        )
    return JobSubmissionClient(f"http://{address}")
