"""`appliance watch`: a model and pictures that keep coming in, a Parquet data set that grows out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.cli.options import (
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

if TYPE_CHECKING:
    from appliance.bulk.stream.summary import StreamSummary

_EXIT_CTRL_C = 130


def watch(
    model: ModelArgument,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder or prefix in an object store that grows; - for NDJSON on standard input; "
            "/dev/videoN, rtsp://... or a video file.",
        ),
    ],
    output: Annotated[
        str, typer.Argument(metavar="OUTPUT", help="Folder or prefix for the scores, which grows.")
    ],
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    every: Annotated[
        int, typer.Option(min=1, help="Of a video or camera, every so many frames.")
    ] = 1,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures of a micro-batch, which makes one Parquet file.")
    ] = 8,
    max_delay: Annotated[
        str,
        typer.Option(metavar="TIME", help="A micro-batch waits so long for more, as 500ms or 2m."),
    ] = "1s",
    settle: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="A file is complete when it has not changed for so long; 0s where all are renamed in.",
        ),
    ] = "2s",
    poll: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Between two looks; default 1s, in an object store 5s."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Score what is there and end.")] = False,
    min_score: MinScoreOption = None,
    labels: LabelsOption = None,
    tile: TileOption = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda or cuda:1; auto is the GPU where there is one.")
    ] = "auto",
    webhook: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Post the records of each micro-batch there, too."),
    ] = None,
    ledger: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="What has been scored; default in OUTPUT, for an object store in ~/.local/state.",
        ),
    ] = None,
    registry: RegistryOption = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Score pictures as they come: exactly one Parquet row each, errors included.

    Ends at SIGTERM or Ctrl-C, after what was taken. Killed at any moment, the same command goes on where it was.

    Example: appliance watch fridge.safetensors incoming/ scores/
    """
    from appliance.bulk.stream.config import StreamConfig, parse_duration_s
    from appliance.bulk.stream.stopping import CTRL_C, stop_on_signals
    from appliance.bulk.stream.watcher import watch_source
    from appliance.model.tiling import Tiling
    from appliance.registry.registry import find_model

    if quiet:
        logging.getLogger("appliance").setLevel(logging.WARNING)
    config = StreamConfig(
        batch_size=batch_size,
        max_delay_s=parse_duration_s(max_delay, "--max-delay"),
        settle_s=parse_duration_s(settle, "--settle"),
        poll_s=None if poll is None else parse_duration_s(poll, "--poll"),
        once=once,
        frame_every=every,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        device=device,
        score_threshold=min_score,
        labels=names_of(labels),
        tiling=None if tile is None else Tiling.parse(tile),
        webhook_url=webhook,
        ledger_path=ledger,
    )
    found = find_model(model, registry)
    with stop_on_signals() as stop:
        summary = watch_source(found, source, output, config=config, stop=stop)
        if json:
            print_json(summary.to_json())
        else:
            _show(summary)
    if summary.ended == CTRL_C:
        raise typer.Exit(_EXIT_CTRL_C)


def _show(summary: StreamSummary) -> None:
    posts = summary.webhook
    rows = [
        ("pictures", summary.images),
        ("rows of all runs", summary.rows),
        *((("repeated", summary.repeated),) if summary.repeated else ()),
        *((("frames dropped", summary.dropped),) if summary.dropped else ()),
        *((f"errors: {kind}", count) for kind, count in summary.errors_by_kind.items()),
        *((f"objects: {label}", count) for label, count in summary.objects_per_label.items()),
        *((f"delay, {name}, s", delay_s) for name, delay_s in summary.delay_s.items()),
        *((("waiting", summary.waiting),) if summary.waiting else ()),
        *(
            ()
            if posts is None
            else (
                ("batches delivered", posts.delivered),
                ("batches in dead letters", posts.dead),
                ("batches to post", posts.waiting),
            )
        ),
        ("wall, s", summary.wall_s),
    ]
    print_table(("what", "value"), rows)
    for messages in summary.error_examples.values():
        print(f"for example: {messages[0]}")
    print(f'Read them: pandas.read_parquet("{summary.output_uri}")')
