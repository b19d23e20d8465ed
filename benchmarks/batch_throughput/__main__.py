"""Compares a loop without Ray, our batch job and Ray Data used plainly, on the same pictures and weights.

    python -m benchmarks.batch_throughput --json
    python -m benchmarks.batch_throughput --memory 2000,20000 --listing 1000000 --json

Rounds of the sides alternate, each in a process of its own. Weights are those of `benchmarks.model_speed`,
trained once and kept. `--memory` scores so many small pictures with a small network, and reports the peak
memory of driver, workers and object store for each number; `--listing` lists so many keys of a simulated
store. Prints tables, then with --json one JSON document last; the same goes to
`benchmarks/results/FOLDER/NAME.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from appliance import storage
from appliance.model import model_file
from appliance.model.faster_rcnn import build_network
from benchmarks.batch_throughput.sides import SIDES
from benchmarks.batch_throughput.watching import run_side
from benchmarks.commands import add_result_arguments, count, counts, run_command, some_of
from benchmarks.measurement import write_result
from benchmarks.model_speed.cases import case_of, spec_of
from benchmarks.model_speed.pictures import PictureSet, draw_pictures
from benchmarks.model_speed.weights import trained_model
from benchmarks.programs import told_by

_DISTINCT = 96
"""Drawn pictures; a job of more sees copies of them under other names."""
_SMALL_WH = (160, 120)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batch_throughput",
        description="Compares three ways to score a folder.",
    )
    parser.add_argument("--images", type=count, default=400, help="pictures of each side")
    parser.add_argument("--rounds", type=count, default=3, help="of each side")
    parser.add_argument(
        "--sides", type=some_of(tuple(SIDES)), default=tuple(SIDES), help="which, by commas"
    )
    parser.add_argument("--backbone", default="mobilenet_v2", help="of the compact network")
    parser.add_argument("--memory", type=counts, default=(), help="such as 2000,20000")
    parser.add_argument("--listing", type=count, help="keys of the simulated store")
    add_result_arguments(parser, name="batch_throughput")
    run_command(parser, _run)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {"images": options.images, "rounds": options.rounds, "results": []}
    with tempfile.TemporaryDirectory(prefix="throughput-") as scratch:
        model, pictures = _prepare(options, Path(scratch))
        for number in range(1, options.rounds + 1):
            for side in options.sides:
                measured = {"round": number, **run_side(side, model, pictures)}
                result["results"].append(measured)
                print(_line(measured), flush=True)
                write_result(options.name, "benchmarks.batch_throughput", result, options.folder)
    result["ratios"] = _ratios(result["results"])
    result["memory"] = [_memory(images, options) for images in options.memory]
    if options.listing:
        command = [sys.executable, "-m", "benchmarks.batch_throughput.listing"]
        told = told_by([*command, str(options.listing)])
        result["listing"] = json.loads(told)
        print("listing:", told.strip())
    for name, ratio in result["ratios"].items():
        print(f"{name}: {ratio['median']:.2f} of {ratio['rounds']}")
    write_result(options.name, "benchmarks.batch_throughput", result, options.folder)
    return result


def _prepare(options: argparse.Namespace, scratch: Path) -> tuple[str, str]:
    """The model file, and a folder of as many pictures as wanted."""
    spec = spec_of("fasterrcnn_compact", options.backbone, quick=options.quick)
    case = case_of("fasterrcnn_compact", "cpu", quick=options.quick)
    trained = trained_model(spec, case, torch.device("cpu"), options.cache)
    model = str(scratch / "model.safetensors")
    model_file.save(model, trained.network, trained.spec, name="compact", info=trained.info)
    drawn = draw_pictures(PictureSet("test", _DISTINCT, case.size_wh), options.cache)
    sources = [image.storage_path for image in drawn]
    return model, _copies(sources, options.images, scratch / "pictures")


def _copies(sources: Sequence[str], images: int, folder: Path) -> str:
    folder.mkdir()
    for index in range(images):
        (folder / f"{index:06d}.jpg").symlink_to(sources[index % len(sources)])
    return str(folder)


def _memory(images: int, options: argparse.Namespace) -> dict[str, Any]:
    """Our job on many small pictures with a network that costs next to nothing."""
    with tempfile.TemporaryDirectory(prefix="throughput-") as scratch:
        folder = Path(scratch)
        drawn = draw_pictures(PictureSet("test", _DISTINCT, _SMALL_WH), options.cache)
        (folder / "pictures").mkdir()
        for index in range(images):
            data = storage.read_bytes(drawn[index % len(drawn)].storage_path)
            (folder / "pictures" / f"{index:06d}.jpg").write_bytes(data)
        spec = spec_of("fasterrcnn_compact", quick=True)
        model = str(folder / "model.safetensors")
        torch.manual_seed(0)
        model_file.save(model, build_network(spec), spec, name="small")
        measured = run_side("ours", model, str(folder / "pictures"))
    print(_line(measured), flush=True)
    return measured


def _ratios(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    speeds = {(one["side"], one["round"]): one["images_per_s"] for one in results}
    rounds = sorted({one["round"] for one in results})
    found = {}
    for name, other in (("ours_to_bare", "bare"), ("ours_to_naive", "naive")):
        each = [
            speeds["ours", number] / speeds[other, number]
            for number in rounds
            if ("ours", number) in speeds and (other, number) in speeds
        ]
        if each:
            found[name] = {"median": median(each), "rounds": each}
    return found


def _line(one: dict[str, Any]) -> str:
    memory = ", ".join(f"{role} {mib} MiB" for role, mib in sorted(one["peak_mib"].items()))
    return (
        f"{one['side']:6} {one['images']:6} pictures {one['images_per_s']:8.2f} images/s,"
        f" start {one['start_up_s']:5.1f} s, {one['objects']} objects, peak {memory}"
    )


if __name__ == "__main__":
    main()
