"""What a service can take, measured from outside by an open load.

    python -m benchmarks.online http://127.0.0.1:8000 --json
    python -m benchmarks.online URL --rate 20 --seconds 600 --pictures DIR

Without --rate it searches for the highest rate at which at most one request in a hundred has no right answer
within the objective, then goes through rates around it (the saturation curve) and twice that rate (overload,
with the objective told to the service as deadline). Requests come as a Poisson process, whatever becomes of those
before, and a latency counts from the time when its request was due: a service that stalls is not forgiven. Each answer is checked; what is wrong counts as missed.
Prints a table, then with --json one JSON document last; the same goes to `benchmarks/results/FOLDER/NAME.json`,
after every step, with all latencies as HDR histograms. A key is taken from APPLIANCE_KEY, or several by commas.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import locust  # noqa: F401 - first of all: it replaces the sockets of Python before others take them
from gevent.hub import Hub

from appliance.client.access import without_secrets
from appliance.errors import ConfigError, ServiceError
from benchmarks.commands import run_command
from benchmarks.measurement import write_result
from benchmarks.online.campaign import Campaign
from benchmarks.online.open_loop import OpenLoop
from benchmarks.online.options import online_parser
from benchmarks.online.pictures import PictureMix, sample_folder
from benchmarks.online.protocols import PROTOCOLS
from benchmarks.online.search import CURVE
from benchmarks.online.tables import HEAD, RULE
from benchmarks.online.target import Target

_MOST_REQUESTS = 5_000_000
# Ctrl-C is not a failure of the greenlet that it happens to reach.
Hub.NOT_ERROR = (*Hub.NOT_ERROR, KeyboardInterrupt)


def main() -> None:
    """Runs the benchmark."""
    run_command(online_parser(), _run, {"seconds": 3.0, "resolution": 0.3})


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.rate is not None and options.rate * options.seconds > _MOST_REQUESTS:
        raise ConfigError(
            "The load is more than one generator can plan",
            got=f"{options.rate:g} requests a second for {options.seconds:g} s",
            expected=f"at most {_MOST_REQUESTS:,} requests",
        )
    target = Target.of(options.url, None)
    mix = PictureMix.of_folder(options.pictures or sample_folder(), options.sizes, options.seed)
    loop = OpenLoop(target, mix, PROTOCOLS[options.protocol])
    alone_s = loop.warm_up()
    if loop.failures:
        ((failure, _),) = Counter(loop.failures).most_common(1)
        raise ServiceError("The service fails before any load", where=options.url, got=failure)
    empty, pictures = loop.references.without_detections
    if empty:
        print(
            f"{empty} of {pictures} pictures have no detection: answers mixed up among them would pass for right"
        )
    facts = {
        "service": without_secrets(options.url),
        "model": target.model.name,
        "protocol": options.protocol,
        "objective_ms": options.objective_ms,
        "picture_bytes": mix.mean_bytes,
        "pictures": pictures,
        "pictures_without_detections": empty,
        "sizes": options.sizes,
        "generator": {name: version(name) for name in ("locust", "gevent", "hdrhistogram")},
        "alone_ms": alone_s * 1000,
    }

    def write(
        campaign: Campaign, figures: Mapping[str, float | None] | None = None
    ) -> dict[str, Any]:
        result = {**facts, "void": campaign.void, "figures": figures or {}, "steps": campaign.told}
        write_result(options.name, "benchmarks.online", result, options.folder)
        return result

    campaign = Campaign(loop, options, write)
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
    return write(campaign, figures)


if __name__ == "__main__":
    main()
