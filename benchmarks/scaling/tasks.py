"""What a task of Ray Data costs a scoring job: the same pictures, in many parts and in few.

Every part of a job is a task, and one process hands them all out: the driver. So its time for each is what ends the
growth of a job, however many workers there are. Tiny pictures and a tiny network are the same on both sides; what more
tasks take longer is theirs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.serving.preparation import Prepared

PICTURES_PER_PART = (1, 16)
_WORKERS = 2
_MIB = 2**20


def measure(prepared: Prepared, pictures: int, rounds: int) -> dict[str, Any]:
    """Jobs on the cluster of this process, with many parts and with few in turn.

    Args:
        prepared: A network and pictures that take next to no time.
        pictures: Of each job; the longer side has so many parts.
        rounds: Of both.

    Returns:
        `results` of every job, and what `cost_of_a_task` makes of them.
    """
    results = []
    for number in range(1, rounds + 1):
        for per_part in PICTURES_PER_PART:
            results.append({"round": number, **_job(prepared, pictures, per_part)})
            print(_line(results[-1]), flush=True)
    return {"workers": _WORKERS, "results": results, **cost_of_a_task(results)}


def cost_of_a_task(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What one more task takes, round by round: what many take more than few, by how many they are more.

    Args:
        results: Of jobs of the same pictures, two a round, with `parts`, `scoring_s`, `driver_cpu_s` and
            `driver_rss_growth_mib`.

    Returns:
        `task_ms` by the clock, with `workers` at work; `driver_cpu_ms`, CPU time of the driver with all its threads;
        `driver_kib`, what its memory grew by.
    """
    units = {
        "task_ms": ("scoring_s", 1000),
        "driver_cpu_ms": ("driver_cpu_s", 1000),
        "driver_kib": ("driver_rss_growth_mib", 1024),
    }
    costs: dict[str, list[float]] = {name: [] for name in units}
    for number in sorted({one["round"] for one in results}):
        few, many = sorted(
            (one for one in results if one["round"] == number), key=lambda one: int(one["parts"])
        )
        for name, (figure, unit) in units.items():
            more = (many[figure] - few[figure]) / (many["parts"] - few["parts"])
            costs[name].append(unit * more)
    return {name: {"median": median(each), "rounds": each} for name, each in costs.items()}


def _job(prepared: Prepared, pictures: int, per_part: int) -> dict[str, Any]:
    from appliance.bulk.config import BatchScoringConfig
    from appliance.on_ray.batch_scoring import score_input

    sources = sorted(Path(prepared.pictures).glob("*.jpg"))
    driver = psutil.Process()
    with tempfile.TemporaryDirectory(prefix="scaling-") as scratch:
        folder = Path(scratch) / "pictures"
        folder.mkdir()
        for index in range(pictures):
            (folder / f"{index:06d}.jpg").symlink_to(sources[index % len(sources)])
        config = BatchScoringConfig(
            workers=_WORKERS, cpus_per_worker=1, images_per_part=per_part, progress="off"
        )
        cpu_s, rss = time.process_time(), driver.memory_info().rss
        done = score_input(prepared.model, folder, Path(scratch) / "scores", config=config)
        cpu_s = time.process_time() - cpu_s
        growth = driver.memory_info().rss - rss
    return {
        "pictures": done.rows,
        "parts": -(-done.rows // per_part),
        "start_up_s": done.start_up_s,
        "scoring_s": round(done.wall_s - done.start_up_s, 3),
        "driver_cpu_s": round(cpu_s, 3),
        "driver_rss_growth_mib": round(growth / _MIB, 2),
    }


def _line(job: Mapping[str, Any]) -> str:
    return (
        f"tasks     {job['parts']:6} parts of {job['pictures']} pictures {job['scoring_s']:8.2f} s, "
        f"CPU of the driver {job['driver_cpu_s']:.2f} s"
    )
