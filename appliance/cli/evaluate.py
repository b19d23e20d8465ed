"""`appliance evaluate`: a model file and annotated pictures in, figures and a report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.options import Json, ModelArgument
from appliance.cli.tables import print_json, print_table

if TYPE_CHECKING:
    from appliance.annotations.dataset import ObjectDetectionDataset
    from appliance.evaluation.evaluate import EvaluationResult


def evaluate(
    model: ModelArgument,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Pascal VOC folder to measure on.")],
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Folder for index.html and metrics.json.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure a detector: PASCAL AP at IoU 0.5 for each label.

    Example: appliance evaluate fridge.safetensors data/test -o report/
    """
    from appliance.annotations.dataset import ObjectDetectionDataset
    from appliance.detector import FasterRCNN

    detector = FasterRCNN.load(model)
    dataset = ObjectDetectionDataset.create_from_dir(
        Path(data).name or "test", data, labels=detector.labels
    )
    result = detector.evaluate_in_detail(dataset)
    document = {**result.to_contract_dict(), **result.to_json_dict()}
    if out is not None:
        _write_report(Path(model).stem, out, dataset, result, document)
    if json:
        print_json(document)
        return
    rows = [
        (found.label, found.num_objects, found.average_precision, found.best.recall)
        for found in result.pascal.labels
    ]
    print_table(("label", "objects", "AP@0.5", "recall"), rows)
    print(f"mAP@0.5 {result.map_50:.4f} on {result.num_images} pictures")
    if out is not None:
        print(f"Report: {Path(out) / 'index.html'}")


def _write_report(
    model_name: str,
    out: str,
    dataset: ObjectDetectionDataset,
    result: EvaluationResult,
    document: dict[str, Any],
) -> None:
    import json

    from appliance import storage
    from appliance.evaluation.comparison import compare_pictures
    from appliance.evaluation.report import ReportData, write_report

    pictures = compare_pictures(dataset.images, result)
    write_report(out, ReportData(model_name, result, comparisons=pictures))
    text = json.dumps(document, indent=2, sort_keys=True)
    storage.write_bytes(f"{out.rstrip('/')}/metrics.json", text.encode())
