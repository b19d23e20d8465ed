"""Times the measuring of 100,000 detections over 5,000 pictures, beside pycocotools, on one core.

    python -m benchmarks.evaluation_speed --json

The objects and detections are drawn from a seed. Each round measures everything in turn, so that whatever
else the machine does meets all alike; the COCO figures must be those of pycocotools. Prints a table, then
with --json one JSON document last; the same goes to `benchmarks/results/FOLDER/NAME.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.detections import Detections
from appliance.evaluation.metrics.average_precision import pascal_average_precision
from appliance.evaluation.metrics.coco import CocoResult, coco_average_precision
from appliance.evaluation.metrics.confusion import confusion_matrix
from appliance.evaluation.metrics.error_types import analyse_errors
from appliance.evaluation.metrics.intervals import bootstrap_intervals
from appliance.evaluation.metrics.matching import GroundTruth
from appliance.labels import LabelMap
from benchmarks.commands import run_command
from benchmarks.measurement import write_result

SIDE_PX = 640
OBJECTS_PER_PICTURE = 10
CROWD_SHARE = 0.02
MOST_DIFFERENCE = 1e-9
LIMIT_S = 10.0
COMPARED = ("faster-coco-eval", "pycocotools")


@dataclass(frozen=True, eq=False)
class Case:
    """What is measured: one truth and one `Detections` per picture."""

    ground_truths: list[GroundTruth]
    detections: list[Detections]
    labels: LabelMap


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation_speed",
        description="Times the measuring of detections on one core.",
    )
    parser.add_argument("--name", default="evaluation_speed", help="name of the result file")
    parser.add_argument("--folder", default="evaluation", help="folder below benchmarks/results/")
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100_000, help="on all pictures together")
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON document last")
    run_command(parser, _run)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    # Threads, should any library start some, share this one core.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    case = draw_case(options.pictures, options.detections, options.labels)
    result = measure(case, options.rounds)
    for name, seconds in result["median_s"].items():
        print(f"{name:22} {seconds:8.3f} s {result['median_cpu_s'][name]:8.3f} s of the processor")
    print(f"{'pycocotools / coco':22} {result['pycocotools_over_coco']:8.1f} x")
    print(f"{'largest difference':22} {result['largest_difference']:8.1e}")
    print(f"{'most memory':22} {result['most_memory_mib']:8.0f} MiB")
    write_result(options.name, "benchmarks.evaluation_speed", result, options.folder)
    return result


def draw_case(pictures: int, detections: int, labels: int, seed: int = 0) -> Case:
    """Pictures with objects of all sizes, a few of them crowds, and detections that mostly fit.

    Args:
        pictures: How many.
        detections: On all of them together, spread evenly.
        labels: Classes.
        seed: The same seed draws the same.
    """
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for index, count in enumerate(np.diff(np.linspace(0, detections, pictures + 1).astype(int))):
        corners = rng.uniform(0, SIDE_PX - 200, (OBJECTS_PER_PICTURE, 2))
        sizes = np.exp(rng.uniform(np.log(12), np.log(200), (OBJECTS_PER_PICTURE, 2)))
        boxes = np.concatenate([corners, corners + sizes], axis=1)
        ids = rng.integers(1, labels + 1, OBJECTS_PER_PICTURE)
        is_crowd = rng.random(OBJECTS_PER_PICTURE) < CROWD_SHARE
        # Nothing is difficult: pycocotools has no word for that.
        truths.append(GroundTruth(boxes, ids, np.zeros_like(is_crowd), f"{index}.jpg", is_crowd))
        near = rng.integers(OBJECTS_PER_PICTURE, size=count)
        found.append(_detections(rng, boxes[near], ids[near], labels))
    return Case(truths, found, LabelMap(tuple(f"label {index}" for index in range(labels))))


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Times everything in turn, so many times, and compares the COCO figures.

    Raises:
        RuntimeError: The figures differ from those of pycocotools.
    """
    pascal = pascal_average_precision(case.ground_truths, case.detections, case.labels)
    everything = (case.ground_truths, case.detections, case.labels)
    tasks: dict[str, Callable[[], Any]] = {
        "pascal": lambda: pascal_average_precision(*everything),
        "coco": lambda: coco_average_precision(*everything),
        "pascal_and_coco": lambda: (
            pascal_average_precision(*everything),
            coco_average_precision(*everything),
        ),
        "pycocotools": lambda: pycocotools_figures(case),
        "bootstrap_1000": lambda: bootstrap_intervals(pascal),
        "error_types": lambda: analyse_errors(*everything),
        "confusion": lambda: confusion_matrix(*everything, 0.5),
    }
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in tasks}
    answers: dict[str, Any] = {}
    # The most so far, after each task of the first round: pycocotools hides what comes after it.
    memory_mib = {"before": _most_memory_mib()}
    for _ in range(rounds):
        for name, task in tasks.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            answers[name] = task()
            seconds[name].append(time.perf_counter() - start)
            cpu_seconds[name].append(time.process_time() - cpu_start)
            memory_mib.setdefault(f"after_{name}", _most_memory_mib())
    difference = largest_difference(answers["coco"], answers["pycocotools"])
    if difference > MOST_DIFFERENCE:
        raise RuntimeError(f"COCO figures differ from those of pycocotools by {difference}")
    median_s = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "pictures": len(case.ground_truths),
        "detections": sum(len(found) for found in case.detections),
        "objects": sum(len(truth) for truth in case.ground_truths),
        "labels": len(case.labels),
        "cores_used": len(os.sched_getaffinity(0)),
        "median_s": median_s,
        "median_cpu_s": {name: statistics.median(values) for name, values in cpu_seconds.items()},
        "pycocotools_over_coco": median_s["pycocotools"] / median_s["coco"],
        "limit_s": LIMIT_S,
        "within_limit": median_s["pascal_and_coco"] < LIMIT_S,
        "largest_difference": difference,
        "compared": {name: metadata.version(name) for name in COMPARED},
        "most_memory_mib": memory_mib["after_pascal_and_coco"],
        "memory_mib": memory_mib,
        "map_50": answers["pascal"].map,
        "coco": answers["coco"].to_metrics(),
        "rounds_s": seconds,
        "rounds_cpu_s": cpu_seconds,
    }


