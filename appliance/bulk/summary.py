"""What a batch job did: counts, speed, and where the time went."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from appliance.bulk.part_scorer import PartOutcome
from appliance.bulk.scores.part_file import EXAMPLES_PER_KIND, PartCounts


@dataclass(frozen=True)
class StageShare:
    """One stage of scoring.

    Attributes:
        seconds: Of all threads of all workers together.
        images_per_s: What this stage alone would do with as many threads.
    """

    seconds: float
    images_per_s: float


@dataclass(frozen=True)
class BatchSummary:
    """What a job did.

    Attributes:
        output_uri: Where the scores are.
        images: Pictures listed, each one once.
        rows: Records written; equal to `images`.
        repeated: Names that the input gave more than once, beyond the first.
        done_before: Pictures of these that an interrupted run of the same job had scored.
        errors_by_kind: Word -> pictures that could not be read.
        error_examples: Word -> messages of the first few.
        objects_per_label: Label -> detections.
        model_name: As in the records.
        model_version: As in the records.
        workers: Processes that were asked for.
        wall_s: Seconds from the call to the commit.
        start_up_s: Seconds of these before the first picture: cluster, processes, model.
        images_per_s: Pictures scored now by the time from the first to the last of them.
        stages: Stage -> where the time of the workers went: `read`, `decode`, `predict`, `write`, `draw`,
            and `wait`, in which the network had nothing to do. Reading and decoding run beside the rest.
    """

    output_uri: str
    images: int
    rows: int
    repeated: int
    done_before: int
    errors_by_kind: dict[str, int]
    error_examples: dict[str, list[str]]
    objects_per_label: dict[str, int]
    model_name: str
    model_version: str
    workers: int
    wall_s: float
    start_up_s: float
    images_per_s: float
    stages: dict[str, StageShare]

    @property
    def errors(self) -> int:
        """Pictures that could not be read."""
        return sum(self.errors_by_kind.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `_summary.json` and the last line of a job."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> BatchSummary:
        """Reads `to_json` back."""
        stages = {name: StageShare(**stage) for name, stage in document["stages"].items()}
        return cls(**{**document, "stages": stages})


def summarize(
    parts: Sequence[PartCounts], outcomes: Sequence[PartOutcome], **facts: Any
) -> BatchSummary:
    """Adds up what became of a job.

    Args:
        parts: What is in each part.
        outcomes: Of those that were scored now.
        facts: The attributes of `BatchSummary` that do not follow from these.
    """
    now = sum(outcome.counts.rows for outcome in outcomes)
    first_s = min((outcome.started_s for outcome in outcomes), default=0.0)
    last_s = max((outcome.finished_s for outcome in outcomes), default=0.0)
    stage_s: dict[str, float] = defaultdict(float)
    for outcome in outcomes:
        for stage, seconds in outcome.stage_s.items():
            stage_s[stage] += seconds
    rows = sum(part.rows for part in parts)
    return BatchSummary(
        rows=rows,
        done_before=rows - now,
        errors_by_kind=_total(part.errors_by_kind for part in parts),
        error_examples=_examples(parts),
        objects_per_label=_total(part.objects_per_label for part in parts),
        images_per_s=round(now / max(last_s - first_s, 1e-9), 3) if now else 0.0,
        stages={
            stage: StageShare(round(seconds, 3), round(now / max(seconds, 1e-9), 3))
            for stage, seconds in sorted(stage_s.items())
        },
        **facts,
    )


def _total(counters: Iterable[Counter[str]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return dict(sorted(total.items()))


def _examples(parts: Sequence[PartCounts]) -> dict[str, list[str]]:
    examples: dict[str, list[str]] = {}
    for part in parts:
        for kind, messages in part.error_examples.items():
            examples.setdefault(kind, []).extend(messages)
    return {kind: messages[:EXAMPLES_PER_KIND] for kind, messages in sorted(examples.items())}
