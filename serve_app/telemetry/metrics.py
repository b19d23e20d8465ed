"""What a service counts, and how Prometheus reads it.

Every number has its line in `FAMILIES`. Labels take few values: routes are templates, whatever the client
sends, and `replica` stands only where a sum says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from serve_app.telemetry.counts import Key, SharedCounts

OTHER = "other"
"""The label of what has no name of ours, such as paths that lead nowhere."""

_FIRST_ERROR = 400
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PICTURES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET", "GRPC"}
)


@dataclass(frozen=True)
class Family:
    """One metric: what it is called, what it means, and by which labels it is told apart.

    Attributes:
        buckets: Upper ends; those of a histogram only.
        is_gauge: Whether it may fall, and ends with its process.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    is_gauge: bool = False


REQUESTS = Family(
    "appliance_requests_total",
    "Requests answered, by HTTP status; 499 is a client that hung up, 101 a WebSocket.",
    ("method", "route", "status"),
)
ERRORS = Family(
    "appliance_errors_total",
    "Failures by the code of the error answer; of several pictures in a request, each by itself.",
    ("route", "code"),
)
REQUEST_SECONDS = Family(
    "appliance_request_duration_seconds",
    "From the first byte of a request to the last of its answer; WebSockets left out.",
    ("route",),
    _SECONDS,
)
STAGE_SECONDS = Family(
    "appliance_stage_duration_seconds",
    "Where the time of scoring requests goes.",
    ("stage",),
    _SECONDS,
)
RECEIVED_BYTES = Family("appliance_received_bytes_total", "Bytes of bodies and frames.", ("route",))
SENT_BYTES = Family("appliance_sent_bytes_total", "Bytes of answers.", ("route",))
BATCH_SIZE = Family(
    "appliance_batch_size_pictures", "Pictures the model took at once.", ("model",), _PICTURES
)
PICTURES = Family("appliance_pictures_total", "Pictures scored.", ("model", "version"))
DETECTIONS = Family("appliance_detections_total", "Objects answered.", ("model", "label"))
DROPPED_FRAMES = Family(
    "appliance_dropped_frames_total", "Frames of streams that gave way to newer ones."
)
RATE_LIMITED = Family(
    "appliance_rate_limited_total",
    "Requests refused because their key had sent too many.",
    ("key",),
)
QUEUE_DEPTH = Family(
    "appliance_queue_depth_pictures",
    "Pictures that are being decoded or wait for the model.",
    ("replica",),
    is_gauge=True,
)
REQUESTS_IN_WORK = Family(
    "appliance_requests_in_progress",
    "Requests a replica has not finished, waiting ones among them.",
    ("replica",),
    is_gauge=True,
)
MODEL_INFO = Family(
    "appliance_model_replicas",
    "Replicas that have the model in memory, by version.",
    ("model", "version"),
    is_gauge=True,
)
START_TIME = Family(
    "appliance_replica_start_time_seconds",
    "When the replica started, in seconds since 1970.",
    ("replica",),
    is_gauge=True,
)
FAMILIES = (
    REQUESTS,
    ERRORS,
    REQUEST_SECONDS,
    STAGE_SECONDS,
    RECEIVED_BYTES,
    SENT_BYTES,
    BATCH_SIZE,
    PICTURES,
    DETECTIONS,
    DROPPED_FRAMES,
    RATE_LIMITED,
    QUEUE_DEPTH,
    REQUESTS_IN_WORK,
    MODEL_INFO,
    START_TIME,
)


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
        self.note_queue_depth()

    def request_ended(
        self,
        *,
        method: str,
        route: str,
        status: int,
        error_code: str | None,
        seconds: float,
        received_bytes: int,
        sent_bytes: int,
    ) -> None:
        """Counts a request when all of its answer has been sent, or nobody waits for it any more."""
        counts = self.counts
        method = method if method in _METHODS else OTHER
        counts.add_to_gauge(self._in_work, -1)
        counts.add((REQUESTS.name, method, route, str(status)))
        counts.add((RECEIVED_BYTES.name, route), received_bytes)
        counts.add((SENT_BYTES.name, route), sent_bytes)
        if error_code is not None or status >= _FIRST_ERROR:  # a stream may fail after its 200
            self.count_error(route, error_code or f"status_{status}")
        if method != "WEBSOCKET":
            self._observe(REQUEST_SECONDS, (route,), seconds)
        self.note_queue_depth()

    def count_error(self, route: str, code: str) -> None:
        """Counts an error answer, or the error of one picture of several."""
        self.counts.add((ERRORS.name, route, code))

    def observe_stages(self, seconds: Mapping[str, float]) -> None:
        """Notes where the time of a request went, or of one picture of a stream; 0 is a stage left out."""
        for stage, stage_s in seconds.items():
            if stage_s > 0:
                self._observe(STAGE_SECONDS, (stage,), stage_s)

    def observe_batch(self, model: str, size: int) -> None:
        """Notes how many pictures a model took at once."""
        self._observe(BATCH_SIZE, (model,), size)
        self.note_queue_depth()

    def count_picture(self, model: str, version: str, labels: Iterable[str]) -> None:
        """Counts a picture that was scored, and the labels of what was answered."""
        self.counts.add((PICTURES.name, model, version))
        for label in labels:
            self.counts.add((DETECTIONS.name, model, label))

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

    def _observe(self, family: Family, labels: Key, value: float) -> None:
        bucket = next((str(upper) for upper in family.buckets if value <= upper), "inf")
        self.counts.add((family.name, *labels, bucket))
        self.counts.add((family.name, *labels, "sum"), value)


