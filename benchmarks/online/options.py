"""The options of `benchmarks.online`, which others can read without Locust: that replaces the sockets of all Python."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.commands import add_result_arguments, positive
from benchmarks.online.pictures import DEFAULT_SIZES
from benchmarks.online.protocols import PROTOCOLS
from benchmarks.online.steps import MAX_LAG_MS


def online_parser() -> argparse.ArgumentParser:
    """Reads the command line."""
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
    parser.add_argument("--rate", type=positive, help="requests a second: one step, no search")
    parser.add_argument("--seconds", type=positive, default=30.0, help="of each step")
    parser.add_argument(
        "--objective-ms", type=positive, default=1000.0, help="a right answer within it is good"
    )
    parser.add_argument(
        "--resolution", type=positive, default=0.05, help="of the search: 0.05 is 5 %% of the rate"
    )
    parser.add_argument("--deadline-ms", type=positive, help="told to the service with requests")
    parser.add_argument(
        "--max-lag-ms",
        type=positive,
        default=MAX_LAG_MS,
        help="void if 1 %% of the requests were sent later than this and a twentieth of the objective",
    )
    parser.add_argument("--seed", type=int, default=0, help="of schedules and pictures")
    add_result_arguments(parser, name="online")
    return parser
