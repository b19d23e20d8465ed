"""`appliance bench`: the benchmarks, each as a program of its own, since some replace parts of Python."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

import typer

from appliance.errors import ConfigError

app = typer.Typer(
    help="Measure a service, batch scoring, training or the model. Options are those of `python -m benchmarks....`",
    no_args_is_help=True,
)
# All options, --help too, are for the benchmark.
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_PASSED_ON)
def online(context: typer.Context) -> None:
    """Load a service: the highest rate within a latency, saturation, overload (URL ...)."""
    _require_generator()
    _run("benchmarks.online", context)


@app.command(context_settings=_PASSED_ON)
def batch(context: typer.Context) -> None:
    """Score a folder in bulk, beside a loop without Ray and Ray Data as one writes it first."""
    _run("benchmarks.batch_throughput", context)


@app.command(context_settings=_PASSED_ON)
def train(context: typer.Context) -> None:
    """Train, beside a plain loop around torchvision's model."""
    _run("benchmarks.training_speed", context)


@app.command(context_settings=_PASSED_ON)
def model(context: typer.Context) -> None:
    """Time the detector, beside torchvision's."""
    _run("benchmarks.model_speed", context)


@app.command("all", context_settings=_PASSED_ON)
def all_(context: typer.Context) -> None:
    """Run them one after another, and draw one page of what came of it."""
    _require_generator()
    _run("benchmarks.all", context)


@app.command(context_settings=_PASSED_ON)
def compare(context: typer.Context) -> None:
    """Say what changed beyond noise between two results (OLD NEW); exit code 1 when something got worse."""
    _run("benchmarks.compare", context)


def _require_generator() -> None:
    missing = [name for name in ("locust", "hdrh") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            "What sends the load is not installed",
            got=f"no {' and no '.join(missing)}",
            hint="`.venv/bin/uv pip install --python .venv/bin/python -e '.[bench]'` brings it",
        )


def _run(module: str, context: typer.Context) -> None:
    # It takes this process over, so that Ctrl-C and SIGTERM reach who knows what there is to clear away.
    os.execv(sys.executable, [sys.executable, "-m", module, *context.args])  # noqa: S606 - no shell wanted
