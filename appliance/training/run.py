"""A whole run in this process: plan in, trained network out.

`on_ray.training` does the same on workers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from torchvision.models.detection import FasterRCNN

from appliance import storage
from appliance.annotations.dataset import AnnotatedImage
from appliance.model.device import resolve_device
from appliance.training import checkpoint as checkpoints
from appliance.training.checkpoint import Checkpoint
from appliance.training.data import Share
from appliance.training.engine import StepReport, train
from appliance.training.monitor import RunRecorder, TrainingProgress
from appliance.training.plan import TrainingPlan

PLAN_FILE = "plan.json"


def train_here(
    plan: TrainingPlan,
    images: Sequence[AnnotatedImage],
    run_dir: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    progress: bool = True,
) -> FasterRCNN:
    """Trains in this process.

    Args:
        plan: What to do.
        images: The training data.
        run_dir: Folder of the run: plan, metrics, TensorBoard files, the last checkpoint.
        device: "cpu", "cuda" or "auto".
        resume: Go on from the checkpoint in `run_dir`, if there is one.
        progress: Show a progress bar.

    Returns:
        The network, on its device.

    Raises:
        TrainingError: See `training.engine.train`.
    """
    write_plan(plan, run_dir)
    checkpoint_path = run_dir / checkpoints.FILE_NAME
    checkpoint = (
        checkpoints.load(str(checkpoint_path)) if resume and checkpoint_path.exists() else None
    )
    first_step = checkpoint.step if checkpoint else 0
    recorder = RunRecorder(run_dir, first_step)
    with TrainingProgress(plan.steps, enabled=progress) as bar:

        def on_step(report: StepReport) -> None:
            bar.update(recorder.on_step(report))

        try:
            return train_share(
                plan,
                images,
                device=device,
                checkpoint=checkpoint,
                on_step=on_step,
                on_checkpoint=lambda state: checkpoints.save(str(checkpoint_path), state),
            )
        finally:
            recorder.close()


def train_share(
    plan: TrainingPlan,
    images: Sequence[AnnotatedImage],
    *,
    device: str,
    share: Share = Share(),
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_checkpoint: Callable[[Checkpoint], None] = lambda state: None,
) -> FasterRCNN:
    """One worker's share of the run; returns the network as trained by all."""
    network = plan.build_network()
    train(
        network,
        plan.spec,
        images,
        plan.config,
        steps=plan.steps,
        train_batch_norm=bool(plan.config.train_batch_norm),
        device=resolve_device(device),
        share=share,
        checkpoint=checkpoint,
        on_step=on_step,
        on_checkpoint=on_checkpoint,
    )
    return network


def write_plan(plan: TrainingPlan, run_dir: Path) -> None:
    """Keeps the plan beside what comes of it."""
    text = json.dumps(plan.to_json(), indent=2, sort_keys=True)
    storage.write_bytes(run_dir / PLAN_FILE, text.encode())
