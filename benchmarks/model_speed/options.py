"""What the benchmarks of the model's speed have in common as commands: which networks, and where."""

from __future__ import annotations

import argparse

from appliance.model.spec import ARCHITECTURES, COMPACT
from benchmarks.commands import add_result_arguments

DEFAULT_ARCHITECTURES = (
    COMPACT,
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
)
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
