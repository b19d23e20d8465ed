"""What there is to tell of a training: from what Ray knows of a job, and from what the job has written."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["pending", "running", "succeeded", "failed", "cancelled"]
ENDED: frozenset[Status] = frozenset({"succeeded", "failed", "cancelled"})
MARK = "appliance-training"
"""The metadata by which a job of Ray is told to be a training: the request, as JSON."""
BY = "appliance-key"

_STATUS: dict[str, Status] = {
    "PENDING": "pending",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "cancelled",
}
_ERROR = "error: "
_MAX_CHARACTERS = 1000


class Training(BaseModel):
    """One training, as far as it is."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(examples=["train-20261128-181500-3f9a2c"])
    status: Status
    by: str = Field(description="Name of the key that asked for it.")
    request: dict[str, Any] = Field(description="As it was asked for.")
    started_at: str | None = Field(description="ISO time, UTC.")
    ended_at: str | None
    says: str | None = Field(
        None,
        description="The last line of its log: the step, or that the cluster has no room for it yet; only where one "
        "training is asked for.",
    )
    error: str | None = Field(None, description="The sentence with which it failed.")
    registered: str | None = Field(None, description="The new version, such as fridge:8; likewise.")
    promotion: dict[str, Any] | None = Field(
        None, description="Whether the new version was promoted, and both figures; likewise."
    )


class TrainingsAnswer(BaseModel):
    """All trainings that the cluster remembers, the newest first."""

    trainings: list[Training]


def training_of(job: Any, log: str | None = None) -> Training | None:
    """What a job of Ray tells of a training; None where it is another one's.

    Args:
        job: Ray's `JobDetails`.
        log: All that it has written, where that is known.
    """
    metadata = job.metadata or {}
    if job.submission_id is None or MARK not in metadata:
        return None
    status = _STATUS[str(job.status.value)]
    lines = [line for line in (log or "").splitlines() if line.strip()]
    document = _document(lines[-1]) if lines and status == "succeeded" else {}
    said = next((line for line in reversed(lines) if not _document(line)), None)
    return Training(
        id=job.submission_id,
        status=status,
        by=metadata.get(BY, ""),
        request=json.loads(metadata[MARK]),
        started_at=_time(job.start_time),
        ended_at=_time(job.end_time),
        says=said and said[:_MAX_CHARACTERS],
        error=_reason(lines, job.message) if status == "failed" else None,
        registered=document.get("registered"),
        promotion=document.get("promotion"),
    )


def _document(line: str) -> dict[str, Any]:
    """The result of a job, which is the last line that it writes."""
    try:
        value = json.loads(line) if line.startswith("{") else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _reason(lines: list[str], message: str | None) -> str:
    """The job's own sentence; of one that died without a word, what Ray says."""
    # Ray puts the end of the log into its message.
    texts = lines or (message or "").splitlines()
    ours = [line.removeprefix(_ERROR) for line in texts if line.startswith(_ERROR)]
    others = (message or "").splitlines() or ["no reason is known"]
    return (ours[-1] if ours else others[0])[:_MAX_CHARACTERS]


def _time(milliseconds: int | None) -> str | None:
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
