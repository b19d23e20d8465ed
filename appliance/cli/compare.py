"""`appliance compare`: is model B better than model A, and where?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.detecting import (
    IouOption,
    LabelsOption,
    ScoresOption,
    Where,
    WorkersOption,
    is_predictions,
    labels_of_model,
    make_detections,
    read_detections,
    refuse_labels,
    split_labels,
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
    from appliance.detections import Detections
    from appliance.evaluation.metrics.paired import Difference, ModelComparison
    from appliance.labels import LabelMap


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
    print(sentence_of(result))


def comparison(
    a: str,
    b: str,
    data: str,
    *,
    where: Where = Where(),
    data_format: FormatOption = "auto",
    images: str | None = None,
    labels: str | None = None,
    iou: float = 0.5,
    resamples: int = 1000,
    seed: int = 0,
) -> ModelComparison:
    """What `appliance compare` finds out; options as it has them, of models their addresses."""
    from appliance import storage
    from appliance.annotations.dataset import ObjectDetectionDataset
    from appliance.evaluation.evaluate import ground_truth_of
    from appliance.evaluation.metrics.paired import compare_detections
    from appliance.evaluation.predictions import CocoIds
    from appliance.labels import LabelMap

    known = {path: labels_of_model(path) for path in (a, b) if not is_predictions(path)}
    # What only one model knows the other never finds: that is part of the comparison.
    names = list(dict.fromkeys(name for labels in known.values() for name in labels))
    dataset = ObjectDetectionDataset.read(
        data, format=data_format, labels=names or split_labels(labels), images_root=images
    )
    ids = CocoIds.of(dataset.images)

    def found_by(path: str, name: str) -> list[Detections]:
        if path not in known:
            return list(read_detections(path, dataset, ids))
        folder = None if where.scores is None else storage.join(where.scores, name)
        found, _ = make_detections(path, dataset, replace(where, scores=folder))
        return _renumbered(found, LabelMap.of(known[path]), dataset.label_map)

    return compare_detections(
        [ground_truth_of(image, dataset.label_map) for image in dataset.images],
        found_by(a, "a"),
        found_by(b, "b"),
        dataset.label_map,
        resamples=resamples,
        seed=seed,
        iou_threshold=iou,
    )


def _renumbered(found: Sequence[Detections], own: LabelMap, common: LabelMap) -> list[Detections]:
    """The same detections with the class ids of another label map."""
    import numpy as np

    ids = np.array([0, *(common.id_of(name) for name in own.names)], np.int64)
    return [replace(one, class_ids=ids[one.class_ids]) for one in found]


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


def sentence_of(result: ModelComparison) -> str:
    """A comparison in one sentence."""
    whole = result.map
    named = {
        verdict: [name for name, found in result.per_label.items() if found.verdict == verdict]
        for verdict in ("better", "worse")
    }
    said = {
        "better": "B is better than A",
        "worse": "B is worse than A",
        "no difference shown": "These pictures show no difference between A and B",
    }
    figures = f"mAP@{result.iou_threshold:g} {whole.ap_a:.3f} and {whole.ap_b:.3f}"
    if whole.interval is not None:
        figures += (
            f", difference {whole.difference:+.3f} with a {100 * result.level:.0f} % interval from "
            f"{whole.interval.low:+.3f} to {whole.interval.high:+.3f}"
        )
    labels = "; ".join(
        f"{verdict} on {', '.join(names)}" for verdict, names in named.items() if names
    )
    return (
        f"{said[whole.verdict]}: {figures}, over {result.num_images:,} pictures"
        f"{f'; {labels}' if labels else ''}."
    )


def _document(result: ModelComparison) -> dict[str, Any]:
    return {**asdict(result), "verdict": result.verdict, "sentence": sentence_of(result)}
