"""Options that several commands share, so that they read and mean the same everywhere."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON document, last on stdout.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Model file.")]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Ray cluster to use, host:port; by default RAY_ADDRESS, or a local one for the time being.",
    ),
]
FormatOption = Annotated[
    Literal["auto", "voc", "coco", "yolo", "csv"],
    typer.Option("--format", help="How the annotations are written."),
]
ImagesOption = Annotated[
    str | None,
    typer.Option(
        "--images",
        metavar="DIR",
        help="Folder or bucket of the pictures, if they lie outside of that of the annotations.",
    ),
]
OnePartArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Folder or file of annotated pictures in any format; DATA#train for one part of divided data.",
    ),
]
