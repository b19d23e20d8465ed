"""Times torchvision's Faster R-CNN and the appliance's on the same weights and pictures.

    python -m benchmarks.model_speed --json
    python -m benchmarks.model_speed --arch resnet50_fpn --device cuda --batch 16 --json

Weights are trained once on sample scenes and kept in `.cache/model_speed/`. Rounds of both sides alternate.
Needs only torch, torchvision, numpy, pillow and safetensors; without faster-coco-eval COCO's AP is left
out. Prints a table, then with --json one JSON document last; the same goes to
`benchmarks/results/FOLDER/NAME.json`. Progress goes to standard error.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from appliance.model.device import resolve_device
from benchmarks.commands import count, counts, run_command
from benchmarks.measurement import write_result
from benchmarks.model_speed.accuracy import has_coco
from benchmarks.model_speed.cases import ROUNDS, case_of, spec_of
from benchmarks.model_speed.compare import Bench
from benchmarks.model_speed.options import add_arguments
from benchmarks.model_speed.table import table


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.model_speed",
        description="Times torchvision's Faster R-CNN and the appliance's, in turn.",
    )
    add_arguments(parser, name="model_speed")
    parser.add_argument("--batch", type=counts, help="1,4,16 by default; 1,4 with --quick")
    parser.add_argument(
        "--rounds", type=count, help=f"of each side: {ROUNDS} by default; 1 with --quick"
    )
    run_command(parser, _run)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    device = resolve_device(options.device)
    batches = options.batch or ((1, 4) if options.quick else (1, 4, 16))
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    result: dict[str, Any] = {
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        # What torch allows by itself in "float32" convolutions of a GPU.
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        "rounds": rounds,
        "quick": options.quick,
        "coco": "faster-coco-eval" if has_coco() else "left out: faster-coco-eval is not here",
        "results": [],
    }
    for architecture in options.arch:
        case = case_of(architecture, device.type, quick=options.quick)
        spec = spec_of(architecture, options.backbone, quick=options.quick)
        bench = Bench.prepare(spec, case, device, options.cache)
        print(bench.headline(), flush=True)
        for batch in batches:
            compared = bench.compare(batch, rounds)
            print(table(compared), flush=True)
            result["results"].append(compared)
            # After each of them, since a run takes long: what is measured is kept.
            write_result(options.name, "benchmarks.model_speed", result, options.folder)
    return result


if __name__ == "__main__":
    main()
