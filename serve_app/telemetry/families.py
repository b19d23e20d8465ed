"""What a service counts: every number that Prometheus reads has its line here.

Labels take few values: routes are templates, whatever the client sends, and `replica` stands only where a
sum says nothing.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import cached_property

from serve_app.telemetry.counts import Key

OTHER = "other"
"""The label of what has no name of ours, such as paths that lead nowhere."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PICTURES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET", "GRPC"}
)
"""Those that are counted by their name."""
SUM = "sum"
"""In a key of a histogram, what stands where the others have their bucket."""


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

    def observed(self, labels: Key, value: float) -> tuple[tuple[Key, float], tuple[Key, float]]:
        """What a value adds to a histogram: one to its bucket, and itself to the sum."""
        bucket = self.bucket_names[bisect.bisect_left(self.buckets, value)]
        return ((self.name, *labels, bucket), 1.0), ((self.name, *labels, SUM), value)

    @cached_property
    def bucket_names(self) -> tuple[str, ...]:
        """What Prometheus calls the buckets."""
        return (*(str(upper) for upper in self.buckets), "+Inf")


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
