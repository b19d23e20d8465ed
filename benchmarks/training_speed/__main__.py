"""Times a plain training loop around torchvision's model and the appliance's training, in turn.

    python -m benchmarks.training_speed --json
    python -m benchmarks.training_speed --device cuda --json

Every round trains all sides from the same weights on the same pictures: the plain loop, ours in this process, and
ours through Ray Train with one worker, with one worker of one thread, and with two of one thread each. Where Ray is
not installed, torch, torchvision, numpy, pillow and safetensors are enough for the first two. Prints one line for
each training, then with --json one JSON document last; the same goes to `benchmarks/results/FOLDER/NAME.json`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from appliance.errors import ConfigError
from appliance.model.device import resolve_device
from appliance.model.spec import COMPACT
from appliance.training.plan import TrainingPlan
from benchmarks.commands import count, run_command, some_of
from benchmarks.measurement import write_result
from benchmarks.model_speed.accuracy import has_coco
from benchmarks.model_speed.options import add_arguments
from benchmarks.model_speed.pictures import PictureSet, draw_pictures
from benchmarks.training_speed.cases import ON_GPU, Case, case_of
from benchmarks.training_speed.ratios import (
    OURS,
    PLAIN,
    RAY_ONE,
    RAY_ONE_THREAD,
    RAY_TWO,
    SIDES,
    line,
    ratios,
)
from benchmarks.training_speed.sides import Bench, SideRun, train_ours, train_plain

_WEIGHTS = (
    Path(__file__).resolve().parents[3] / "shared" / "weights" / "mobilenet_v2_imagenet.safetensors"
)
_ROUNDS = 3

Side = Callable[[Bench, TrainingPlan], SideRun]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_speed",
        description="Times a plain training loop and the appliance's training, in turn.",
    )
    add_arguments(parser, name="training_speed")
    parser.set_defaults(arch=())
    parser.add_argument(
        "--init",
        help="weights to start from, or none; by default MobileNet v2 of ImageNet for the compact"
        " network where its file lies beside the checkout, else none",
    )
    parser.add_argument(
        "--sides", type=some_of(SIDES), default=SIDES, help=f"some of {','.join(SIDES)}"
    )
    parser.add_argument("--steps", type=count, help="of every training")
    parser.add_argument("--batch", type=count, help="pictures a step")
    parser.add_argument("--rounds", type=count, help=f"of every side; default {_ROUNDS}")
    parser.add_argument("--precision", default="auto", help="of ours; the plain loop has float32")
    parser.add_argument(
        "--loader-workers", type=count, help="processes that read ahead, both sides"
    )
    parser.add_argument(
        "--plain-frozen-stages",
        type=int,
        choices=range(4),
        default=0,
        help="stages of the backbone that the plain loop freezes; ours freezes one of"
        " pretrained weights by itself",
    )
    run_command(parser, _run)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    device = resolve_device(options.device)
    architecture = _architecture(options.arch, device.type)
    case = _case(architecture, device.type, options)
    bench = Bench(
        architecture,
        case,
        device,
        _init(architecture, options),
        options.precision,
        options.plain_frozen_stages,
        draw_pictures(PictureSet("train", case.train_pictures, case.size_wh), options.cache),
        draw_pictures(PictureSet("test", case.test_pictures, case.size_wh), options.cache),
    )
    sides, left_out = _sides_here(options.sides, device)
    rounds = options.rounds or (1 if options.quick else _ROUNDS)
    result: dict[str, Any] = {
        "arch": architecture,
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "init": Path(bench.init).name,
        "quick": options.quick,
        "case": asdict(case),
        "plain_frozen_stages": bench.plain_frozen_stages,
        "plan": bench.plan(0).config.to_json(),
        "spec": bench.plan(0).spec.to_json(),
        "coco": "faster-coco-eval" if has_coco() else "left out: faster-coco-eval is not here",
        "left_out": left_out,
        "results": [],
    }
    for number in range(1, rounds + 1):
        plan = bench.plan(seed=number)
        for name, side in sides.items():
            one = {
                "side": name,
                "round": number,
                **bench.figures(side(bench, plan), plan),
            }
            print(line(one), flush=True)
            result["results"].append(one)
            # After each of them, since a run takes long: what is measured is kept.
            result["ratios"] = ratios(result["results"])
            write_result(options.name, "benchmarks.training_speed", result, options.folder)
    for name, ratio in result["ratios"].items():
        print(f"{name:20} {'left out' if ratio is None else format(ratio['median'], '.3f')}")
    return result


def _architecture(chosen: tuple[str, ...], device_type: str) -> str:
    if len(chosen) > 1:
        raise ConfigError("One architecture at a time", got=", ".join(chosen))
    return chosen[0] if chosen else ON_GPU if device_type == "cuda" else COMPACT


def _case(architecture: str, device_type: str, options: argparse.Namespace) -> Case:
    """The case with what the options wish instead."""
    case = case_of(architecture, device_type, quick=options.quick)
    wishes = {
        "steps": options.steps,
        "batch_size": options.batch,
        "loader_workers": options.loader_workers,
        "plain_loader_workers": options.loader_workers,
        "settings": {**case.settings, "backbone": options.backbone} if options.backbone else None,
    }
    case = replace(case, **{name: value for name, value in wishes.items() if value is not None})
    if case.steps <= case.warm_up_steps:
        raise ConfigError(
            "No step is left to time",
            got=f"--steps {case.steps}",
            expected=f"above {case.warm_up_steps}",
        )
    if case.batch_size > case.train_pictures:
        raise ConfigError(
            "A batch has more pictures than there are",
            got=f"--batch {case.batch_size}",
            expected=f"at most {case.train_pictures}",
        )
    return case


def _init(architecture: str, options: argparse.Namespace) -> str:
    if options.init is not None:
        return str(options.init)
    by_default = architecture == COMPACT and not options.quick and options.backbone is None
    return str(_WEIGHTS) if by_default and _WEIGHTS.exists() else "none"


def _sides_here(
    wanted: tuple[str, ...], device: torch.device
) -> tuple[dict[str, Side], dict[str, str]]:
    """The sides that can run here, in their order, and why the others cannot."""
    reasons = {side: "not asked for" for side in SIDES if side not in wanted}
    on_ray = [side for side in (RAY_ONE, RAY_ONE_THREAD, RAY_TWO) if side in wanted]
    if find_spec("ray") is None:
        reasons |= dict.fromkeys(on_ray, "Ray is not installed")
    elif device.type == "cuda":
        # One thread is a measure of CPUs alone.
        on_cpus = [side for side in on_ray if side != RAY_ONE]
        reasons |= dict.fromkeys(on_cpus, "compares workers of one thread each, on CPUs")
    sides: dict[str, Side] = {PLAIN: train_plain, OURS: train_ours}
    if any(side not in reasons for side in on_ray):
        # Before the first round, so that all sides run beside the same idle cluster.
        from appliance.on_ray.cluster import connect
        from benchmarks.training_speed.ray_side import train_on_workers

        connect()
        threads = None if device.type == "cuda" else torch.get_num_threads()
        sides |= {
            RAY_ONE: partial(train_on_workers, workers=1, threads=threads),
            RAY_ONE_THREAD: partial(train_on_workers, workers=1, threads=1),
            RAY_TWO: partial(train_on_workers, workers=2, threads=1),
        }
    return {name: side for name, side in sides.items() if name not in reasons}, reasons


if __name__ == "__main__":
    main()
