"""The predictor in a loop, without a service: what the machine can do at most.

    python -m benchmarks.serving.bare MODEL FOLDER SECONDS
    python -m benchmarks.serving.bare MODEL FOLDER SECONDS --threads 1 --wait

Decodes a batch in threads, predicts it, and again, for so many seconds; prints one JSON document. With --wait it says
that it is ready, and begins at a line from standard input: so several of them run at the same time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from appliance.scoring import ImageScorer

_BATCH = 8


def main() -> None:
    """Scores."""
    parser = argparse.ArgumentParser(description="Scores pictures in a loop.")
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--wait", action="store_true", help="for a line, before the loop")
    options = parser.parse_args()
    cores, seconds = options.threads, options.seconds
    scorer = ImageScorer.load(options.model, device="cpu", num_threads=cores)
    items = [(path.name, path.read_bytes()) for path in sorted(options.folder.glob("*.jpg"))]
    endless = itertools.cycle(items)
    scored = 0
    with ThreadPoolExecutor(cores) as decoders:
        scorer.score([next(endless) for _ in range(_BATCH)], decoders)
        if options.wait:
            print("ready", flush=True)
            sys.stdin.readline()
        start_s = time.perf_counter()
        while time.perf_counter() < start_s + seconds:
            scored += len(scorer.score([next(endless) for _ in range(_BATCH)], decoders))
        took_s = time.perf_counter() - start_s
    print(json.dumps({"images": scored, "seconds": took_s, "images_per_s": scored / took_s}))


if __name__ == "__main__":
    main()
