"""How long the service takes to start, and a replica of it to answer.

    python -m benchmarks.serve_start --json

In each round: `appliance serve MODEL` from the command to ready, with the Ray cluster that it starts; a replica
killed with SIGKILL, until a picture sent after that is answered by another; and with `--min-replicas 0`, where
there is no replica, until the first picture is answered. The last is a new replica and nothing else: autoscaler,
process, imports, model, warm-up, answer; `benchmarks.cold_start` tells them apart. Prints a table, then with --json
one JSON document last; the same goes to `benchmarks/results/FOLDER/NAME.json`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.commands import add_result_arguments, count, run_command
from benchmarks.measurement import write_result
from benchmarks.serving.preparation import prepared_for
from benchmarks.serving.service import running_service
from benchmarks.serving.starts import answer, replicas, wait_for_none

TARGET_S = {"new_replica": 10.0, "after_kill": 10.0}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve_start", description="Measures the starts of the service."
    )
    parser.add_argument("--rounds", type=count, default=3, help="of all starts")
    parser.add_argument("--backbone", default="mobilenet_v2", help="of the compact network")
    add_result_arguments(parser, name="serve_start")
    run_command(parser, _run, {"rounds": 1})


def _run(options: argparse.Namespace) -> dict[str, Any]:
    rounds = options.rounds
    with prepared_for(options) as prepared:
        picture = next(Path(prepared.pictures).iterdir()).read_bytes()
        measured = []
        for _ in range(rounds):
            measured.append(_measure(prepared.model, picture))
            print(
                "  ".join(f"{name} {value:.1f} s" for name, value in measured[-1].items()),
                flush=True,
            )
    medians = {name: median(times[name] for times in measured) for name in measured[0]}
    result = {
        "picture_bytes": prepared.mean_bytes,
        "target_s": TARGET_S,
        "met": all(medians[name] <= limit for name, limit in TARGET_S.items()),
        "median_s": medians,
        "rounds_s": measured,
    }
    for name, value in medians.items():
        limit = f"  (target {TARGET_S[name]:.0f})" if name in TARGET_S else ""
        print(f"{name:14} {value:6.1f} s{limit}")
    write_result(options.name, "benchmarks.serve_start", result, options.folder)
    return result


def _measure(model: str, picture: bytes) -> dict[str, float]:
    times = {}
    begin_s = time.monotonic()
    with running_service(model) as url:
        answer(url, picture)
        times["service"] = time.monotonic() - begin_s
        [replica] = replicas()
        replica.kill()
        begin_s = time.monotonic()
        replica.wait()
        answer(url, picture)
        times["after_kill"] = time.monotonic() - begin_s
    with running_service(model, "--min-replicas", "0", "--max-replicas", "1") as url:
        wait_for_none()
        begin_s = time.monotonic()
        answer(url, picture)
        times["new_replica"] = time.monotonic() - begin_s
    return times


if __name__ == "__main__":
    main()
