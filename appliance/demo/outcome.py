"""What came of the main job, told twice: as `summary.json` and as a report to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.bulk.summary import BatchSummary
from appliance.evaluation.analysis import Analysis
from appliance.evaluation.comparison import Comparison
from appliance.evaluation.evaluate import EvaluationResult
from appliance.evaluation.report.page import ReportData, ReportSection
from appliance.on_ray.training import TrainedModel
from appliance.training.plan import TrainingPlan
from appliance.versions import versions


@dataclass(frozen=True)
class Online:
    """What scoring over HTTP gave.

    Attributes:
        p50_ms: Median latency of one client that keeps its connection, milliseconds.
        p90_ms: Ninth decile.
        requests: Number of answers measured.
        equals_batch: Whether every answer said the same as the row of batch scoring.
    """

    p50_ms: float
    p90_ms: float
    requests: int
    equals_batch: bool


@dataclass(frozen=True)
class Outcome:
    """Everything the stages left behind."""

    plan: TrainingPlan
    train_set: ObjectDetectionDataset
    test_set: ObjectDetectionDataset
    trained: TrainedModel
    evaluation: EvaluationResult
    batch: BatchSummary
    online: Online

    def summary(self) -> dict[str, Any]:
        """The figures, as plain values."""
        return {
            "map_50": self.evaluation.map_50,
            "ap_50": self.evaluation.ap_50,
            "train_wall_s": round(self.trained.wall_s, 2),
            "train_steps": self.plan.steps,
            "train_images": len(self.train_set),
            "test_images": len(self.test_set),
            "batch_images_per_s": round(self.batch.images_per_s, 2),
            "http_p50_ms": self.online.p50_ms,
            "http_p90_ms": self.online.p90_ms,
            "http_requests": self.online.requests,
            "http_equals_batch": self.online.equals_batch,
            "model_version": self.trained.version,
            "architecture": self.plan.spec.architecture,
            "backbone": self.plan.spec.backbone,
            "init": self._init,
            "versions": versions(),
        }

    def report(
        self,
        *,
        training_log: Sequence[Mapping[str, Any]],
        comparisons: Sequence[Comparison],
        analysis: Analysis,
    ) -> ReportData:
        """The same to look at, with curves and pictures."""
        statistics = self.train_set.statistics()
        return ReportData(
            model_name=self.train_set.name,
            evaluation=self.evaluation,
            description=(
                f"{self.plan.spec.architecture} with {self.plan.spec.backbone}, "
                f"{self.plan.steps} steps from {self._init} on {len(self.train_set)} pictures, "
                f"tested on {len(self.test_set)} others."
            ),
            training_log=training_log,
            comparisons=comparisons,
            analysis=analysis,
            sections=[
                ReportSection(
                    "Training data",
                    [
                        ("pictures", len(self.train_set)),
                        *statistics.object_counts.items(),
                    ],
                    note="Pictures, and objects of each label.",
                ),
                ReportSection(
                    "Speed",
                    [
                        ("Training, seconds", self.trained.wall_s),
                        ("Training steps", self.plan.steps),
                        ("Batch scoring, pictures/s", self.batch.images_per_s),
                        ("HTTP, median latency, ms", self.online.p50_ms),
                        ("HTTP, ninth decile, ms", self.online.p90_ms),
                        ("HTTP answers equal batch rows", _yes(self.online.equals_batch)),
                    ],
                ),
                ReportSection("Versions", list(versions().items())),
            ],
        )

    @property
    def _init(self) -> str:
        return "random weights" if self.plan.init == "none" else Path(self.plan.init).name


def _yes(value: bool) -> str:
    return "yes" if value else "NO"
