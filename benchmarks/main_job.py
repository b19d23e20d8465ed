"""Times the main job as a user starts it: `appliance demo` in a process of its own.

    python -m benchmarks.main_job --json
    python -m benchmarks.main_job --name fridge --data DIR --init FILE --json

Prints a table, then with --json one JSON document last; the same goes to
`benchmarks/results/FOLDER/NAME.json`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from appliance.bulk.scores.manifest import read_records
from appliance.images.drawing import draw_detections, load_picture
from appliance.records import Record
from benchmarks.commands import count, run_command
from benchmarks.measurement import RESULTS_DIR, write_result
from benchmarks.programs import told_by

FIGURES = ("map_50", "train_wall_s", "batch_images_per_s", "http_p50_ms", "total_wall_s")


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.main_job", description="Times the main job as a user starts it."
    )
    parser.add_argument("--name", default="main_job", help="name of the result file")
    parser.add_argument("--folder", default="latest", help="folder below benchmarks/results/")
    parser.add_argument("--repeats", type=count, default=1, help="how often to run it")
    parser.add_argument("--quick", action="store_true", help="once, with 40 training steps")
    parser.add_argument("--data", help="own Pascal VOC folder instead of drawn scenes")
    parser.add_argument("--init", default="none", help="starting weights")
    parser.add_argument("--steps", type=int, help="training steps")
    parser.add_argument(
        "--picture", action="store_true", help="also draw the detections on two test pictures"
    )
    parser.add_argument("--keep", help="folder for what the last run made: model, scores, pictures")
    parser.add_argument("--json", action="store_true", help="print one JSON document last")
    run_command(parser, _measure, {"repeats": 1, "steps": 40})


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    arguments = ["--init", options.init]
    arguments += [] if options.data is None else ["--data", options.data]
    arguments += [] if options.steps is None else ["--steps", str(options.steps)]
    picture = RESULTS_DIR / options.folder / "detections.jpg" if options.picture else None
    runs = [_run(arguments, picture, options.keep) for _ in range(options.repeats)]
    result = {
        "median": {name: statistics.median(run[name] for run in runs) for name in FIGURES},
        "http_equals_batch": all(run["http_equals_batch"] for run in runs),
        "same_map_50_every_time": len({run["map_50"] for run in runs}) == 1,
        "runs": runs,
    }
    for name, value in result["median"].items():
        print(f"{name:20} {value:10.3f}")
    write_result(options.name, "benchmarks.main_job", result, options.folder)
    return result


def _run(arguments: list[str], picture: Path | None, keep: str | None) -> dict[str, Any]:
    appliance = Path(sys.executable).with_name("appliance")
    with tempfile.TemporaryDirectory() as folder:
        command = [str(appliance), "demo", "--quiet", "--json", "--out", f"{folder}/out"]
        told = told_by([*command, *arguments])
        if picture is not None:
            picture.parent.mkdir(parents=True, exist_ok=True)
            _draw(read_records(f"{folder}/out/scores")[:2]).save(picture, quality=88)
        if keep is not None:
            shutil.copytree(f"{folder}/out", keep, dirs_exist_ok=True)
    summary: dict[str, Any] = json.loads(told.splitlines()[-1])
    return summary


def _draw(records: Sequence[Record], scale: int = 2, score_threshold: float = 0.5) -> Image.Image:
    """The pictures side by side, enlarged, with what was found on them."""
    drawn = []
    for record in records:
        picture = load_picture(record.image_uri)
        found = [d for d in record.detections if d.score >= score_threshold]
        drawn.append(
            draw_detections(
                picture.resize((picture.width * scale, picture.height * scale), Image.LANCZOS),
                np.array([(d.x1, d.y1, d.x2, d.y2) for d in found]).reshape(-1, 4) * scale,
                [f"{d.label} {d.score:.2f}" for d in found],
                [d.class_id for d in found],
            )
        )
    sheet = Image.new("RGB", (sum(p.width for p in drawn), max(p.height for p in drawn)), "white")
    left = 0
    for picture in drawn:
        sheet.paste(picture, (left, 0))
        left += picture.width
    return sheet


if __name__ == "__main__":
    main()
