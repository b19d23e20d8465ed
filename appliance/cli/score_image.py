"""`appliance score-image`: pictures to a service that runs, and what it finds on them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.options import Json, LabelsOption, MinScoreOption, names_of
from appliance.cli.tables import print_json, print_table
from appliance.errors import ConfigError

if TYPE_CHECKING:
    from appliance.client import Client
    from appliance.client.items import Item
    from appliance.records import Record

_STDIN = "-"
_MAX_STEM_CHARACTERS = 80


def score_image(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Of the service, such as http://127.0.0.1:8000.")
    ],
    pictures: Annotated[
        list[str],
        typer.Argument(
            metavar="PICTURE...",
            help="Files, URIs of object stores, http(s) addresses (fetched here), or - for standard input.",
        ),
    ],
    min_score: MinScoreOption = None,
    labels: LabelsOption = None,
    max_detections: Annotated[
        int | None, typer.Option(min=1, help="Most detections of a picture.")
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="Size in which the model looks at a picture."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Which model of the service.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Pictures in work at once.")] = 4,
    timeout_s: Annotated[
        float,
        typer.Option("--timeout", min=0.001, help="Seconds for each picture, retries included."),
    ] = 60.0,
    annotated: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Write the pictures with boxes into this folder."),
    ] = None,
    json: Json = False,
) -> None:
    """Send pictures to a service that runs, and show what it finds on them.

    A key is taken from the variable APPLIANCE_KEY, where no list of processes shows it.

    Example: appliance score-image http://127.0.0.1:8000 shelf.jpg --min-score 0.5
    """
    from appliance.client import Client

    options: dict[str, Any] = {
        "score_threshold": min_score,
        "labels": names_of(labels),
        "max_detections": max_detections,
        "resize": resize,
        "model": model,
    }
    targets = None if annotated is None else _targets(Path(annotated), pictures)
    with Client(url, timeout_s=timeout_s) as client:
        client.models()  # a wrong address or key is told once, not for each picture
        items = [_item(picture) for picture in pictures]
        records = list(client.detect_many(items, concurrency=concurrency, **options))
        if targets is not None:
            _annotate(client, items, records, targets, concurrency, options)
    if json:
        print_json({"results": [record.to_row() for record in records]})
    else:
        _show(records)
    failed = [record for record in records if record.error is not None]
    sys.stdout.flush()
    for record in failed:
        print(f"error: {record.error}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _item(picture: str) -> Item:
    return ("stdin", sys.stdin.buffer.read()) if picture == _STDIN else picture


def _targets(folder: Path, pictures: Sequence[str]) -> list[Path]:
    """The files to write, by the places of their pictures, since several pictures may have one name."""
    targets = []
    for index, picture in enumerate(pictures):
        stem = "stdin" if picture == _STDIN else Path(picture.partition("?")[0]).stem
        name = re.sub(r"[^\w.-]", "_", stem)[:_MAX_STEM_CHARACTERS]
        targets.append(folder / f"{index:04d}-{name}.jpg")
    for target in targets:
        if target.exists():
            raise ConfigError(
                "There is a file already",
                where=target,
                hint="Choose another folder with --annotated",
            )
    return targets


def _annotate(
    client: Client,
    items: Sequence[Item],
    records: Sequence[Record],
    targets: Sequence[Path],
    concurrency: int,
    options: dict[str, Any],
) -> None:
    from appliance import storage

    def annotate(place: tuple[Item, Record, Path]) -> None:
        item, record, target = place
        if record.error is None:
            picture = item[1] if isinstance(item, tuple) else item
            jpeg = client.annotated(picture, name=record.image_uri, **options)
            storage.write_bytes(target, jpeg)

    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(annotate, zip(items, records, targets, strict=True)))


def _show(records: Sequence[Record]) -> None:
    rows: list[tuple[Any, ...]] = []
    for record in records:
        if record.error is not None:
            rows.append((record.image_uri, f"error: {record.error_kind}", *[None] * 5))
        elif not record.detections:
            rows.append((record.image_uri, "nothing", *[None] * 5))
        for found in record.detections:
            sides = (f"{side:.1f}" for side in (found.x1, found.y1, found.x2, found.y2))
            rows.append((record.image_uri, found.label, found.score, *sides))
    print_table(("picture", "label", "score", "x1", "y1", "x2", "y2"), rows)
