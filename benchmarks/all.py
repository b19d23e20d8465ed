"""All benchmarks one after another, each as a program of its own, and one page of what came of them.

    python -m benchmarks.all --quick        # in under 15 minutes on 2 cores: what `make bench` runs
    python -m benchmarks.all                # by the defaults of each, which takes hours
    python -m benchmarks.all --only online,model

Results go to `benchmarks/results/latest/`, with `report.html`. A benchmark that fails does not stop the others;
the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measurement import RESULTS_DIR
from benchmarks.report.page import write_page

KEPT = "{kept}"
"""Stands for a folder that lasts as long as the run: the model of the main job is served later."""

Plan = Mapping[str, Sequence[str]]

QUICK: Plan = {
    "main_job": ("benchmarks.main_job", "--quick", "--keep", KEPT),
    "online": (
        *("benchmarks.serve_online", "--model", f"{KEPT}/model.safetensors", "--"),
        *("--pictures", f"{KEPT}/test_pictures", "--seconds", "8", "--resolution", "0.15"),
    ),
    "batch": ("benchmarks.batch_throughput", "--quick"),
    "train": ("benchmarks.training_speed", "--quick", "--sides", "plain,ours"),
    "model": ("benchmarks.model_speed", "--quick"),
}
FULL: Plan = {
    "main_job": ("benchmarks.main_job",),
    "online": ("benchmarks.serve_online",),
    "batch": ("benchmarks.batch_throughput",),
    "train": ("benchmarks.training_speed",),
    "model": ("benchmarks.model_speed",),
    "serve_latency": ("benchmarks.serve_latency",),
    "serve_saturation": ("benchmarks.serve_saturation",),
    "serve_start": ("benchmarks.serve_start",),
    "cold_start": ("benchmarks.cold_start",),
    "rollout": ("benchmarks.rollout",),
    "soak": ("benchmarks.soak",),
    "scaling": ("benchmarks.scaling",),
    "peers": ("benchmarks.peers",),
    "evaluation_speed": ("benchmarks.evaluation_speed",),
    "accuracy": ("benchmarks.accuracy",),
}


def main() -> None:
    """Runs them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.all", description="Runs all benchmarks."
    )
    parser.add_argument("--quick", action="store_true", help="in under 15 minutes on 2 cores")
    parser.add_argument("--only", help=f"some, by commas: {','.join(FULL)}")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    names = list(plan) if options.only is None else options.only.split(",")
    if unknown := [name for name in names if name not in plan]:
        parser.error(f"{unknown[0]} is none of {', '.join(plan)}")
    sys.exit(1 if run_all({name: plan[name] for name in names}, RESULTS_DIR / "latest") else 0)


def run_all(plan: Plan, results: Path) -> list[str]:
    """Runs modules with their arguments, draws what they have written, and says how long each took.

    Args:
        plan: Name -> module and its arguments.
        results: Folder of the results.

    Returns:
        Those that failed.
    """
    took: dict[str, tuple[float, int]] = {}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as kept:
        for name, words in plan.items():
            command = [word.replace(KEPT, kept) for word in words]
            print(f"\n== {name}: python -m {' '.join(command)}", flush=True)
            start_s = time.perf_counter()
            done = subprocess.run([sys.executable, "-m", *command], check=False)
            took[name] = time.perf_counter() - start_s, done.returncode
    print()
    for name, (seconds, code) in took.items():
        print(f"{name:20} {seconds:8.1f} s  {'done' if code == 0 else f'failed, exit code {code}'}")
    failed = [name for name, (_, code) in took.items() if code != 0]
    if any(results.glob("*.json")):
        print(f"drawn: {write_page(results)}")
    return failed


if __name__ == "__main__":
    main()
