"""The sides on Ray Train: the appliance's training with all that a command records, on workers.

Start-up is left out as the warm-up steps are: TensorBoard's records say when each step had ended.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from appliance.on_ray.training import Workers, train_on_ray
from appliance.training.monitor import METRICS_FILE, TENSORBOARD_DIR
from appliance.training.plan import TrainingPlan
from benchmarks.training_speed.sides import Bench, SideRun, split_of


def train_on_workers(
    bench: Bench, plan: TrainingPlan, workers: int, threads: int | None
) -> SideRun:
    """Trains on the cluster that this process is connected to.

    Args:
        bench: What all sides share.
        plan: What to do.
        workers: How many share each batch.
        threads: Cores and threads of each; None shares out those of the cluster.

    Raises:
        ApplianceError: See `on_ray.training.train_on_ray`.
    """
    on_workers = Workers(workers, use_gpu=bench.device.type == "cuda", cpus_each=threads)
    with tempfile.TemporaryDirectory(prefix="appliance-training-speed-") as folder:
        run_dir = Path(folder) / "run"
        started_s = time.perf_counter()
        network, _ = train_on_ray(
            plan, bench.train_images, run_dir, workers=on_workers, progress=False
        )
        wall_s = time.perf_counter() - started_s
        lines = [json.loads(line) for line in (run_dir / METRICS_FILE).read_text().splitlines()]
        # It keeps ten thousand scalars of a tag; zero is all of them.
        records = EventAccumulator(str(run_dir / TENSORBOARD_DIR), size_guidance={"scalars": 0})
        ended_s = {event.step: event.wall_time for event in records.Reload().Scalars("train/loss")}
    first = bench.case.warm_up_steps
    step_s = (ended_s[plan.steps] - ended_s[first]) / (plan.steps - first)
    steps = [plan.config.batch_size / line["images_per_s"] for line in lines[first:]]
    shares = [line["data_wait_share"] for line in lines[first:]]
    waits = [seconds * share for seconds, share in zip(steps, shares, strict=True)]
    return SideRun(
        step_s,
        split_of(list(zip(steps, waits, strict=True)), step_s),
        [line["loss"] for line in lines],
        wall_s,
        network,
    )
