"""How long the service takes to start, and a replica of it to answer.

    python -m benchmarks.serve_start --json

In each round: `appliance serve MODEL` from the command to ready, with the Ray cluster that it starts; a replica
killed with SIGKILL, until a picture sent after that is answered by another; and with `--min-replicas 0`, where
there is no replica, until the first picture is answered. The last is a new replica and nothing else: autoscaler,
process, imports, model, warm-up, answer. Prints a table, then with --json one JSON document last; the same goes
to `benchmarks/results/FOLDER/NAME.json`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.measurement import write_result
from benchmarks.model_speed.options import add_result_arguments, count, run_command
from benchmarks.serving.preparation import prepare
from benchmarks.serving.service import running_service

TARGET_S = {"new_replica": 10.0, "after_kill": 10.0}
_SIZE_WH = (640, 480)
_SIZE_BYTES = 60_000
_ANSWER_TIMEOUT_S = 120.0


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description="Measures the starts of the service.")
    parser.add_argument("--rounds", type=count, default=3, help="of all starts")
    parser.add_argument("--backbone", default="mobilenet_v2", help="of the compact network")
    add_result_arguments(parser, name="serve_start")
    run_command(parser, _run)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    rounds = 1 if options.quick else options.rounds
    with tempfile.TemporaryDirectory(prefix="serving-") as scratch:
        prepared = prepare(
            Path(scratch),
            backbone=options.backbone,
            size_wh=_SIZE_WH,
            size_bytes=_SIZE_BYTES,
            cache=options.cache,
            quick=options.quick,
        )
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
        _answer(url, picture)
        times["service"] = time.monotonic() - begin_s
        [replica] = _replicas()
        replica.kill()
        begin_s = time.monotonic()
        replica.wait()
        _answer(url, picture)
        times["after_kill"] = time.monotonic() - begin_s
    with running_service(model, "--min-replicas", "0", "--max-replicas", "1") as url:
        _wait_for_none()
        begin_s = time.monotonic()
        _answer(url, picture)
        times["new_replica"] = time.monotonic() - begin_s
    return times


def _answer(url: str, picture: bytes) -> None:
    """Sends a picture until it is answered."""
    end_s = time.monotonic() + _ANSWER_TIMEOUT_S
    while True:
        request = urllib.request.Request(  # noqa: S310 - ours
            f"{url}/v1/detect", picture, {"Content-Type": "image/jpeg"}
        )
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_TIMEOUT_S):  # noqa: S310 - ours
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end_s:
                raise
            time.sleep(0.05)


def _wait_for_none() -> None:
    """Returns when no replica is left."""
    end_s = time.monotonic() + _ANSWER_TIMEOUT_S
    while _replicas():
        if time.monotonic() > end_s:
            raise RuntimeError(
                f"there is a replica after {_ANSWER_TIMEOUT_S:.0f} s without a request"
            )
        time.sleep(0.2)


def _replicas() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.Error:
            continue
        if words and words[0].startswith("ray::ServeReplica"):
            found.append(child)
    return found


if __name__ == "__main__":
    main()
