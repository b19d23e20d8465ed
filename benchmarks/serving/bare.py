"""The predictor in a loop, without a service: what the machine can do at most.

    python -m benchmarks.serving.bare MODEL FOLDER SECONDS [THREADS]

Takes all cores unless told how many threads. Decodes a batch in threads, predicts it, and again, for so many seconds; prints one JSON document.
"""

from __future__ import annotations

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
    model, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    cores = int(sys.argv[4]) if sys.argv[4:] else len(os.sched_getaffinity(0))
    scorer = ImageScorer.load(model, device="cpu", num_threads=cores)
    items = [(path.name, path.read_bytes()) for path in sorted(folder.glob("*.jpg"))]
    endless = itertools.cycle(items)
    scored = 0
    with ThreadPoolExecutor(cores) as decoders:
        scorer.score([next(endless) for _ in range(_BATCH)], decoders)
        start_s = time.perf_counter()
        while time.perf_counter() < start_s + seconds:
            scored += len(scorer.score([next(endless) for _ in range(_BATCH)], decoders))
        took_s = time.perf_counter() - start_s
    print(json.dumps({"images": scored, "seconds": took_s, "images_per_s": scored / took_s}))


if __name__ == "__main__":
    main()