def pycocotools_figures(case: Case) -> list[float]:
    """The twelve figures as pycocotools has them, from the same values."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(len(case.ground_truths))],
        "categories": [{"id": index + 1} for index in range(len(case.labels))],
        "annotations": [],
    }
    answers = []
    for image, (truth, found) in enumerate(zip(case.ground_truths, case.detections, strict=True)):
        for box, class_id, is_crowd in zip(
            _xywh(truth.boxes_xyxy), truth.class_ids.tolist(), truth.is_crowd.tolist(), strict=True
        ):
            number = len(coco.dataset["annotations"]) + 1
            row = {"id": number, "image_id": image, "category_id": class_id, "bbox": box}
            coco.dataset["annotations"].append(
                {**row, "area": box[2] * box[3], "iscrowd": int(is_crowd)}
            )
        for box, class_id, score in zip(
            _xywh(found.boxes_xyxy), found.class_ids.tolist(), found.scores.tolist(), strict=True
        ):
            row = {"image_id": image, "category_id": class_id, "bbox": box}
            answers.append({**row, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        scorer = COCOeval(coco, coco.loadRes(answers), "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    figures: list[float] = scorer.stats.tolist()
    return figures


def largest_difference(ours: CocoResult, theirs: list[float]) -> float:
    """The largest difference of any of the twelve figures; theirs is -1 where ours is None."""
    known = [-1.0 if value is None else value for value in ours.to_metrics().values()]
    return float(np.abs(np.subtract(known, theirs)).max())


def _detections(
    rng: np.random.Generator,
    boxes: npt.NDArray[np.float64],
    class_ids: npt.NDArray[np.int64],
    labels: int,
) -> Detections:
    """Detections about these boxes, most of them close and of the right class."""
    count = len(boxes)
    sizes = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    spread = rng.choice([0.03, 0.1, 0.4], (count, 1), p=[0.5, 0.3, 0.2])
    moved = boxes + rng.normal(0, 1, (count, 4)) * spread * sizes
    top_left = moved[:, :2].clip(0, SIDE_PX - 2)
    bottom_right = np.maximum(moved[:, 2:], top_left + 2).clip(0, SIDE_PX)
    is_right = rng.random(count) < 0.85
    ids = np.where(is_right, class_ids, rng.integers(1, labels + 1, count))
    scores = np.sort(rng.beta(1, 2, count))[::-1]
    # The better a detection fits, the likelier its score is high.
    order = np.argsort(spread[:, 0] + rng.normal(0, 0.1, count))
    found = np.concatenate([top_left, bottom_right], axis=1)[order]
    return Detections(found, scores, ids[order], (SIDE_PX, SIDE_PX))


def _xywh(boxes_xyxy: npt.NDArray[np.float32]) -> list[list[float]]:
    boxes = boxes_xyxy.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    rows: list[list[float]] = boxes.tolist()
    return rows


def _most_memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
