"""`appliance train --on` and `appliance trainings`: what the trainer of a service is asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.options import Json
from appliance.cli.tables import print_json, print_table
from appliance.errors import ConfigError

if TYPE_CHECKING:
    from appliance.client import TrainingInfo
    from appliance.client.trainings import Trainings

app = typer.Typer(help="Trainings on a service, its key in APPLIANCE_KEY.", no_args_is_help=True)

OnOption = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="URL",
        help="Train on a service that has a trainer, such as http://127.0.0.1:8000, with its admin key in "
        "APPLIANCE_KEY; paths are as that service sees them.",
    ),
]
ServiceOption = Annotated[
    str, typer.Option("--on", metavar="URL", help="The service, such as http://127.0.0.1:8000.")
]
IdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="As `appliance trainings list` has it.")
]


def train_on(url: str, request: Mapping[str, Any], *, quiet: bool, json: bool) -> None:
    """Begins a training on a service and follows it to its end.

    Args:
        url: Of the service.
        request: As `POST /v1/train` takes it; places as absolute paths or addresses.
        quiet: Whether to leave out what it writes.
        json: Print what came of it as JSON.

    Raises:
        ConfigError: No model of the registry is named.
        ServiceCallError: The service refuses, does not train, or cannot be reached.
        typer.Exit: With code 1, the training has failed or was cancelled; with 130, Ctrl-C: it goes on.
    """
    from appliance.client import Client

    given = {name: value for name, value in request.items() if value is not None}
    if "register" not in given:
        raise ConfigError(
            "A training on a service needs a model of its registry", hint="Add --register NAME"
        )
    with Client(url) as client:
        training = client.trainings.submit(**given)
        print(f"{training.id} has begun on {url}", file=sys.stderr)
        _follow(client.trainings, training.id, url, quiet=quiet)
        _tell(client.trainings.get(training.id), json=json)


def refuse_with_on(**given: object) -> None:
    """Refuses options that are for a training of this process.

    Args:
        **given: Options by their names; what was not given is None or False.

    Raises:
        ConfigError: One was given.
    """
    for name, value in given.items():
        if value:
            raise ConfigError(
                f"--on goes without --{name.replace('_', '-')}",
                hint="The service decides where runs, models and its registry are",
            )


def init_for_service(init: str) -> str:
    """Starting weights as a service understands them: a file by its whole path, all else as it is."""
    from appliance import storage

    path = storage.local_path(init)
    return storage.absolute(init) if "/" in init or path.exists() else init


@app.command("list")
def list_(on: ServiceOption, json: Json = False) -> None:
    """List the trainings of a service, the newest first.

    Example: appliance trainings list --on http://127.0.0.1:8000
    """
    from appliance.client import Client

    with Client(on) as client:
        found = client.trainings.list()
    if json:
        print_json({"trainings": [asdict(training) for training in found]})
        return
    if not found:
        print(f"No trainings on {on}.")
        return
    print_table(
        ("training", "status", "model", "data", "by", "started"),
        [
            (
                *(one.id, one.status, one.request.get("register"), one.request.get("data")),
                *(one.by, one.started_at),
            )
            for one in found
        ],
        dispensable=("started", "by", "data"),
    )
    for one in found:
        if one.error:
            print(f"{one.id} failed: {one.error}")


@app.command("show")
def show(training_id: IdArgument, on: ServiceOption, json: Json = False) -> None:
    """Show how far a training is, or what came of it.

    Example: appliance trainings show train-20261128-181500-3f9a2c --on http://127.0.0.1:8000
    """
    from appliance.client import Client

    with Client(on) as client:
        training = client.trainings.get(training_id)
    if json:
        print_json(asdict(training))
        return
    print(f"{training.id}: {training.status}")
    for text in (training.error, *_came_of(training)) if training.has_ended else (training.says,):
        print(text) if text else None


@app.command("logs")
def logs(
    training_id: IdArgument,
    on: ServiceOption,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Until it has ended; then exit code 1 unless it succeeded."),
    ] = False,
) -> None:
    """Print what a training has written.

    Example: appliance trainings logs train-20261128-181500-3f9a2c --on http://127.0.0.1:8000 --follow
    """
    from appliance.client import Client

    with Client(on) as client:
        if not follow:
            print(client.trainings.log(training_id).text, end="")
            return
        _follow(client.trainings, training_id, on, quiet=False)
        _tell(client.trainings.get(training_id), json=False)


@app.command("cancel")
def cancel(training_id: IdArgument, on: ServiceOption) -> None:
    """Cancel a training: it saves its last step and ends.

    Example: appliance trainings cancel train-20261128-181500-3f9a2c --on http://127.0.0.1:8000
    """
    from appliance.client import Client

    with Client(on) as client:
        training = client.trainings.cancel(training_id)
    ending = f"is {training.status}" if training.has_ended else "ends after this step"
    print(f"{training.id} {ending}.")


def _follow(trainings: Trainings, training_id: str, url: str, *, quiet: bool) -> None:
    try:
        for line in _lines(trainings.follow(training_id)):
            # The result, for programs: what it says is told afterwards.
            if not quiet and not line.startswith('{"'):
                print(line, file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print(
            f"\n{training_id} goes on; see it with: appliance trainings logs {training_id} --follow --on {url}\n"
            f"End it with: appliance trainings cancel {training_id} --on {url}",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None


def _lines(pieces: Iterable[str]) -> Iterable[str]:
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split("\n")
        yield from whole
    if rest:
        yield rest


def _tell(training: TrainingInfo, *, json: bool) -> None:
    """What came of a training that has ended.

    Raises:
        typer.Exit: It did not succeed.
    """
    if json:
        print_json(asdict(training))
    elif training.status == "succeeded":
        for text in _came_of(training):
            print(text)
    if training.status != "succeeded":
        sys.stdout.flush()
        reason = training.error or f"{training.id} was cancelled"
        print(f"error: {reason}", file=sys.stderr)
        raise typer.Exit(1)


def _came_of(training: TrainingInfo) -> list[str]:
    told = [f"It is {training.registered} in the registry."] if training.registered else []
    promoted = (training.promotion or {}).get("sentence")
    return [*told, str(promoted)] if promoted else told
