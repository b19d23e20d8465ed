"""`appliance data convert`: annotated pictures in another format."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from appliance.cli.options import ImagesOption, Json

Format = Literal["coco", "yolo", "csv", "voc"]


def convert(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="Folder or file of annotated pictures; DATA#train for one part."
        ),
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="New or empty folder to write to.")],
    to: Annotated[Format, typer.Option("--to", help="The new format.")],
    from_: Annotated[
        Literal["auto", "coco", "yolo", "csv", "voc"],
        typer.Option("--from", help="The present format."),
    ] = "auto",
    train_size: Annotated[
        float | None,
        typer.Option(help="Divide into train and val; the share to train on, such as 0.8."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides which picture goes where.")] = 0,
    link: Annotated[
        bool, typer.Option(help="Link local pictures instead of copying them.")
    ] = False,
    images: ImagesOption = None,
    as_json: Json = False,
) -> None:
    """Write annotated pictures as COCO JSON, YOLO, CSV or Pascal VOC, with all their parts."""
    from appliance.annotations import convert as conversion
    from appliance.annotations.checks.findings import counted

    done = conversion.convert(
        data,
        out,
        to,
        format=from_,
        train_size=train_size,
        seed=seed,
        link=link,
        images_root=images,
    )
    if done.warning is not None:
        print(f"warning: {done.warning}", file=sys.stderr)
    if as_json:
        print(json.dumps({**asdict(done), "out": out, "warning": done.warning}))
        return
    counts = ", ".join(
        counted(count, "picture") + (f" for {part}" if part else "")
        for part, count in done.images.items()
    )
    print(
        f"Wrote {counts} to {out} as {to}: {counted(done.objects, 'object')}, "
        f"{counted(done.negatives, 'picture')} without any"
    )
