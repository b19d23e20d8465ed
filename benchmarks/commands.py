"""What all benchmarks have in common as commands: options, how they end, and what they print last."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from appliance.errors import ApplianceError
from benchmarks.measurement import finish_results, require_writable, tell_written
from benchmarks.report.page import can_draw, write_page

CACHE_DIR = Path(__file__).resolve().parents[1] / ".cache" / "model_speed"
MISTAKE = 2
VOID = 3
"""Exit codes: of a user's mistake, and of a load whose generator was the bottleneck."""


def add_result_arguments(parser: argparse.ArgumentParser, *, name: str) -> None:
    """Adds those of every benchmark on trained weights: how thoroughly, and where the result goes.

    Args:
        parser: Gets the options.
        name: Of the result file unless another is asked for.
    """
    parser.add_argument("--quick", action="store_true", help="tiny: shows only that it runs")
    parser.add_argument("--name", default=name, help="name of the result file")
    parser.add_argument("--folder", default="latest", help="folder below benchmarks/results/")
    parser.add_argument(
        "--cache", type=Path, default=CACHE_DIR, help="folder for weights and pictures"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document last")


def run_command(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], dict[str, Any]],
    quick: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Runs a benchmark as the command line asks.

    A user's mistake ends in one sentence and exit code 2, a void result in 3. Ctrl-C and SIGTERM stop what was started,
    and leave the rounds that were done.

    Args:
        parser: Has `--name`, `--folder` and `--json`, such as `add_result_arguments` adds.
        run: Measures and writes the result file; returns what is in it, for --json.
        quick: Defaults of options with `--quick`.
    """
    options = parser.parse_args()
    if getattr(options, "quick", False):
        parser.set_defaults(**quick)
        options = parser.parse_args()
    end_on_sigterm()
    try:
        require_writable(options.name, options.folder)
        result = run(options)
        paths = finish_results()
    except ApplianceError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    for path in paths:
        tell_written(path)
    if can_draw():
        for folder in {path.parent for path in paths}:
            write_page(folder)
    if options.json:
        print(json.dumps(result))
    if result.get("void"):
        sys.exit(VOID)


def end_on_sigterm() -> None:
    """Makes SIGTERM end this process as Ctrl-C does, so that what it has started is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def count(text: str) -> int:
    """Reads one whole number from 1 on.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text}")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """Reads whole numbers from 1 on, by commas.

    Raises:
        argparse.ArgumentTypeError: One of them is none.
    """
    return tuple(count(word) for word in text.split(","))


def positive(text: str) -> float:
    """Reads one number above 0.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def some_of(names: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """Reads some of the names, by commas, each once.

    Raises:
        argparse.ArgumentTypeError: When called, of what is none of them, or stands there twice.
    """

    def read(text: str) -> tuple[str, ...]:
        found = tuple(word.strip() for word in text.split(","))
        for number, name in enumerate(found):
            if name not in names:
                raise argparse.ArgumentTypeError(
                    f"{name or 'nothing'} is none of {', '.join(names)}"
                )
            if name in found[:number]:
                raise argparse.ArgumentTypeError(f"{name} stands there twice")
        return found

    return read
