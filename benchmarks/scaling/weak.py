"""Twice the work on twice the workers, one thread each: training, batch scoring, the service, and nothing but the model.

The model alone, in processes that know nothing of each other, tells what the second core brings on this machine: two
threads of one core, or two cores that share caches and memory, are not twice as fast for anybody.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.serving.figures import summary
from benchmarks.serving.preparation import Prepared
from benchmarks.serving.service import running_service, send_load

WORKERS = (1, 2)
_CLIENTS_PER_REPLICA = 2


@dataclass(frozen=True)
class Load:
    """How much each worker gets.

    Attributes:
        seconds: Of the service and the model alone.
        pictures: Of batch scoring.
        steps: Of training.
        quick: Tiny networks and pictures.
    """

    seconds: float
    pictures: int
    steps: int
    quick: bool


Side = Callable[[int], dict[str, Any]]
"""Measures so many workers; `images_per_s` is of all together."""


def measure(side: Side, rounds: int, name: str) -> dict[str, Any]:
    """One and two workers in turn.

    Returns:
        `results` of every round; `speed_up`, images a second of two by those of one; `efficiency`, half of it.
    """
    results = []
    for number in range(1, rounds + 1):
        for workers in WORKERS:
            results.append({"round": number, "workers": workers, **side(workers)})
            print(
                f"{name:9} {workers} x 1 thread {results[-1]['images_per_s']:8.2f} images/s",
                flush=True,
            )
    return {"results": results, **speed_up(results)}


def speed_up(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Two workers by one, round by round."""
    speeds = {(one["workers"], one["round"]): one["images_per_s"] for one in results}
    rounds = sorted({one["round"] for one in results})
    each = [speeds[2, number] / speeds[1, number] for number in rounds]
    return {
        "speed_up": {"median": median(each), "rounds": each},
        "efficiency": {"median": median(each) / 2, "rounds": [one / 2 for one in each]},
    }


def model_alone(prepared: Prepared, load: Load) -> Side:
    """So many processes with the predictor in a loop."""

    def side(workers: int) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.serving.bare", prepared.model]
        command += [prepared.pictures, f"{load.seconds:g}", "--threads", "1", "--wait"]
        pipe = subprocess.PIPE
        processes = [
            subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(workers)
        ]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # it is ready
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [json.loads(process.communicate()[0]) for process in processes]
        return {"images_per_s": sum(one["images_per_s"] for one in told), "processes": told}

    return side


def online(prepared: Prepared, load: Load) -> Side:
    """A service of so many replicas, with two clients each."""

    def side(workers: int) -> dict[str, Any]:
        options = ("--replicas", str(workers), "--set", "num_threads=1")
        with running_service(prepared.model, *options) as url:
            clients = _CLIENTS_PER_REPLICA * workers
            send_load(url, prepared.pictures, clients=clients, seconds=1)
            told = summary(send_load(url, prepared.pictures, clients=clients, seconds=load.seconds))
        return {"images_per_s": told["good_per_s"], "clients": clients, **told}

    return side


def batch(prepared: Prepared, load: Load) -> Side:
    """A job on so many workers of the cluster of this process, each with as many pictures."""
    from appliance.bulk.config import BatchScoringConfig
    from appliance.on_ray.batch_scoring import score_input

    sources = sorted(Path(prepared.pictures).glob("*.jpg"))

    def side(workers: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="scaling-") as scratch:
            pictures = Path(scratch) / "pictures"
            pictures.mkdir()
            for index in range(workers * load.pictures):
                (pictures / f"{index:06d}.jpg").symlink_to(sources[index % len(sources)])
            config = BatchScoringConfig(workers=workers, cpus_per_worker=1, progress="off")
            done = score_input(prepared.model, pictures, Path(scratch) / "scores", config=config)
        return {
            "images_per_s": done.images_per_s,
            "images": done.rows,
            "start_up_s": done.start_up_s,
            "stages": {name: vars(share) for name, share in done.stages.items()},
        }

    return side


def training(load: Load, cache: Path) -> Side:
    """Ray Train with so many workers on the cluster of this process, and a batch that grows with them."""
    from dataclasses import replace

    import torch

    from appliance.model.spec import COMPACT
    from benchmarks.model_speed.pictures import PictureSet, draw_pictures
    from benchmarks.training_speed.cases import case_of
    from benchmarks.training_speed.ray_side import train_on_workers
    from benchmarks.training_speed.sides import Bench

    case = replace(case_of(COMPACT, "cpu", quick=load.quick), steps=load.steps)
    images = draw_pictures(PictureSet("train", case.train_pictures, case.size_wh), cache)

    def side(workers: int) -> dict[str, Any]:
        larger = replace(case, batch_size=case.batch_size * workers)
        bench = Bench(COMPACT, larger, torch.device("cpu"), "none", "auto", 0, images, ())
        run = train_on_workers(bench, bench.plan(seed=0), workers=workers, threads=1)
        return {
            "images_per_s": larger.batch_size / run.step_s,
            "batch_size": larger.batch_size,
            "step_ms": run.step_s * 1000,
            "split_ms": {name: seconds * 1000 for name, seconds in run.split_s.items()},
            "wall_s": run.wall_s,
        }

    return side
