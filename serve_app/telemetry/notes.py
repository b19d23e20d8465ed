"""What the routes tell of a request, for answers' headers, counts and the access log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.records import Record
from serve_app.scoring.timings import Timings
from serve_app.telemetry.families import OTHER
from serve_app.telemetry.metrics import Metrics


class RequestNotes:
    """The notes of one request, or of one WebSocket: `request.state.notes`. Belongs to the event loop.

    Attributes:
        request_id: Its name in answers and logs.
        trace_id: Of the W3C trace that it is part of, or None.
        timings: Where its time goes, what is noted by the picture left out.
        key_name: Name of the key it came with, or None.
        error_code: Code of its error answer, or None.
        model: Name and version of the model that answered; the last one, where there were several.
        pictures: How many were scored.
        detections: How many objects were answered.
        failed_pictures: How many of several could not be scored.
        streamed: Where the time of pictures went that were noted one by one.
    """

    __slots__ = (
        "detections",
        "error_code",
        "failed_pictures",
        "key_name",
        "metrics",
        "model",
        "pictures",
        "request_id",
        "scope",
        "streamed",
        "timings",
        "trace_id",
    )

    def __init__(
        self,
        metrics: Metrics,
        scope: Mapping[str, Any],
        request_id: str,
        trace_id: str | None = None,
    ) -> None:
        self.metrics = metrics
        self.scope = scope
        self.request_id = request_id
        self.trace_id = trace_id
        self.timings = Timings()
        self.key_name: str | None = None
        self.error_code: str | None = None
        self.model: tuple[str, str] | None = None
        self.pictures = 0
        self.detections = 0
        self.failed_pictures = 0
        self.streamed = Timings()

    @property
    def route(self) -> str:
        """Template of the route that answers, once it has been found."""
        return getattr(self.scope.get("route"), "path_format", None) or OTHER

    def picture(self, record: Record, timings: Timings | None = None) -> None:
        """Counts a picture of the answer at once, so that long streams show while they run.

        Args:
            record: As answered, after the client's threshold.
            timings: Of this picture alone, for streams; those of plain requests are `self.timings`.
        """
        if timings is not None:
            self.metrics.observe_stages(timings.as_dict())
            for stage, seconds in timings.as_dict().items():
                self.streamed.add(stage, seconds)
        self.model = (record.model_name, record.model_version)
        self.pictures += 1
        self.detections += len(record.detections)
        labels = [found.label for found in record.detections]
        self.metrics.count_picture(record.model_name, record.model_version, labels)

    def failed_picture(self, code: str) -> None:
        """Counts one picture of several that could not be scored, by the code of its error."""
        self.failed_pictures += 1
        self.metrics.count_error(self.route, code)
