"""What a service can take, measured from outside by an open load.

    python -m benchmarks.online http://127.0.0.1:8000 --json
    python -m benchmarks.online URL --rate 20 --seconds 600 --pictures DIR

Without --rate it searches for the highest rate at which at most one request in a hundred has no right answer
within the objective, then goes through rates around it (the saturation curve) and twice that rate (overload,
with the objective told to the service as deadline). Requests come as a Poisson process, whatever becomes of those before, and a latency counts from the time when its
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
from appliance.errors import ServiceError
from benchmarks.measurement import write_result
from benchmarks.model_speed.options import add_result_arguments, run_command
from benchmarks.online.campaign import Campaign
from benchmarks.online.open_loop import OpenLoop
from benchmarks.online.pictures import DEFAULT_SIZES, PictureMix, sample_folder
from benchmarks.online.protocols import PROTOCOLS
from benchmarks.online.search import CURVE
from benchmarks.online.steps import MAX_LAG_MS
from benchmarks.online.tables import HEAD, RULE
from benchmarks.online.target import Target

_QUICK_SECONDS = 3.0
_QUICK_RESOLUTION = 0.3


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
    parser.add_argument(
        "--resolution", type=_positive, default=0.05, help="of the search: 0.05 is 5 %% of the rate"
    )
    parser.add_argument("--deadline-ms", type=_positive, help="told to the service with requests")
    parser.add_argument(
        "--max-lag-ms",
        type=_positive,
        default=MAX_LAG_MS,
        help="void if 1 %% of the requests were sent later than this and a twentieth of the objective",
    )
    parser.add_argument("--seed", type=int, default=0, help="of schedules and pictures")
    add_result_arguments(parser, name="online")
    run_command(parser, _run)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.quick:
        options.seconds = min(options.seconds, _QUICK_SECONDS)
        options.resolution = max(options.resolution, _QUICK_RESOLUTION)
    target = Target.of(options.url, None)
    mix = PictureMix.of_folder(options.pictures or sample_folder(), options.sizes, options.seed)
    loop = OpenLoop(target, mix, PROTOCOLS[options.protocol])
    alone_s = loop.warm_up()
    if loop.failures:
        ((failure, _),) = Counter(loop.failures).most_common(1)
        raise ServiceError("The service fails before any load", where=options.url, got=failure)
    campaign = Campaign(loop, options)
    print(HEAD, flush=True)
    if options.rate is None:
        figures = campaign.find_limits(1 / alone_s, CURVE[1::2] if options.quick else CURVE)
    else:
        campaign.void = campaign.step("fixed rate", options.rate).void
        figures = {}
    print(RULE)
    for name, value in figures.items():
        print(f"{name:28} {'none' if value is None else f'{value:.3f}':>10}")
    for reason in dict.fromkeys(campaign.void):
        print(f"VOID: {reason}; run the generator on another machine, or ask for less")
    result = {
        "service": without_secrets(options.url),
        "model": target.model.name,
        "protocol": options.protocol,
        "objective_ms": options.objective_ms,
        "picture_bytes": mix.mean_bytes,
        "sizes": options.sizes,
        "generator": {name: version(name) for name in ("locust", "gevent", "hdrhistogram")},
        "alone_ms": alone_s * 1000,
        "void": campaign.void,
        "figures": figures,
        "steps": campaign.told,
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
