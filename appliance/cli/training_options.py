"""Options that the commands which train share: `train` and `tune`."""

from __future__ import annotations

from typing import Annotated

import typer

InitOption = Annotated[
    str,
    typer.Option(
        help="Starting weights: none, imagenet, coco, a file, NAME:VERSION or NAME@ALIAS of the registry."
    ),
]
ValidationOption = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Annotated pictures to measure on during training; the best step is kept.",
    ),
]
StepsOption = Annotated[
    int | None, typer.Option(help="Optimizer steps; by default 30 passes over the pictures.")
]
EpochsOption = Annotated[
    int | None, typer.Option(help="Passes over the pictures, instead of steps.")
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(help="Pictures a step over all workers; default 2, or 1 with --init."),
]
ArchitectureOption = Annotated[
    str | None, typer.Option(help="Network to train; default fasterrcnn_compact.")
]
BackboneOption = Annotated[
    str | None, typer.Option(help="Backbone of the compact network; default resnet18.")
]
ShorterSideOption = Annotated[
    int | None,
    typer.Option(
        help="Pictures enter the network with this shorter side, pixels; default by the objects' sizes."
    ),
]
SeedOption = Annotated[
    int | None, typer.Option(help="Of weights, order and augmentation; default 0.")
]
CheckOption = Annotated[
    bool, typer.Option(help="Look at every picture before training for defects.")
]
