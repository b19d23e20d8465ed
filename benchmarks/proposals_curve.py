"""How many proposals accuracy needs, and what each costs: AP and time against proposals before and after NMS.

    python -m benchmarks.proposals_curve --arch resnet50_fpn --json

Weights and pictures are those of `benchmarks.model_speed`; every second picture shows about 32 objects. The
AP comes from torchvision's own modules, whose trunk runs once a picture; the time from the appliance's
predictor. Prints a table, then with --json one JSON document last; the same goes to
`benchmarks/results/FOLDER/NAME.json`, with two charts for each architecture beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from appliance.model.device import resolve_device
from benchmarks.commands import run_command
from benchmarks.measurement import RESULTS_DIR, write_result
from benchmarks.model_speed.cases import case_of, spec_of
from benchmarks.model_speed.compare import Bench
from benchmarks.model_speed.curve_charts import accuracy_chart, time_chart
from benchmarks.model_speed.options import add_arguments
from benchmarks.model_speed.proposals import Point, Proposals, curve, recommended

PRE_NMS = (1000, 500, 300, 150, 100)
POST_NMS = (1000, 500, 300, 150, 100, 50)
TIME_ROUNDS = 3


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.proposals_curve",
        description="AP and time against the number of proposals.",
    )
    add_arguments(parser, name="proposals_curve")
    run_command(parser, _run)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    device = resolve_device(options.device)
    grid = [Proposals(pre, post) for pre in PRE_NMS for post in POST_NMS]
    if options.quick:
        grid = [Proposals(100, 50), Proposals(20, 10)]
    result: dict[str, Any] = {"device": device.type, "quick": options.quick, "results": []}
    folder = RESULTS_DIR / options.folder
    for architecture in options.arch:
        case = case_of(architecture, device.type, quick=options.quick)
        spec = spec_of(architecture, options.backbone, quick=options.quick)
        bench = Bench.prepare(spec, case, device, options.cache)
        print(bench.headline(), flush=True)
        points = curve(bench, grid, time_rounds=1 if options.quick else TIME_ROUNDS)
        best = recommended(points)
        _print(points, best)
        result["results"].append(
            {
                "arch": architecture,
                "backbone": spec.backbone,
                "recommended": asdict(best),
                "points": [asdict(point) for point in points],
                "pictures": len(bench.images),
                "objects": sum(len(image) for image in bench.images),
                "weights": bench.model.info.training,
            }
        )
        write_result(options.name, "benchmarks.proposals_curve", result, options.folder)
        for chart in (accuracy_chart(architecture, points), time_chart(architecture, points)):
            (folder / f"{options.name}-{architecture}-{chart.name}.png").write_bytes(chart.png)
    return result


def _print(points: Sequence[Point], best: Point) -> None:
    print(f"{'pre':>6} {'post':>6} {'AP50':>8} {'crowded':>8} {'COCO AP':>8} {'ms':>8}")
    for point in points:
        coco_ap = "-" if point.coco_ap is None else f"{point.coco_ap:.4f}"
        print(
            f"{point.pre_nms:>6} {point.post_nms:>6} {point.ap50:8.4f} {point.ap50_crowded:8.4f}"
            f" {coco_ap:>8} {point.ms_per_image:8.1f}{'  recommended' if point == best else ''}"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