def render(
    totals_by_node: Mapping[str, Mapping[Key, float]], accept: str | None = None
) -> tuple[bytes, str]:
    """The page that Prometheus reads.

    Args:
        totals_by_node: What `SharedCounts.totals` gave on each machine. Machines are told apart by the
            label `node`, since a sum that falls when one leaves would look like a restart of them all; the
            empty name is that of a service that runs on one anyway, and gives no label.
        accept: The request's Accept header; OpenMetrics for those who ask for it.

    Returns:
        Page and content type.
    """
    page = _Page(totals_by_node)
    # Not `choose_encoder` of the library, which fails on versions that are no numbers.
    kinds = (part.partition(";")[0].strip().lower() for part in (accept or "").split(","))
    if "application/openmetrics-text" in kinds:
        page_bytes: bytes = openmetrics.generate_latest(page)  # type: ignore[no-untyped-call]
        return page_bytes, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(page), CONTENT_TYPE_PLAIN_0_0_4


class _Page(Collector):
    def __init__(self, totals_by_node: Mapping[str, Mapping[Key, float]]) -> None:
        self._totals_by_node = totals_by_node

    def collect(self) -> Iterable[Metric]:
        by_family: dict[str, list[tuple[str, Key, float]]] = {}
        for node, totals in self._totals_by_node.items():
            for (name, *labels), value in totals.items():
                by_family.setdefault(name, []).append((node, tuple(labels), value))
        for family in FAMILIES:
            yield _metric(family, sorted(by_family.get(family.name, ())))


def _metric(family: Family, numbers: list[tuple[str, Key, float]]) -> Metric:
    """One metric with its samples; `numbers` are node, labels (of a histogram: also the part), value."""
    with_node = any(node for node, _, _ in numbers)
    label_names = (*family.labels, "node") if with_node else family.labels
    metric: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
    if family.buckets:
        metric = HistogramMetricFamily(family.name, family.help, labels=label_names)
        parts: dict[Key, dict[str, float]] = {}
        for node, labels, value in numbers:
            key = (*labels[:-1], node) if with_node else labels[:-1]
            parts.setdefault(key, {})[labels[-1]] = value
        for key, by_part in parts.items():
            metric.add_metric(key, *_cumulative(family.buckets, by_part))
        return metric
    kind = GaugeMetricFamily if family.is_gauge else CounterMetricFamily
    metric = kind(family.name, family.help, labels=label_names)
    for node, labels, value in numbers:
        metric.add_metric((*labels, node) if with_node else labels, value)
    return metric


def _cumulative(
    buckets: tuple[float, ...], by_part: Mapping[str, float]
) -> tuple[list[tuple[str, float]], float]:
    """Buckets as Prometheus has them, each with all below it, and the sum."""
    rows: list[tuple[str, float]] = []
    below = 0.0
    for upper in (*buckets, float("inf")):
        below += by_part.get(str(upper), 0.0)
        rows.append(("+Inf" if upper == float("inf") else str(upper), below))
    return rows, by_part.get("sum", 0.0)
