"""`appliance compare`: is model B better than model A, and where?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.comparing import comparison
from appliance.cli.detecting import (
    IouOption,
    LabelsOption,
    ScoresOption,
    Where,
    WorkersOption,
    is_predictions,
    refuse_labels,
)
from appliance.cli.options import (
    AddressOption,
    FormatOption,
    ImagesOption,
    Json,
    OnePartArgument,
    Quiet,
    RegistryOption,
)
from appliance.cli.tables import print_json, print_table
from appliance.errors import ConfigError

if TYPE_CHECKING:
    from appliance.evaluation.metrics.paired import Difference, ModelComparison


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Model, or detections (.json).")],
    b: Annotated[str, typer.Argument(metavar="B", help="Model, or detections (.json).")],
    data: OnePartArgument,
    data_format: FormatOption = "auto",
    images: ImagesOption = None,
    labels: LabelsOption = None,
    iou: IouOption = 0.5,
    resamples: Annotated[
        int, typer.Option(min=1, help="How often the pictures are drawn anew.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal intervals.")] = 0,
    workers: WorkersOption = None,
    scores: ScoresOption = None,
    registry: RegistryOption = None,
    address: AddressOption = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Say whether B is better than A, for each label, by a paired bootstrap over the pictures.

    Example: appliance compare old.safetensors new.safetensors data/test
    """
    if not 0 < iou <= 1:
        raise ConfigError("--iou is out of range", got=iou, expected="above 0, up to 1")
    if not (is_predictions(a) and is_predictions(b)):
        refuse_labels(labels)
    from appliance.registry.registry import find_model

    a, b = (path if is_predictions(path) else find_model(path, registry) for path in (a, b))
    result = comparison(
        a,
        b,
        data,
        where=Where(address, workers, scores, quiet),
        data_format=data_format,
        images=images,
        labels=labels,
        iou=iou,
        resamples=resamples,
        seed=seed,
    )
    if json:
        print_json(_document(result))
        return
    columns = ("label", "AP of A", "AP of B", "difference", "from", "to", "B is")
    rows = [_row(label, found) for label, found in result.per_label.items()]
    print_table(columns, [*rows, _row("all (mAP)", result.map)])
    print(result.sentence)


def _row(label: str, found: Difference) -> tuple[Any, ...]:
    interval = found.interval
    differences = (
        found.difference,
        None if interval is None else interval.low,
        None if interval is None else interval.high,
    )
    verdict = None if found.verdict == "no difference shown" else found.verdict
    return label, found.ap_a, found.ap_b, *map(_signed, differences), verdict


def _signed(difference: float | None) -> str | None:
    return None if difference is None else f"{difference:+.3f}"


def _document(result: ModelComparison) -> dict[str, Any]:
    return {**asdict(result), "verdict": result.verdict, "sentence": result.sentence}
