"""`appliance evaluate`: a model, or its detections, and annotated pictures in; figures and a report out."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.detecting import (
    IouOption,
    LabelsOption,
    ScoresOption,
    Where,
    WorkersOption,
    labels_of_model,
    make_detections,
    name_of_data,
    read_detections,
    refuse_labels,
    split_labels,
)
from appliance.cli.options import (
    AddressOption,
    FormatOption,
    ImagesOption,
    Json,
    Quiet,
    RegistryOption,
)
from appliance.cli.tables import print_json, print_table
from appliance.errors import ConfigError
from appliance.model.address import ModelAddress
from appliance.versions import versions

if TYPE_CHECKING:
    from appliance.annotations.dataset import ObjectDetectionDataset
    from appliance.evaluation.analysis import Analysis
    from appliance.evaluation.evaluate import EvaluationResult
    from appliance.evaluation.report.page import ReportSection


class Interpolation(StrEnum):
    """How PASCAL VOC takes the area under the curve."""

    ALL_POINT = "all-point"
    ELEVEN_POINT = "11-point"


def evaluate(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] DATA",
            help="Model file, or one in the registry; annotated pictures; DATA#test for one part of divided data.",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", help="Folder for index.html, metrics.json, detections.json, PNGs."
        ),
    ] = None,
    predictions: Annotated[
        str | None,
        typer.Option("--predictions", help="Instead of MODEL: detections as COCO results (JSON)."),
    ] = None,
    data_format: FormatOption = "auto",
    images: ImagesOption = None,
    labels: LabelsOption = None,
    iou: IouOption = 0.5,
    interpolation: Annotated[
        Interpolation, typer.Option(help="all-point since VOC 2010, 11-point before.")
    ] = Interpolation.ALL_POINT,
    eval_dir: Annotated[
        str | None, typer.Option(help="Folder for the same figures in TensorBoard.")
    ] = None,
    workers: WorkersOption = None,
    scores: ScoresOption = None,
    registry: RegistryOption = None,
    address: AddressOption = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Measure a detector: PASCAL AP at IoU 0.5 for each label, COCO's twelve figures, and why.

    Examples: appliance evaluate fridge.safetensors data/test -o report/

    appliance evaluate --predictions detections.json data/test -o report/
    """
    model, data = _model_and_data(paths, predictions)
    if model is not None:
        refuse_labels(labels)
    elif workers or scores or address:
        raise ConfigError(
            "A predictions file needs no cluster",
            hint="Leave --workers, --scores and --address out",
        )
    if not 0 < iou <= 1:
        raise ConfigError("--iou is out of range", got=iou, expected="above 0, up to 1")
    from appliance import storage
    from appliance.annotations.dataset import ObjectDetectionDataset
    from appliance.evaluation.analysis import analyse
    from appliance.evaluation.evaluate import evaluate_detections
    from appliance.evaluation.predictions import CocoIds
    from appliance.evaluation.report.page import metrics_document
    from appliance.registry.registry import find_model

    if model is not None:
        model = find_model(model, registry)
    if out is not None:
        storage.check_writable(storage.join(out, "index.html"))
    names = split_labels(labels) if model is None else labels_of_model(model)
    dataset = ObjectDetectionDataset.read(
        data, format=data_format, labels=names, images_root=images
    )
    ids = CocoIds.of(dataset.images)
    if model is None:
        source, scoring_s = str(predictions), None
        found = read_detections(source, dataset, ids)
    else:
        source = ModelAddress.parse(model).uri
        where = Where(address, workers, scores, quiet)
        found, scoring_s = make_detections(model, dataset, where)
    result = evaluate_detections(
        dataset.images,
        found,
        dataset.label_map,
        iou_threshold=iou,
        interpolation=interpolation.value,
        scoring_s=scoring_s,
    )
    analysis = analyse(result)
    if out is not None or eval_dir is not None:
        from appliance.evaluation.comparison import compare_pictures
        from appliance.evaluation.report.page import ReportData, result_charts, write_report
        from appliance.evaluation.tensorboard import write_tensorboard

        pictures = compare_pictures(dataset.images, result)
        charts = result_charts(result, analysis)
        if eval_dir is not None:
            write_tensorboard(eval_dir, result, pictures, charts=charts)
        if out is not None:
            report = ReportData(
                f"{_title(model, source)} on {name_of_data(data)}",
                result,
                comparisons=pictures,
                sections=_sections(model, source, data, dataset, result),
                analysis=analysis,
                charts=charts,
            )
            write_report(out, report, images=dataset.images, ids=ids)
    if json:
        print_json(metrics_document(result, analysis))
        return
    _print(result, analysis)
    if out is not None:
        print(f"Report: {out.rstrip('/')}/index.html")


