"""The counts of one replica, in the words of those who count."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from serve_app.telemetry.counts import Key, SharedCounts
from serve_app.telemetry.families import (
    BATCH_SIZE,
    DETECTIONS,
    DROPPED_FRAMES,
    ERRORS,
    METHODS,
    MODEL_INFO,
    OTHER,
    PICTURES,
    QUEUE_DEPTH,
    RATE_LIMITED,
    RECEIVED_BYTES,
    REQUEST_SECONDS,
    REQUESTS,
    REQUESTS_IN_WORK,
    SENT_BYTES,
    STAGE_SECONDS,
    START_TIME,
)

_FIRST_ERROR = 400


class Metrics:
    """The counts of one replica. Safe for threads.

    Args:
        folder: Where the replicas of the service on this machine meet (`counts.SharedCounts`).
        replica: A name of this one that no other has.
    """

    def __init__(self, folder: Path | None = None, *, replica: str = "0") -> None:
        self.counts = SharedCounts(folder)
        self.replica = replica
        self.queue_depth: Callable[[], int] = lambda: 0
        self.counts.set_gauge((START_TIME.name, replica), time.time())
        self._in_work: Key = (REQUESTS_IN_WORK.name, replica)
        self._queue: Key = (QUEUE_DEPTH.name, replica)

    def close(self) -> None:
        """Leaves the counts to the other replicas."""
        self.counts.close()

    def request_started(self) -> None:
        """A request has come in, or a WebSocket."""
        self.counts.add_to_gauge(self._in_work, 1)

    def request_ended(
        self,
        *,
        method: str,
        route: str,
        status: int,
        error_code: str | None,
        seconds: float,
        stages: Mapping[str, float],
        received_bytes: int,
        sent_bytes: int,
    ) -> None:
        """Counts a request when all of its answer has been sent, or nobody waits for it any more.

        Args:
            method: Of HTTP, or WEBSOCKET.
            route: Template of the route.
            status: Of the answer; 499 when nobody waited for it.
            error_code: Of the error answer, or of what ended the answer early.
            seconds: How long it took.
            stages: Where that time went, as for `observe_stages`.
            received_bytes: Of its body or frames.
            sent_bytes: Of the answer.
        """
        counted: list[tuple[Key, float]] = [
            ((REQUESTS.name, method if method in METHODS else OTHER, route, str(status)), 1.0),
            ((RECEIVED_BYTES.name, route), received_bytes),
            ((SENT_BYTES.name, route), sent_bytes),
            *_observed_stages(stages),
        ]
        if error_code is not None or status >= _FIRST_ERROR:  # a stream may fail after its 200
            counted.append(((ERRORS.name, route, error_code or f"status_{status}"), 1.0))
        if method != "WEBSOCKET":
            counted += REQUEST_SECONDS.observed((route,), seconds)
        self.counts.add_all(counted)
        self.counts.add_to_gauge(self._in_work, -1)
        self.note_queue_depth()

    def count_error(self, route: str, code: str) -> None:
        """Counts the error of one picture of several."""
        self.counts.add((ERRORS.name, route, code))

    def observe_stages(self, seconds: Mapping[str, float]) -> None:
        """Notes where the time of one picture of a stream went; 0 is a stage left out."""
        self.counts.add_all(_observed_stages(seconds))

    def observe_batch(self, model: str, size: int) -> None:
        """Notes how many pictures a model took at once."""
        self.counts.add_all(BATCH_SIZE.observed((model,), size))
        self.note_queue_depth()

    def count_picture(self, model: str, version: str, labels: Iterable[str]) -> None:
        """Counts a picture that was scored, and the labels of what was answered."""
        found = [((DETECTIONS.name, model, label), 1.0) for label in labels]
        self.counts.add_all([((PICTURES.name, model, version), 1.0), *found])

    def count_dropped_frames(self, frames: int) -> None:
        """Counts frames of a stream that were left out."""
        self.counts.add((DROPPED_FRAMES.name,), frames)

    def count_rate_limited(self, key_name: str) -> None:
        """Counts a request that the rate limit of its key refused."""
        self.counts.add((RATE_LIMITED.name, key_name))

    def model_loaded(self, model: str, version: str) -> None:
        """Tells which model this replica has in memory."""
        self.counts.set_gauge((MODEL_INFO.name, model, version), 1)

    def model_given_up(self, model: str, version: str) -> None:
        """Tells that it has it no more."""
        self.counts.set_gauge((MODEL_INFO.name, model, version), 0)

    def note_queue_depth(self) -> None:
        """Looks how many pictures wait; called whenever that may have changed."""
        self.counts.set_gauge(self._queue, self.queue_depth())


def _observed_stages(seconds: Mapping[str, float]) -> list[tuple[Key, float]]:
    counted: list[tuple[Key, float]] = []
    for stage, stage_s in seconds.items():
        if stage_s > 0:
            counted += STAGE_SECONDS.observed((stage,), stage_s)
    return counted
