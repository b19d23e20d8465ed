"""`appliance score`: a model file and a folder of pictures in, Parquet out."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance.cli.options import AddressOption, Json, ModelArgument, Quiet
from appliance.cli.tables import print_json, print_table


def score(
    model: ModelArgument,
    pictures: Annotated[
        str, typer.Argument(metavar="INPUT", help="Folder or prefix, searched to any depth.")
    ],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="New folder for the scores.")],
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that score.")] = None,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lowest score kept; default the model's own.")
    ] = None,
    gpu_jpeg: Annotated[
        bool, typer.Option("--gpu-jpeg", help="Decode JPEGs on the GPU (the extra gpu-jpeg).")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace an earlier job's scores once this one is done."),
    ] = False,
    address: AddressOption = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Score every picture of a folder with Ray Data: one Parquet row each, errors included.

    Example: appliance score fridge.safetensors pictures/ scores/
    """
    from appliance.on_ray.batch_scoring import BatchScoringConfig, score_folder

    config = BatchScoringConfig(
        workers=workers,
        score_threshold=min_score,
        gpu_jpeg=gpu_jpeg,
        progress="off" if quiet else "auto",
    )
    summary = score_folder(
        model, pictures, output, config=config, overwrite=overwrite, address=address
    )
    if json:
        print_json(summary.to_json())
        return
    rows = [
        ("pictures", summary.images),
        ("rows", summary.rows),
        *((f"errors: {kind}", count) for kind, count in summary.errors_by_kind.items()),
        *((f"objects: {label}", count) for label, count in summary.objects_per_label.items()),
        ("images/s", summary.images_per_s),
        ("start-up, s", summary.start_up_s),
        ("wall, s", summary.wall_s),
    ]
    print_table(("what", "value"), rows)
    print(f'Read them: pandas.read_parquet("{output}")')