def _model_and_data(paths: Sequence[str], predictions: str | None) -> tuple[str | None, str]:
    if predictions is None and len(paths) == 2:
        return paths[0], paths[1]
    if predictions is not None and len(paths) == 1:
        return None, paths[0]
    raise ConfigError(
        "The arguments do not fit together",
        got=" ".join([*paths, *(["--predictions", predictions] if predictions else [])]),
        expected="MODEL DATA, or --predictions FILE DATA",
    )


def _title(model: str | None, source: str) -> str:
    reference = None if model is None else ModelAddress.parse(model).reference
    return reference or PurePath(source).stem


def _sections(
    model: str | None,
    source: str,
    data: str,
    dataset: ObjectDetectionDataset,
    result: EvaluationResult,
) -> list[ReportSection]:
    from appliance.evaluation.report.page import ReportSection

    data_rows: list[tuple[str, Any]] = [
        ("Annotations", data),
        ("Pictures", result.num_images),
        ("Pictures without any object", result.num_negatives),
        ("Objects that count", result.num_objects),
        ("Objects marked difficult", sum(int(image.difficult.sum()) for image in dataset.images)),
        ("Crowds", sum(int(image.crowd.sum()) for image in dataset.images)),
        ("Labels", len(dataset.label_map)),
        ("Digest (SHA-256)", dataset.digest()[:16]),
    ]
    sections = [ReportSection("Data", data_rows), _model_section(model, source, result)]
    if result.speed is not None:
        speed_rows = [
            ("Reading, decoding and detecting, s", result.speed.seconds),
            ("Pictures a second", result.speed.images_per_s),
            ("Milliseconds a picture", 1000 / result.speed.images_per_s),
        ]
        sections.append(ReportSection("Speed", speed_rows))
    return [*sections, ReportSection("Versions", list(versions().items()))]


def _model_section(model: str | None, source: str, result: EvaluationResult) -> ReportSection:
    from appliance.evaluation.report.page import ReportSection

    if model is None:
        rows = [("File", source), ("Made", "elsewhere"), ("Number", result.num_detections)]
        return ReportSection("Detections", rows)
    from appliance.model import model_file

    loaded = model_file.load(model)
    spec, info = loaded.spec, loaded.info
    return ReportSection(
        "Model",
        [
            ("File", source),
            ("Version", ModelAddress.parse(model).reference or loaded.version),
            ("Architecture", spec.architecture),
            ("Backbone", spec.backbone),
            ("Shorter side of its input, pixels", spec.shorter_side_px),
            ("Lowest score it keeps", spec.score_threshold),
            ("Detections on these pictures", result.num_detections),
            ("Training steps", info.training.get("steps")),
            ("Started from", info.parent),
            ("Digest of its training data", (info.dataset_digest or "")[:16] or None),
        ],
    )


def _print(result: EvaluationResult, analysis: Analysis) -> None:
    ap_50 = f"AP@{result.pascal.iou_threshold:g}"
    columns = ("label", "objects", ap_50, "AP", "precision", "recall", "F1", "threshold")
    rows = [
        (
            found.label,
            found.objects,
            *(found.ap_50, found.ap, found.precision, found.recall, found.f1),
            found.recommended_threshold,
        )
        for found in result.per_label
    ]
    print_table(columns, rows)
    interval = analysis.intervals.map
    span = "" if interval is None else f" ({interval.low:.4f} to {interval.high:.4f})"
    ap = "" if result.coco.ap is None else f", COCO AP {result.coco.ap:.4f}"
    print(
        f"mAP@{result.pascal.iou_threshold:g} {result.map_50:.4f}{span}{ap} "
        f"on {result.num_images} pictures"
    )
