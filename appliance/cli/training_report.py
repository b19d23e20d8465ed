"""What a training came to, as people and as programs read it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from appliance.cli.promoting import Promoted
    from appliance.on_ray.training import TrainedModel
    from appliance.training.plan import TrainingPlan


@dataclass(frozen=True)
class TrainingReport:
    """What there is to tell of a run that has finished.

    Attributes:
        model: The model file that it has written.
        run_dir: Folder of the run.
        plan: What it was to do.
        trained: What it did.
        images: Training pictures.
        name: Of the model in the registry; None where it was not to be added.
        number: Its version there.
        promoted: What came of its promotion, if that was asked for.
    """

    model: str
    run_dir: str
    plan: TrainingPlan
    trained: TrainedModel
    images: int
    name: str | None
    number: int | None
    promoted: Promoted | None

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "model": self.model,
            "version": self.trained.version,
            "registered": self.registered,
            "promotion": None if self.promoted is None else self.promoted.document(),
            "run_dir": self.run_dir,
            "steps": self.plan.steps,
            "images": self.images,
            "labels": list(self.plan.spec.labels),
            "train_wall_s": round(self.trained.wall_s, 2),
            "final_loss": self.trained.final_loss,
            **asdict(self.trained.outcome),
            "plan": self.plan.to_json(),
        }

    @property
    def registered(self) -> str | None:
        """The version in the registry, as `fridge:8`."""
        return None if self.number is None else f"{self.name}:{self.number}"

    def show(self) -> None:
        """For people."""
        from appliance import storage

        outcome = self.trained.outcome
        kept = "" if self.registered is None else f" It is {self.registered} in the registry."
        early = f", stopped early, of {self.plan.steps}" if outcome.stopped_early else ""
        print(
            f"Wrote {self.model} (version {self.trained.version}) after {outcome.step} steps{early} "
            f"in {self.trained.wall_s:.0f} s.{kept}"
        )
        if outcome.best_metric is not None:
            print(
                f"Best:     {self.plan.config.validation_metric} {outcome.best_metric:.4f} "
                f"after step {outcome.best_step}"
            )
        if self.promoted is not None:
            print(self.promoted.sentence)
        print(f"Curves:   tensorboard --logdir {storage.join(self.run_dir, 'train')}")
        print(f"Evaluate: appliance evaluate {self.model} TEST_DATA")
        print(f"Score:    appliance score {self.model} PICTURES OUTPUT")
