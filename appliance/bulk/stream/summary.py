"""What became of a stream so far, for people and programs, and how far it lags behind."""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from appliance.bulk.scores.part_file import EXAMPLES_PER_KIND, PartCounts

_REMEMBERED = 1000
_RATE_OVER_S = 60.0


@dataclass(frozen=True)
class PostCounts:
    """Batches by what became of them at the webhook.

    Attributes:
        delivered: By this run.
        dead: Given up by this run; they are among the dead letters.
        waiting: Not sent yet, also those of earlier runs.
    """

    delivered: int
    dead: int
    waiting: int


@dataclass(frozen=True)
class StreamSummary:
    """Counts and speed of a run.

    Attributes:
        output_uri: Where the records lie.
        ledger: Where it is written down what has been scored.
        source: Where the pictures come from.
        model_name: As in the records.
        model_version: As in the records.
        ended: Why it ended: `end` of the source, `SIGTERM`, `Ctrl-C`; None while it runs.
        images: Records written by this run.
        batches: Parts written by this run.
        rows: Records of all runs in the output.
        repeated: Pictures that came again and had been scored.
        tried_again: Times that a picture was put off: it changed, was incomplete or could not be reached.
        dropped: Frames of a camera that were given up because they came too fast.
        errors_by_kind: Word -> pictures that could not be read.
        error_examples: Word -> messages of the first few.
        objects_per_label: Label -> detections.
        waiting: Pictures that have come and are not scored.
        oldest_s: Age of the oldest of them, since it was first seen.
        images_per_s: Over the last minute, or since the first picture.
        delay_s: `median`, `p95` and `max` of the last 1000 pictures, from when one was first seen until its
            record was on the disk.
        webhook: None without one.
        wall_s: Since the model was ready.
    """

    output_uri: str
    ledger: str
    source: str
    model_name: str
    model_version: str
    ended: str | None
    images: int
    batches: int
    rows: int
    repeated: int
    tried_again: int
    dropped: int
    errors_by_kind: dict[str, int]
    error_examples: dict[str, list[str]]
    objects_per_label: dict[str, int]
    waiting: int
    oldest_s: float
    images_per_s: float
    delay_s: dict[str, float]
    webhook: PostCounts | None
    wall_s: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `_summary.json` and the last line of a job."""
        return asdict(self)

    def line(self) -> str:
        """The same for a log."""
        parts = [
            f"{self.images:,} scored",
            f"{self.images_per_s:.1f}/s",
            f"{self.waiting:,} waiting"
            + (f", the oldest for {self.oldest_s:.1f} s" if self.waiting else ""),
        ]
        if self.errors_by_kind:
            parts.append(f"{sum(self.errors_by_kind.values()):,} errors")
        if self.dropped:
            parts.append(f"{self.dropped:,} dropped")
        if self.webhook is not None:
            parts.append(f"{self.webhook.waiting:,} batches to post")
            if self.webhook.dead:
                parts.append(f"{self.webhook.dead:,} dead letters")
        return "; ".join(parts)


class Meter:
    """Adds up what is written, in bounded memory."""

    def __init__(self) -> None:
        self.started_s = time.monotonic()
        self.images = self.batches = 0
        self.errors_by_kind: Counter[str] = Counter()
        self.objects_per_label: Counter[str] = Counter()
        self.error_examples: dict[str, list[str]] = {}
        self._delays_s: deque[float] = deque(maxlen=_REMEMBERED)
        self._written: deque[tuple[float, int]] = deque()
        self._first_s = 0.0

    def add(self, counts: PartCounts, came_s: Sequence[float]) -> None:
        """A part that was written.

        Args:
            counts: What is in it.
            came_s: When each of its pictures had come, monotonic seconds.
        """
        now_s = time.monotonic()
        self._first_s = self._first_s or min(came_s)
        self.images += counts.rows
        self.batches += 1
        self.errors_by_kind.update(counts.errors_by_kind)
        self.objects_per_label.update(counts.objects_per_label)
        for kind, messages in counts.error_examples.items():
            known = self.error_examples.setdefault(kind, [])
            known.extend(messages[: EXAMPLES_PER_KIND - len(known)])
        self._delays_s.extend(now_s - since_s for since_s in came_s)
        self._written.append((now_s, counts.rows))

    def images_per_s(self) -> float:
        """Of the last minute, or since the first picture came."""
        now_s = time.monotonic()
        while self._written and self._written[0][0] < now_s - _RATE_OVER_S:
            self._written.popleft()
        rows = sum(count for _, count in self._written)
        return round(rows / max(min(now_s - self._first_s, _RATE_OVER_S), 1e-3), 3) if rows else 0.0

    def delay_s(self) -> dict[str, float]:
        """Median, 95th percentile and maximum of the delays that are remembered; empty before the first."""
        delays_s = sorted(self._delays_s)
        if not delays_s:
            return {}
        return {
            "median": round(statistics.median(delays_s), 3),
            "p95": round(delays_s[int(0.95 * (len(delays_s) - 1))], 3),
            "max": round(delays_s[-1], 3),
        }

    def wall_s(self) -> float:
        """Seconds since it was made."""
        return round(time.monotonic() - self.started_s, 3)
