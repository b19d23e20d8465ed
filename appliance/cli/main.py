"""The `appliance` command: one thin function a command, and one place that turns errors into sentences."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from appliance.cli import (
    bench,
    cluster,
    compare,
    data,
    demo,
    deploy,
    docker,
    doctor,
    evaluate,
    init,
    keys,
    models,
    notebook,
    runs,
    score,
    score_image,
    serve,
    train,
    trainings,
    tune,
    watch,
)
from appliance.errors import ApplianceError

_EXIT_CTRL_C = 130
_EXIT_SIGTERM = 143

app = typer.Typer(
    name="appliance",
    help="Train Faster R-CNN on annotated pictures, score folders of pictures, serve over HTTP.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("runs")(runs.runs)
app.command("tune")(tune.tune)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("score")(score.score)
app.command("watch")(watch.watch)
app.command("serve")(serve.serve)
app.command("deploy")(deploy.deploy)
app.command("deployments")(deploy.deployments)
app.command("rollback")(deploy.rollback)
app.command("undeploy")(deploy.undeploy)
app.command("score-image")(score_image.score_image)
app.command("init")(init.init)
app.command("notebook")(notebook.notebook)
app.command("docker")(docker.docker)
app.command("doctor")(doctor.doctor)
app.add_typer(bench.app, name="bench")
app.add_typer(data.app, name="data")
app.add_typer(keys.app, name="keys")
app.add_typer(models.app, name="models")
app.add_typer(cluster.app, name="cluster")
app.add_typer(trainings.app, name="trainings")


def main() -> None:
    """Entry point of the console command."""
    run(app)


def run_command(command: Callable[..., Any]) -> None:
    """Runs a single command as a program of its own, as the modules of `jobs` do."""
    single = typer.Typer(
        add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )
    single.command()(command)
    run(single)


def run(command_line: typer.Typer) -> None:
    """Runs a command line; a user's mistake ends in one sentence on standard error and exit code 1."""
    configure_logging()
    # What is stopped politely cleans up: a cluster of our own, a folder half written.
    signal.signal(signal.SIGTERM, _end)
    try:
        try:
            command_line()
        finally:
            # What is left is to clear away; who cannot wait for that has SIGKILL.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
    except ApplianceError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as stopped:
        # Typer turns Ctrl-C into its exit code without a word.
        code = stopped.code if isinstance(stopped, SystemExit) else _EXIT_CTRL_C
        if code in (_EXIT_CTRL_C, _EXIT_SIGTERM):
            print("stopped", file=sys.stderr)
        sys.exit(code)
    except BrokenPipeError:
        # Whoever read our output has had enough, as in `appliance data stats DIR | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _end(*_: object) -> NoReturn:
    # A second one must not interrupt the cleaning up; who cannot wait has SIGKILL.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(_EXIT_SIGTERM)


def configure_logging() -> None:
    """Sends the library's messages to standard error, and of other libraries only warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in ("appliance", "serve_app", "jobs", "benchmarks"):
        logging.getLogger(name).setLevel(logging.INFO)


if __name__ == "__main__":
    main()
