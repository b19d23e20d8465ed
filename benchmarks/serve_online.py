"""Starts a service on this machine, and measures from outside what it can take: see `benchmarks.online`.

    python -m benchmarks.serve_online --json
    python -m benchmarks.serve_online --model model.safetensors --serve "--replicas 2" -- --seconds 60

Without --model, a compact network that is trained once and kept. What stands behind `--` goes to
`benchmarks.online`. Service and generator share the machine: its table says whether that was too much.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from appliance.errors import ApplianceError
from benchmarks.commands import CACHE_DIR, MISTAKE, end_on_sigterm
from benchmarks.online.options import online_parser
from benchmarks.programs import run_program
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
    # What is wrong with its options is told before a service is started for it.
    online_parser().parse_args(["http://127.0.0.1", *options.online])
    end_on_sigterm()
    try:
        sys.exit(_run(options))
    except ApplianceError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _run(options: argparse.Namespace) -> int:
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
            return run_program(command)


if __name__ == "__main__":
    main()
