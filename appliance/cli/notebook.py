"""`appliance notebook`: the walk of the demo, to follow and change in Jupyter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def notebook(
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FILE", help="Notebook to write.")
    ] = "walk.ipynb",
    data: Annotated[
        str | None, typer.Option(help="Own annotated pictures; by default scenes are drawn.")
    ] = None,
    test_fraction: Annotated[
        float, typer.Option(help="Of --data, hold out this share to test on.")
    ] = 0.25,
    init: Annotated[
        str, typer.Option(help="Starting weights: none, imagenet, coco or a file.")
    ] = "none",
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 300,
    train_images: Annotated[int, typer.Option(min=1, help="Scenes to train on.")] = 120,
    test_images: Annotated[int, typer.Option(min=1, help="Scenes to test on.")] = 20,
    seed: Annotated[int, typer.Option(help="Of scenes and split.")] = 0,
) -> None:
    """Write a Jupyter notebook: data, training, evaluation, scoring, with pictures.

    Example: appliance notebook --data my_pictures --init imagenet
    """
    from appliance.operations.notebook.walk import NotebookPlan, write_notebook

    plan = NotebookPlan(data, init, steps, train_images, test_images, test_fraction, seed)
    write_notebook(plan, Path(out))
    print(
        f"Wrote {out}. Open it: pip install 'detection-appliance[notebook]', then jupyter lab {out}"
    )
