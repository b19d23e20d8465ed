"""Compares the ways to train: rounds in turn, and a table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from appliance.model.spec import COMPACT
from benchmarks.model_speed.pictures import PictureSet, draw_pictures
from benchmarks.peers.environment import ROOT
from benchmarks.peers.training.trainings import OURS, TRAININGS, Training, train_side
from benchmarks.peers.turns import summarise, take_turns
from benchmarks.training_speed.cases import case_of
from benchmarks.training_speed.sides import Bench

_WEIGHTS = ROOT.parent / "shared" / "weights" / "mobilenet_v2_imagenet.safetensors"


def compare_trainings(
    options: argparse.Namespace, write: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Runs all rounds.

    Args:
        options: Of the command.
        write: Called after every round with what there is.
    """
    bench = _bench(options)
    result: dict[str, Any] = {
        "init": Path(bench.init).name,
        "case": asdict(bench.case),
        "spec": bench.plan(0).spec.to_json(),
    }

    def measure(training: Training, python: Path, number: int) -> dict[str, Any]:
        told = train_side(training, python, bench, number)
        line = f"{told['images_per_s']:7.2f} images/s, step {told['step_ms']:.0f} ms, AP50 {told['map_50']:.3f}"
        return {**told, "line": line}

    def after() -> None:
        summarise(result, ("images_per_s", "step_ms", "map_50", "wall_s"), ours=OURS)
        write(result)

    take_turns(
        [TRAININGS[name] for name in options.peers or TRAININGS],
        measure,
        rounds=options.rounds,
        environments=options.environments,
        result=result,
        after=after,
    )
    print(table(result))
    return result


def table(result: Mapping[str, Any]) -> str:
    """All sides as lines for people."""
    rows = [f"{'':10} {'images/s':>9} {'ours by it':>10} {'step ms':>8} {'AP50':>6} {'lines':>6}"]
    for name, side in result["sides"].items():
        if "failed" in side:
            rows.append(f"{name:10} {side['failed']}")
            continue
        figures = side["figures"]
        ratio = result["ratios"].get(name)
        rows.append(
            f"{name:10} {figures['images_per_s']:9.2f} {'' if ratio is None else format(ratio['median'], '.2f'):>10} "
            f"{figures['step_ms']:8.0f} {figures['map_50']:6.3f} {side['lines_of_user_code']:6}"
        )
    return "\n".join(rows)


def _bench(options: argparse.Namespace) -> Bench:
    case = case_of(COMPACT, "cpu", quick=options.quick)
    if not options.quick:
        case = replace(case, steps=options.steps, settings={"backbone": options.backbone})
    pretrained = _WEIGHTS.exists() and not options.quick and options.backbone == "mobilenet_v2"
    return Bench(
        COMPACT,
        case,
        torch.device("cpu"),
        str(_WEIGHTS) if pretrained else "none",
        "auto",
        0,
        draw_pictures(PictureSet("train", case.train_pictures, case.size_wh), options.cache),
        draw_pictures(PictureSet("test", case.test_pictures, case.size_wh), options.cache),
    )
