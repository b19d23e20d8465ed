"""What the benchmarks of the model's speed have in common as commands: options, and what they print last."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.errors import ApplianceError
from appliance.model.spec import ARCHITECTURES, COMPACT
from benchmarks.measurement import RESULTS_DIR, result_path, tell_written
from benchmarks.report.page import can_draw, write_page

DEFAULT_ARCHITECTURES = (
    COMPACT,
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
)
CACHE_DIR = Path(__file__).resolve().parents[2] / ".cache" / "model_speed"
_PREFIX = "fasterrcnn_"


def add_arguments(parser: argparse.ArgumentParser, *, name: str) -> None:
    """Adds them.

    Args:
        parser: Gets the options.
        name: Of the result file unless another is asked for.
    """
    parser.add_argument(
        "--arch",
        type=architectures,
        default=DEFAULT_ARCHITECTURES,
        help="one or several, by commas; all but resnet50_fpn_v2 by default",
    )
    parser.add_argument("--backbone", help="of the compact architecture; resnet18 by default")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    add_result_arguments(parser, name=name)


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
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], dict[str, Any]]
) -> None:
    """Runs a benchmark as the command line asks; a user's mistake ends in one sentence and exit code 2.

    Args:
        parser: Has the arguments of `add_result_arguments`.
        run: Measures and writes the result file; returns what is in it, for --json.
    """
    options = parser.parse_args()
    try:
        result = run(options)
    except ApplianceError as error:
        parser.error(str(error))
    tell_written(result_path(options.name, options.folder))
    if can_draw():
        write_page(RESULTS_DIR / options.folder)
    if options.json:
        print(json.dumps(result))


def architectures(text: str) -> tuple[str, ...]:
    """Reads names of architectures, by commas, with or without `fasterrcnn_` before them.

    Raises:
        argparse.ArgumentTypeError: There is no such architecture.
    """
    names = tuple(_PREFIX + name.strip().removeprefix(_PREFIX) for name in text.split(","))
    for name in names:
        if name not in ARCHITECTURES:
            raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(ARCHITECTURES)}")
    return names


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
