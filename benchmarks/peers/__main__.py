"""The appliance beside its peers: same machine, same weights, same pictures, in the same run.

    python -m benchmarks.peers --json                          # all three parts
    python -m benchmarks.peers --only online --seconds 10
    python -m benchmarks.peers --only online --peers ours,fastapi,litserve

    online      LitServe, BentoML, FastAPI, TorchServe, MLServer, plain Ray Serve, beside `appliance serve`
    batch       a loop around PyTorch's DataLoader, Ray Data the naive way, Daft, beside `appliance score`
    training    torchvision's reference loop, Detecto, beside the training of `appliance train`

Each peer runs in a virtual environment of its own, made from pinned packages (`benchmarks/peers/requirements`), is
configured as its documentation recommends, and must find what plain torchvision finds before it is measured. Rounds
alternate, one peer runs at a time. A peer that does not install or run is in the table with the sentence it failed
with. Prints a table for each part, then with --json one JSON document last; results go to
`benchmarks/results/FOLDER/NAME_PART.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.commands import add_result_arguments, count, counts, positive, run_command
from benchmarks.measurement import write_result
from benchmarks.peers.batch.comparison import compare_jobs
from benchmarks.peers.batch.jobs import JOBS
from benchmarks.peers.environment import ROOT
from benchmarks.peers.online.comparison import compare_servers
from benchmarks.peers.online.servers import SERVERS
from benchmarks.peers.training.comparison import compare_trainings
from benchmarks.peers.training.trainings import TRAININGS

Compare = Callable[[argparse.Namespace, Callable[[dict[str, Any]], None]], dict[str, Any]]

PARTS: dict[str, Compare] = {
    "online": compare_servers,
    "batch": compare_jobs,
    "training": compare_trainings,
}
QUICK = {"rounds": 1, "seconds": 1.0, "clients": (1, 2), "images": 16}
SIDES = {"online": tuple(SERVERS), "batch": tuple(JOBS), "training": tuple(TRAININGS)}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description="Compares the appliance with its peers."
    )
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--peers", type=_names, help="some sides of the part, by commas")
    parser.add_argument("--rounds", type=count, default=3, help="of each side")
    parser.add_argument("--backbone", default="mobilenet_v2", help="of the compact network")
    parser.add_argument("--seconds", type=positive, default=10, help="of each load (online)")
    parser.add_argument("--clients", type=counts, default=(1, 2, 8), help="such as 1,8 (online)")
    parser.add_argument("--objective-ms", type=positive, default=1000, help="of goodput (online)")
    parser.add_argument("--images", type=count, default=320, help="pictures of a job (batch)")
    parser.add_argument("--steps", type=count, default=120, help="of every training")
    parser.add_argument(
        "--environments",
        type=Path,
        default=ROOT / ".cache" / "peers",
        help="folder for virtual environments",
    )
    add_result_arguments(parser, name="peers")
    run_command(parser, partial(_run, parser), QUICK)


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    parts = [options.only] if options.only else list(PARTS)
    if options.peers and not options.only:
        parser.error("--peers needs --only PART, whose sides they are")
    unknown = [name for name in options.peers or () if name not in SIDES[options.only]]
    if unknown:
        parser.error(f"{unknown[0]} is none of {', '.join(SIDES[options.only])}")
    result = {}
    for part in parts:
        write = partial(_write, f"{options.name}_{part}", options.folder)
        result[part] = PARTS[part](options, write)
        write(result[part])
    return result


def _write(name: str, folder: str, result: dict[str, Any]) -> None:
    write_result(name, "benchmarks.peers", result, folder)


def _names(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


if __name__ == "__main__":
    main()
