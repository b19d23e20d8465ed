"""How much a second worker brings, and what a replica costs besides its model, up to 32 on one machine.

    python -m benchmarks.scaling --json
    python -m benchmarks.scaling --only control_plane --replicas 1,2,4,8,16,32 --json
    python -m benchmarks.scaling --only tasks --tasks 1000 --json

Parts: `model` is the predictor in processes of its own, what the machine itself gives; `training`, `batch` and `online`
give two workers of one thread twice the work of one (weak scaling); `tasks` gives a scoring job many parts and few;
`control_plane` has a service whose model sleeps.
benchmarks/EXTRAPOLATION.md goes on from there. Prints a table, then with --json one JSON document last; the same goes
to `benchmarks/results/FOLDER/NAME.json`, after every part.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from copy import copy
from typing import Any

from appliance.on_ray.cluster import local_cluster
from benchmarks.commands import add_result_arguments, count, counts, positive, run_command, some_of
from benchmarks.measurement import write_result
from benchmarks.scaling import control_plane, tasks, weak
from benchmarks.scaling.control_plane import ControlPlane
from benchmarks.serving.preparation import Prepared, prepared_for

_WEAK = ("model", "training", "batch", "online")
PARTS = (*_WEAK, "tasks", "control_plane")
_QUICK = {
    "rounds": 1,
    "seconds": 1.0,
    "idle_seconds": 1.0,
    "pictures": 16,
    "steps": 4,
    "tasks": 32,
    "replicas": (2,),
}
_SMALL_WH = (160, 120)
_SMALL_BYTES = 10_000
"""For the model that sleeps, or decoding would be most of what is seen."""


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description="Measures how work grows with workers."
    )
    parser.add_argument(
        "--only", type=some_of(PARTS), default=PARTS, help=f"some of {','.join(PARTS)}"
    )
    parser.add_argument("--rounds", type=count, default=3, help="of everything")
    parser.add_argument("--seconds", type=positive, default=12.0, help="of each load")
    parser.add_argument("--pictures", type=count, default=240, help="of batch, for each worker")
    parser.add_argument("--steps", type=count, default=50, help="of training, ten of them warm up")
    parser.add_argument("--tasks", type=count, default=1000, help="of the job with many")
    parser.add_argument(
        "--replicas", type=counts, default=(1, 2, 4, 8, 16, 32), help="that sleep, such as 1,2,4"
    )
    parser.add_argument("--sleep-ms", type=positive, default=50.0, help="of the model that sleeps")
    parser.add_argument(
        "--idle-seconds", type=positive, default=10.0, help="to look at a service at rest"
    )
    parser.add_argument("--backbone", default="mobilenet_v2", help="of the compact network")
    add_result_arguments(parser, name="scaling")
    run_command(parser, _run, _QUICK)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {"rounds": options.rounds, "weak": {}}
    if set(_WEAK) & set(options.only):
        with prepared_for(options) as prepared:
            _weak(prepared, options, result)
    if "tasks" in options.only:
        tiny = copy(options)
        tiny.quick = True  # the network is not what is measured
        with prepared_for(tiny) as prepared, local_cluster():
            result["tasks"] = tasks.measure(prepared, options.tasks, options.rounds)
        write_result(options.name, "benchmarks.scaling", result, options.folder)
    if "control_plane" in options.only:
        with prepared_for(options, size_wh=_SMALL_WH, size_bytes=_SMALL_BYTES) as small:
            plan = ControlPlane(
                tuple(sorted(options.replicas)),
                options.sleep_ms,
                options.seconds,
                options.idle_seconds,
                options.rounds,
            )
            measured = control_plane.measure(small, plan)
            result["control_plane"] = {"picture_bytes": small.mean_bytes, **measured}
            write_result(options.name, "benchmarks.scaling", result, options.folder)
    for name, found in result["weak"].items():
        print(
            f"{name:9} two by one {found['speed_up']['median']:.2f}, efficiency {found['efficiency']['median']:.2f}"
        )
    for name, unit in (("task_ms", "ms"), ("driver_cpu_ms", "ms"), ("driver_kib", "KiB")):
        if "tasks" in result:
            print(f"{name:24} {result['tasks'][name]['median']:.1f} {unit} for each task more")
    for name, value in result.get("control_plane", {}).get("limits", {}).items():
        print(f"{name:24} {value}")
    return result


def _weak(prepared: Prepared, options: argparse.Namespace, result: dict[str, Any]) -> None:
    load = weak.Load(options.seconds, options.pictures, options.steps, options.quick)
    sides: dict[str, Callable[[], weak.Side]] = {
        "model": lambda: weak.model_alone(prepared, load),
        "training": lambda: weak.training(load, options.cache),
        "batch": lambda: weak.batch(prepared, load),
        "online": lambda: weak.online(prepared, load),
    }
    for name, side in sides.items():
        if name not in options.only:
            continue
        # A cluster of its own for each: what one leaves behind is not what the next one finds.
        with local_cluster() if name in ("training", "batch") else nullcontext():
            result["weak"][name] = weak.measure(side(), options.rounds, name)
        write_result(options.name, "benchmarks.scaling", result, options.folder)


if __name__ == "__main__":
    main()
