"""What is seen of a run: `metrics.jsonl`, TensorBoard files, and a progress bar that follows them.

The recorder writes beside the training loop, possibly in another process or on another machine of a
cluster that shares the folder; the progress bar only reads. Neither can slow a step by more than a write.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from appliance.training.engine import StepReport

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_DIR = "train"


class RunRecorder:
    """Writes one line a step to `metrics.jsonl` and the same as TensorBoard scalars.

    Args:
        run_dir: Folder of the run, on a local or shared disk; made when it is not there.
        first_step: Steps already done; what was recorded beyond them, by a run that died after its last
            checkpoint, is dropped, so that every step stands once.
    """

    def __init__(self, run_dir: Path, first_step: int = 0) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / METRICS_FILE
        kept = [line for line in read_metrics(run_dir) if line["step"] <= first_step]
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._lines: IO[str] = self._path.open("a", buffering=1)
        self._tensorboard = _summary_writer(run_dir / TENSORBOARD_DIR, purge_step=first_step + 1)

    def on_step(self, report: StepReport) -> dict[str, Any]:
        """Records one step; returns the line written."""
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
        rounded = {name: round(value, 6) for name, value in scalars.items()}
        line = {"step": report.step, "steps": report.steps, **rounded}
        self._lines.write(json.dumps(line) + "\n")
        for name, value in scalars.items():
            self._tensorboard.add_scalar(f"train/{name}", value, report.step)
        return line

    def close(self) -> None:
        """Flushes and closes both files."""
        self._lines.close()
        self._tensorboard.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The recorded steps so far; a line still being written is left out."""
    path = run_dir / METRICS_FILE
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


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
        """Shows one line of `metrics.jsonl`."""
        self._recent_loss.append(metrics["loss"])
        self._objects += metrics.get("objects", 0)
        self._objects_dropped += metrics.get("objects_dropped", 0)
        loss = sum(self._recent_loss) / len(self._recent_loss)
        step = metrics["step"]
        facts = (
            f"loss {loss:.3f}, {metrics['images_per_s']:.1f} images/s, "
            f"waiting for data {metrics['data_wait_share']:.0%}"
        )
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
