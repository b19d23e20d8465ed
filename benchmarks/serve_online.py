"""Starts a service on this machine, and measures from outside what it can take: see `benchmarks.online`.

    python -m benchmarks.serve_online --json
    python -m benchmarks.serve_online --model model.safetensors --serve "--replicas 2" -- --seconds 60

Without --model, a compact network that is trained once and kept. What stands behind `--` goes to
`benchmarks.online`. Service and generator share the machine: its table says whether that was too much.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.model_speed.options import CACHE_DIR
from benchmarks.serving.preparation import prepare
from benchmarks.serving.service import running_service


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve_online", description="Loads a service that it starts."
    )
    parser.add_argument("--model", help="to serve; else a compact network, trained once and kept")
    parser.add_argument("--serve", default="", help="further options of `appliance serve`")
    parser.add_argument("--backbone", default="mobilenet_v2", help="of the compact network")
    parser.add_argument("--tiny", action="store_true", help="a tiny network: shows that it runs")
    parser.add_argument("--cache", type=Path, default=CACHE_DIR, help="folder for weights")
    parser.add_argument("online", nargs="*", metavar="-- OPTION", help="of `benchmarks.online`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="serving-") as scratch:
        model = options.model
        if model is None:
            model = prepare(
                Path(scratch),
                backbone=options.backbone,
                cache=options.cache,
                quick=options.tiny,
            ).model
        with running_service(model, *options.serve.split()) as url:
            command = [sys.executable, "-m", "benchmarks.online", url, *options.online]
            done = subprocess.run(command, check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
