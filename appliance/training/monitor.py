"""What is seen of a run: `metrics.jsonl`, `validation.jsonl`, TensorBoard files, and a progress bar that
follows them.

The recorder writes beside the training loop, possibly in another process or on another machine of a
cluster that shares the folder; the progress bar only reads. Neither can slow a step by more than a write.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from appliance.training.engine import StepReport

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from torch.utils.tensorboard import SummaryWriter

    from appliance.evaluation.comparison import Comparison

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
VALIDATION_FILE = "validation.jsonl"
TENSORBOARD_DIR = "train"


class RunRecorder:
    """Writes one line a step to `metrics.jsonl`, one a validation to `validation.jsonl`, and both for TensorBoard.

    Args:
        run_dir: Folder of the run, on a local or shared disk; made when it is not there.
        first_step: Steps already done; what was recorded beyond them, by a run that died after its last
            checkpoint, is dropped, so that every step stands once.
    """

    def __init__(self, run_dir: Path, first_step: int = 0) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._lines = _continued(run_dir / METRICS_FILE, first_step)
        self._validations = _continued(run_dir / VALIDATION_FILE, first_step)
        self._last_validation: dict[str, float] | None = None
        self._tensorboard = _summary_writer(run_dir / TENSORBOARD_DIR, purge_step=first_step + 1)

    def on_step(self, report: StepReport) -> dict[str, Any]:
        """Records one step; returns the line written.

        A step that was left out because its loss was not finite has no figures and leaves no line; those
        after it say how many there were.
        """
        if report.skipped:
            return {"step": report.step, "skipped_batches": report.skipped_batches}
        scalars = {
            "loss": report.loss,
            **report.losses,
            "learning_rate": report.learning_rate,
            "gradient_norm": report.gradient_norm,
            "images_per_s": report.images / report.step_s,
            "data_wait_share": report.data_wait_s / report.step_s,
            "objects": report.objects,
            "objects_dropped": report.objects_dropped,
        }
        if report.skipped_batches:
            scalars["skipped_batches"] = report.skipped_batches
        rounded = {name: round(value, 6) for name, value in scalars.items()}
        line: dict[str, Any] = {"step": report.step, "steps": report.steps, **rounded}
        if self._last_validation is not None:
            # For those who follow the steps; the whole of it stands in a file of its own.
            line["validation"], self._last_validation = self._last_validation, None
        self._lines.write(json.dumps(line) + "\n")
        for name, value in scalars.items():
            self._tensorboard.add_scalar(f"train/{name}", value, report.step)
        return line

    def on_validation(
        self, step: int, metrics: Mapping[str, float], comparisons: Sequence[Comparison] = ()
    ) -> None:
        """Records what a validation after `step` steps has measured, and some of its pictures.

        Args:
            step: Steps done.
            metrics: As a `Validator` gives them.
            comparisons: Pictures with truth and detections, for TensorBoard.
        """
        line = {"step": step, **{name: round(value, 6) for name, value in metrics.items()}}
        self._validations.write(json.dumps(line) + "\n")
        self._last_validation = {name: line[name] for name in line if "/" not in name}
        for name, value in metrics.items():
            self._tensorboard.add_scalar(f"validation/{name}", value, step)
        if comparisons:
            from appliance.evaluation.tensorboard import add_comparison

            for comparison in comparisons:
                add_comparison(self._tensorboard, comparison, step)

    def close(self) -> None:
        """Flushes and closes all files."""
        self._lines.close()
        self._validations.close()
        self._tensorboard.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The recorded steps so far; a line still being written is left out."""
    return _read_lines(run_dir / METRICS_FILE)


def read_validations(run_dir: Path) -> list[dict[str, Any]]:
    """The recorded validations so far: `step`, and the figures of a `Validator`."""
    return _read_lines(run_dir / VALIDATION_FILE)


def parse_lines(text: str) -> list[dict[str, Any]]:
    """The lines of one of these files; one that is still being written is left out."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return parse_lines(path.read_text() if path.exists() else "")


def _continued(path: Path, first_step: int) -> IO[str]:
    """The file, open for further lines, without those of steps that will be done again."""
    kept = [line for line in _read_lines(path) if line["step"] <= first_step]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    return path.open("a", buffering=1)


class TrainingProgress:
    """A progress bar on standard error; a line every tenth of the run where there is no terminal.

    Args:
        steps: Length of the run.
        enabled: False shows nothing.
    """

    def __init__(self, steps: int, *, enabled: bool = True) -> None:
        self._steps = steps
        self._enabled = enabled
        self._recent_loss: deque[float] = deque(maxlen=20)
        self._next_line_step = 1
        self._objects = 0
        self._objects_dropped = 0
        self._validated = ""
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> TrainingProgress:
        if self._enabled and sys.stderr.isatty():
            self._bar = _progress_bar()
            self._task = self._bar.add_task("Training", total=self._steps, facts="starting workers")
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._enabled and self._objects_dropped:
            logger.info(
                "augmentation cut off %s of %s objects; they were not learnt from in that step",
                f"{self._objects_dropped:,}",
                f"{self._objects + self._objects_dropped:,}",
            )

    def update(self, metrics: dict[str, Any]) -> None:
        """Shows one line of `metrics.jsonl`, or what `RunRecorder.on_step` has returned."""
        if "loss" not in metrics:
            return
        self._recent_loss.append(metrics["loss"])
        self._objects += metrics.get("objects", 0)
        self._objects_dropped += metrics.get("objects_dropped", 0)
        loss = sum(self._recent_loss) / len(self._recent_loss)
        step = metrics["step"]
        facts = (
            f"loss {loss:.3f}, {metrics['images_per_s']:.1f} images/s, "
            f"waiting for data {metrics['data_wait_share']:.0%}"
        )
        if validation := metrics.get("validation"):
            self._validated = (
                f", mAP@0.5 {validation.get('map_50', 0):.3f} after step {validation['step']}"
            )
        facts += self._validated
        if skipped := metrics.get("skipped_batches"):
            facts += f", {skipped:.0f} left out for a loss that was not finite"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, facts=facts)
        elif self._enabled and (step >= self._next_line_step or step == self._steps):
            logger.info("step %d of %d: %s", step, self._steps, facts)
            self._next_line_step = step + max(1, self._steps // 10)


def _progress_bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}"),
        console=Console(stderr=True),
    )


def _summary_writer(path: Path, purge_step: int) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(path), purge_step=purge_step)
