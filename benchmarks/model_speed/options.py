"""The options that the benchmarks of the model's speed share."""

from __future__ import annotations

import argparse
from pathlib import Path

from appliance.model.spec import ARCHITECTURES, COMPACT

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
    parser.add_argument("--quick", action="store_true", help="tiny: shows only that it runs")
    parser.add_argument("--name", default=name, help="name of the result file")
    parser.add_argument("--folder", default="latest", help="folder below benchmarks/results/")
    parser.add_argument(
        "--cache", type=Path, default=CACHE_DIR, help="folder for weights and pictures"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document last")


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
