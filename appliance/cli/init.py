"""`appliance init`: a few questions, and files of settings in which every setting stands with its meaning."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer


def init(
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder to write to.")] = ".",
    purpose: Annotated[
        Literal["both", "train", "serve"] | None, typer.Option("--for", help="What it is for.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Annotated pictures.")] = None,
    weights: Annotated[
        str | None, typer.Option("--init", help="Starting weights: imagenet, coco, none or a file.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the pictures.")] = None,
    gpu: Annotated[
        bool | None, typer.Option("--gpu/--no-gpu", help="Use a GPU; default where there is one.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="FILE", help="Model file.")] = None,
    beyond: Annotated[
        bool | None,
        typer.Option("--open/--loopback", help="Serve to others than this machine, with keys."),
    ] = None,
    keys: Annotated[str | None, typer.Option(metavar="FILE", help="File of their keys.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the service.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; as without a terminal.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of an earlier `init`.")
    ] = False,
) -> None:
    """Ask a few questions, and write commented settings for training and for a service.

    Example: appliance init --data my_pictures --init imagenet
    """
    from appliance.operations.setup.answers import ask, usual_answers
    from appliance.operations.setup.files import write_files

    flags = {
        "purpose": purpose,
        "data": data,
        "init": weights,
        "epochs": epochs,
        "gpu": gpu,
        "model": model,
        "beyond": beyond,
        "key_file": keys,
        "port": port,
    }
    answers = usual_answers(**flags)
    if not yes and sys.stdin.isatty():
        known = frozenset(name for name, value in flags.items() if value is not None)
        answers = ask(answers, known, input)
    for file, command in write_files(answers, Path(out), overwrite=overwrite).items():
        print(f"Wrote {file}\n  {command}")
