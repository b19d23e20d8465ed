"""What is compared, each in a process of its own so that its memory can be seen.

    bare    a loop without Ray: decode a batch in threads, predict it, write one Parquet file
    ours    the job that `appliance score` runs
    naive   Ray Data as its documentation begins: read_images, map_batches of torchvision's model, write

    python -m benchmarks.batch_throughput.sides SIDE MODEL PICTURES

prints one JSON document. Speed is that of the steady state: pictures by the time from the first to the last,
start-up excluded on every side.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.batch_throughput.naive_ray import BATCH, CORES, naive
from benchmarks.commands import end_on_sigterm


def bare(model: str, pictures: str, output: str) -> dict[str, Any]:
    """The predictor in a loop, with as many threads as there are cores."""
    import pyarrow.parquet

    from appliance.records import records_to_table
    from appliance.scoring import ImageScorer

    started = time.perf_counter()
    scorer = ImageScorer.load(model, device="cpu", num_threads=CORES)
    paths = sorted(Path(pictures).glob("*.jpg"))
    records = []
    with ThreadPoolExecutor(CORES) as decoders:
        first = time.perf_counter()
        for start in range(0, len(paths), BATCH):
            batch = [(str(path), path.read_bytes()) for path in paths[start : start + BATCH]]
            records += scorer.score(batch, decoders)
        pyarrow.parquet.write_table(records_to_table(records), f"{output}/scores.parquet")
        last = time.perf_counter()
    return {
        "images": len(records),
        "objects": sum(len(record.detections) for record in records),
        "start_up_s": first - started,
        "images_per_s": len(records) / (last - first),
    }


def ours(model: str, pictures: str, output: str) -> dict[str, Any]:
    """The job of `appliance score`."""
    from appliance.bulk.config import BatchScoringConfig
    from appliance.on_ray.batch_scoring import score_input

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    summary = score_input(
        model, pictures, f"{output}/scores", config=BatchScoringConfig(progress="log")
    )
    return {
        "images": summary.rows,
        "objects": sum(summary.objects_per_label.values()),
        "start_up_s": summary.start_up_s,
        "images_per_s": summary.images_per_s,
        "stages": {name: vars(share) for name, share in summary.stages.items()},
    }


SIDES: dict[str, Callable[[str, str, str], dict[str, Any]]] = {
    "bare": bare,
    "ours": ours,
    "naive": naive,
}


def main() -> None:
    """Runs one side."""
    parser = argparse.ArgumentParser(description="Scores a folder in one of three ways.")
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("model")
    parser.add_argument("pictures")
    options = parser.parse_args()
    end_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="throughput-") as output:
        print(json.dumps(SIDES[options.side](options.model, options.pictures, output)))


if __name__ == "__main__":
    main()
