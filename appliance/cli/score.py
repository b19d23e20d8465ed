"""`appliance score`: a model and pictures of any origin in, Parquet out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from appliance.cli.options import (
    AddressOption,
    ExcludeOption,
    IncludeOption,
    Json,
    LabelsOption,
    MinScoreOption,
    ModelArgument,
    Quiet,
    RegistryOption,
    TileOption,
    names_of,
)
from appliance.cli.tables import print_json, print_table
from appliance.errors import ConfigError

if TYPE_CHECKING:
    from appliance.bulk.scores.exports import ExportFormat
    from appliance.bulk.summary import BatchSummary


def score(
    model: ModelArgument,
    pictures: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Folder, prefix in an object store or pattern; list (.txt, .csv), table (.parquet, "
            ".lance), archive (.zip, .tar) or video.",
        ),
    ],
    output: Annotated[
        str, typer.Argument(metavar="OUTPUT", help="New folder or prefix for the scores.")
    ],
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    column: Annotated[
        str | None, typer.Option(help="Column of a table or CSV that holds names or pictures.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Of a video, every so many frames.")] = 1,
    concurrency: Annotated[
        str | None,
        typer.Option(
            "--concurrency",
            "--workers",
            metavar="N|MIN:MAX",
            help="Processes that score; by default what the cluster has room for.",
        ),
    ] = None,
    cpus_per_worker: Annotated[
        int | None, typer.Option(min=1, help="CPUs of each; default 1, or a GPU's share.")
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(min=0, help="GPUs of each, as 0.5; default 1 where there are any."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures to the network at once.")] = 8,
    images_per_part: Annotated[
        int | None, typer.Option(min=1, help="Pictures of one Parquet file, which is redone whole.")
    ] = None,
    min_score: MinScoreOption = None,
    labels: LabelsOption = None,
    tile: TileOption = None,
    gpu_jpeg: Annotated[
        bool, typer.Option("--gpu-jpeg", help="Decode JPEGs on the GPU (the extra gpu-jpeg).")
    ] = False,
    max_error_rate: Annotated[
        float,
        typer.Option(min=0, max=1, help="Fail if more than this share of pictures is unreadable."),
    ] = 1.0,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="coco,csv,jsonl", help="Write the scores in these forms besides."
        ),
    ] = None,
    annotated: Annotated[
        str | None, typer.Option(metavar="DIR", help="Draw pictures with boxes into this folder.")
    ] = None,
    annotated_pictures: Annotated[
        str, typer.Option(metavar="N|all", help="How many of them.")
    ] = "50",
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace another job's scores once this one is done."),
    ] = False,
    append: Annotated[
        bool,
        typer.Option("--append", help="Score only pictures that OUTPUT has not, and add them."),
    ] = False,
    registry: RegistryOption = None,
    address: AddressOption = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Score pictures with Ray Data: exactly one Parquet row each, errors included.

    Killed at any moment, the same command goes on where it was.

    Example: appliance score fridge.safetensors pictures/ scores/
    """
    from appliance.bulk.config import BatchScoringConfig
    from appliance.bulk.inputs.opening import InputOptions
    from appliance.model.tiling import Tiling
    from appliance.on_ray.batch_scoring import score_input
    from appliance.on_ray.workers import Workers
    from appliance.registry.registry import find_model

    if overwrite and append:
        raise ConfigError("--overwrite and --append exclude each other", hint="Leave one out")
    workers = Workers.parse(concurrency) if concurrency else None
    config = BatchScoringConfig(
        workers=workers.count if workers else None,
        min_workers=workers.min_count if workers else None,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        batch_size=batch_size,
        images_per_part=images_per_part,
        score_threshold=min_score,
        labels=names_of(labels),
        tiling=None if tile is None else Tiling.parse(tile),
        gpu_jpeg=gpu_jpeg,
        max_error_rate=max_error_rate,
        formats=_formats(formats),
        annotated_uri=annotated,
        annotated_pictures=_count(annotated_pictures),
        progress="off" if quiet else "auto",
    )
    summary = score_input(
        find_model(model, registry),
        pictures,
        output,
        options=InputOptions(tuple(include or ()), tuple(exclude or ()), column, every),
        config=config,
        existing="overwrite" if overwrite else "append" if append else "refuse",
        address=address,
    )
    if json:
        print_json(summary.to_json())
    else:
        _show(summary, output)


def _formats(text: str | None) -> tuple[ExportFormat, ...]:
    from appliance.bulk.scores.exports import EXPORT_NAMES

    names = text.split(",") if text else []
    for name in names:
        if name not in EXPORT_NAMES:
            raise ConfigError(
                "Not a form of scores", got=repr(name), expected=f"of {', '.join(EXPORT_NAMES)}"
            )
    return tuple(form for form in EXPORT_NAMES if form in names)


def _count(text: str) -> int | None:
    if text == "all":
        return None
    if text.isdecimal():
        return int(text)
    raise ConfigError("Not a number of pictures", got=repr(text), expected="a number, or all")


def _show(summary: BatchSummary, output: str) -> None:
    rows = [
        ("pictures", summary.images),
        ("rows", summary.rows),
        *((("scored before", summary.done_before),) if summary.done_before else ()),
        *((("named more than once", summary.repeated),) if summary.repeated else ()),
        *((f"errors: {kind}", count) for kind, count in summary.errors_by_kind.items()),
        *((f"objects: {label}", count) for label, count in summary.objects_per_label.items()),
        ("images/s", summary.images_per_s),
        *(
            (f"  {stage}: images/s a thread", share.images_per_s)
            for stage, share in summary.stages.items()
        ),
        ("start-up, s", summary.start_up_s),
        ("wall, s", summary.wall_s),
    ]
    print_table(("what", "value"), rows)
    for messages in summary.error_examples.values():
        print(f"for example: {messages[0]}")
    print(f'Read them: pandas.read_parquet("{output}")')
