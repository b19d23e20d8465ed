"""What a service can take, measured from outside by an open load.

    python -m benchmarks.online http://127.0.0.1:8000 --json
    python -m benchmarks.online URL --rate 20 --seconds 600 --pictures DIR

Requests come as a Poisson process, whatever becomes of those before, and a latency counts from the time when its
request was due: a service that stalls is not forgiven. Each answer is checked; what is wrong counts as missed.
Prints a table, then with --json one JSON document last; the same goes to `benchmarks/results/FOLDER/NAME.json`,
with all latencies as HDR histograms. A key is taken from APPLIANCE_KEY, or several by commas.
"""

from __future__ import annotations

import argparse
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import locust  # noqa: F401 - first of all: it replaces the sockets of Python before others take them

from appliance.client.access import without_secrets
from appliance.errors import ConfigError, ServiceError
from benchmarks.measurement import write_result
from benchmarks.model_speed.options import add_result_arguments, run_command
from benchmarks.online.open_loop import OpenLoop
from benchmarks.online.pictures import DEFAULT_SIZES, PictureMix, sample_folder
from benchmarks.online.protocols import PROTOCOLS
from benchmarks.online.tables import steps_table
from benchmarks.online.target import Target

_QUICK_SECONDS = 3.0


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.online", description="Loads a service from outside."
    )
    parser.add_argument("url", help="of the service, such as http://127.0.0.1:8000")
    parser.add_argument("--pictures", type=Path, help="folder of pictures; else scenes are drawn")
    parser.add_argument(
        "--sizes",
        default=DEFAULT_SIZES,
        help="longer sides in pixels with their weights, or `own` for the files as they are",
    )
    parser.add_argument("--protocol", choices=sorted(PROTOCOLS), default="detect")
    parser.add_argument("--rate", type=_positive, help="requests a second: one step, no search")
    parser.add_argument("--seconds", type=_positive, default=30.0, help="of each step")
    parser.add_argument(
        "--objective-ms", type=_positive, default=1000.0, help="a right answer within it is good"
    )
    parser.add_argument("--deadline-ms", type=_positive, help="told to the service with requests")
    parser.add_argument("--seed", type=int, default=0, help="of schedules and pictures")
    add_result_arguments(parser, name="online")
    run_command(parser, _run)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.quick:
        options.seconds = min(options.seconds, _QUICK_SECONDS)
    if options.rate is None:
        raise ConfigError("No rate", expected="--rate")
    target = Target.of(options.url, None)
    mix = PictureMix.of_folder(options.pictures or sample_folder(), options.sizes, options.seed)
    loop = OpenLoop(target, mix, PROTOCOLS[options.protocol])
    alone_s = loop.warm_up()
    if loop.failures:
        ((failure, _),) = Counter(loop.failures).most_common(1)
        raise ServiceError("The service fails before any load", where=options.url, got=failure)
    step = loop.run(
        options.rate,
        options.seconds,
        objective_ms=options.objective_ms,
        seed=options.seed,
        deadline_ms=options.deadline_ms,
    ).to_json()
    steps = [("fixed rate", step)]
    print(steps_table(steps))
    result = {
        "service": without_secrets(options.url),
        "model": target.model.name,
        "protocol": options.protocol,
        "picture_bytes": mix.mean_bytes,
        "sizes": options.sizes,
        "generator": {name: version(name) for name in ("locust", "gevent", "hdrhistogram")},
        "alone_ms": alone_s * 1000,
        "steps": [{"name": name, **step} for name, step in steps],
    }
    write_result(options.name, "benchmarks.online", result, options.folder)
    return result


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


if __name__ == "__main__":
    main()
