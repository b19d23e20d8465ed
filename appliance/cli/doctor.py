"""`appliance doctor`: whether this machine can do all that the appliance does."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.options import Json
from appliance.cli.tables import print_json

_WORDS = {"good": "good", "advice": "ADVICE", "wrong": "WRONG"}


def doctor(
    folder: Annotated[
        str, typer.Option("--folder", metavar="DIR", help="Where results are to go.")
    ] = ".",
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Where the service is to listen.")
    ] = 8000,
    keys: Annotated[
        str | None, typer.Option(metavar="FILE", help="File of the service's keys, to look at.")
    ] = None,
    json: Json = False,
) -> None:
    """Look at Python, packages, GPU, memory, disk, ports and keys; exit code 1 when something is wrong.

    Starts no cluster and changes nothing.

    Example: appliance doctor
    """
    from appliance.operations.doctor.examination import examine

    findings = []
    for one in examine(Path(folder), service_port=port, key_file=keys):
        findings.append(one)
        if not json:
            print(f"{_WORDS[one.status]:<7}{one.name}: {one.found}", flush=True)
            if one.advice is not None:
                print(f"{'':<7}-> {one.advice}.", flush=True)
    wrong = [one.name for one in findings if one.status == "wrong"]
    if json:
        print_json({"ok": not wrong, "findings": [asdict(one) for one in findings]})
    elif wrong:
        print(f"Something is wrong: {', '.join(wrong)}.")
    else:
        print("Nothing is wrong.")
    if wrong:
        raise typer.Exit(1)
