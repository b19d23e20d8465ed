"""All benchmarks one after another, each as a program of its own, and one page of what came of them.

    python -m benchmarks.all --quick        # in under 15 minutes on 2 cores: what `make bench` runs
    python -m benchmarks.all                # by the defaults of each, which takes hours
    python -m benchmarks.all --only online,model

Results go to `benchmarks/results/latest/`, with `report.html`. A benchmark that fails does not stop the others;
the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from benchmarks.commands import VOID, end_on_sigterm, some_of
from benchmarks.measurement import RESULTS_DIR
from benchmarks.programs import run_program
from benchmarks.report.page import write_page

KEPT = "{kept}"
"""Stands for a folder that lasts as long as the run: the model of the main job is served later."""

_DONE = "done"
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
NEEDED = {"online": "main_job"}
"""What of the quick set needs what of it before."""
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
    try:
        names = list(plan if options.only is None else some_of(tuple(plan))(options.only))
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    if options.quick:
        for name, needed in NEEDED.items():
            if name in names and needed not in names:
                print(f"{needed} is run, too: {name} needs what it leaves")
                names.append(needed)
    names = [name for name in plan if name in names]  # what is needed comes first
    needs = NEEDED if options.quick else {}
    end_on_sigterm()
    try:
        failed = run_all({name: plan[name] for name in names}, RESULTS_DIR / "latest", needs)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    sys.exit(1 if failed else 0)


def run_all(
    plan: Plan, results: Path, needs: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """Runs modules with their arguments, draws what they have written, and says how long each took.

    Args:
        plan: Name -> module and its arguments.
        results: Folder of the results.
        needs: Name -> that without which it is not run.

    Returns:
        Those that failed.
    """
    took: dict[str, tuple[float, str]] = {}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as kept:
        for name, words in plan.items():
            needed = needs.get(name)
            if needed is not None and took[needed][1] != _DONE:
                took[name] = 0.0, f"not run, as {needed} {took[needed][1]}"
                continue
            command = [word.replace(KEPT, kept) for word in words]
            print(f"\n== {name}: python -m {' '.join(command)}", flush=True)
            start_s = time.perf_counter()
            code = run_program([sys.executable, "-m", *command])
            took[name] = time.perf_counter() - start_s, _outcome(code)
    print()
    for name, (seconds, outcome) in took.items():
        print(f"{name:20} {seconds:8.1f} s  {outcome}")
    failed = [name for name, (_, outcome) in took.items() if outcome != _DONE]
    if any(results.glob("*.json")):
        print(f"drawn: {write_page(results)}")
    return failed


def _outcome(code: int) -> str:
    known = {0: _DONE, VOID: "void: the generator was too slow for this load"}
    return known.get(code, f"failed, exit code {code}")


if __name__ == "__main__":
    main()
