"""One HTML page that shows a person how good a model is: figures, curves, errors, pictures, surroundings.

The page is a single file without scripts and without anything fetched from elsewhere: pictures and charts
lie in it as data URIs, and its own content security policy forbids the rest. All text that comes from
data is escaped by the template engine. Beside it lie the same figures for programs (`metrics.json`,
`detections.json`) and the charts as PNG. jinja2 and matplotlib are imported by the functions that draw.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from appliance import storage
from appliance.evaluation.analysis import Analysis, analyse
from appliance.evaluation.comparison import Comparison, shrunk
from appliance.evaluation.evaluate import EvaluationResult, LabelFigures
from appliance.evaluation.predictions import CocoIds, write_predictions
from appliance.evaluation.report.chart import Chart
from appliance.evaluation.report.confusion_chart import confusion_chart, frequent_confusions
from appliance.evaluation.report.curve_charts import (
    average_precision_chart,
    curve_charts,
    error_types_chart,
)
from appliance.evaluation.report.text import (
    COCO_FIGURES,
    counted,
    error_rows,
    interval_note,
    score_text,
    summary,
)
from appliance.evaluation.report.training_charts import training_charts

if TYPE_CHECKING:
    from appliance.annotations.dataset import AnnotatedImage

_JPEG_QUALITY = 80
_ABSENT = "–"
# Longer tables show their first rows and fold the rest away.
_MOST_ROWS = 16
_ROWS_BEFORE_FOLD = 12


@dataclass(frozen=True, eq=False)
class ReportSection:
    """A table of facts: data statistics, timings, versions.

    Attributes:
        title: Its heading.
        rows: Its cells; numbers are formatted, None becomes a dash. Without `columns` a row is a name
            and a value.
        columns: Headings of the columns, or nothing.
        note: A sentence below the heading, or nothing.
    """

    title: str
    rows: Sequence[Sequence[Any]]
    columns: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True, eq=False)
class ReportData:
    """What a report shows; everything but the first two may be left out.

    Attributes:
        model_name: Its title: the model, or the model and the data, as users know them.
        evaluation: Its figures.
        description: One sentence on model and data.
        created: When; local time with its zone.
        training_log: One mapping per logged step, with `step` and, as far as known, `loss` and
            `learning_rate`.
        comparisons: Pictures with truth and predictions, worst first.
        sections: Tables below, in this order.
        analysis: The second look; None takes it now.
        charts: Those of `result_charts`, where somebody has drawn them already: they are not drawn again.
    """

    model_name: str
    evaluation: EvaluationResult
    description: str = ""
    created: datetime = field(default_factory=lambda: datetime.now().astimezone())
    training_log: Sequence[Mapping[str, Any]] = ()
    comparisons: Sequence[Comparison] = ()
    sections: Sequence[ReportSection] = ()
    analysis: Analysis | None = None
    charts: Sequence[Chart] = ()


def write_report(
    out_dir: str | os.PathLike[str],
    data: ReportData,
    *,
    images: Sequence[AnnotatedImage] = (),
    ids: CocoIds = CocoIds(),
) -> str:
    """Writes a report into a folder or below a URI: `index.html`, `metrics.json`, charts as PNG.

    Args:
        out_dir: Where; made when it is not there.
        data: What to show.
        images: The pictures that were evaluated, in the same order; when given, `detections.json` has
            the detections on them as COCO results.
        ids: Those of a COCO data set, for `detections.json`.

    Returns:
        The path or URI of the page.

    Raises:
        StorageError: It cannot be written.
    """
    analysis = data.analysis or analyse(data.evaluation)
    charts = _Charts.of(data, analysis)
    storage.write_bytes(
        storage.join(out_dir, "index.html"), _render(data, analysis, charts).encode()
    )
    for chart in charts.all:
        storage.write_bytes(storage.join(out_dir, f"{chart.name}.png"), chart.png)
    document = metrics_document(data.evaluation, analysis)
    text = json.dumps(document, indent=2, sort_keys=True, allow_nan=False)
    storage.write_bytes(storage.join(out_dir, "metrics.json"), text.encode())
    if images:
        evaluation = data.evaluation
        write_predictions(
            storage.join(out_dir, "detections.json"),
            images,
            evaluation.detections,
            evaluation.labels,
            ids,
        )
    return storage.join(out_dir, "index.html")


def metrics_document(evaluation: EvaluationResult, analysis: Analysis) -> dict[str, Any]:
    """All figures as plain values: the contract's keys and COCO's at the top, details below them."""
    return {
        **evaluation.metrics(),
        **evaluation.to_json_dict(),
        "analysis": analysis.to_json_dict(),
    }


def render_report(data: ReportData) -> str:
    """The page as text; see `write_report`."""
    analysis = data.analysis or analyse(data.evaluation)
    return _render(data, analysis, _Charts.of(data, analysis))


@dataclass(frozen=True)
class _Charts:
    """The charts by the section they stand in."""

    curves: Sequence[Chart]
    confusion: Chart
    training: Sequence[Chart]
    beside: Sequence[Chart]

    @classmethod
    def of(cls, data: ReportData, analysis: Analysis) -> _Charts:
        pascal = data.evaluation.pascal
        drawn = {chart.name: chart for chart in data.charts}

        def known(charts: Sequence[Chart]) -> list[Chart]:
            return [drawn.get(chart.name, chart) for chart in charts]

        return cls(
            curves=known(curve_charts(pascal, analysis)),
            confusion=known([confusion_chart(analysis.confusion)])[0],
            training=training_charts(data.training_log),
            # On the page these two are tables.
            beside=known([average_precision_chart(pascal, analysis), error_types_chart(analysis)]),
        )

    @property
    def all(self) -> list[Chart]:
        return [*self.curves, self.confusion, *self.training, *self.beside]


def result_charts(evaluation: EvaluationResult, analysis: Analysis) -> list[Chart]:
    """Every chart of an evaluation."""
    return _Charts.of(ReportData("", evaluation), analysis).all


def _render(data: ReportData, analysis: Analysis, charts: _Charts) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}\N{NO-BREAK SPACE}%"
    environment.filters["figure"] = lambda value: _ABSENT if value is None else f"{value:.3f}"
    environment.filters["threshold"] = lambda value: _ABSENT if value is None else score_text(value)
    evaluation = data.evaluation
    labels = _ordered_labels(evaluation.per_label)
    fold = _ROWS_BEFORE_FOLD if len(labels) > _MOST_ROWS else len(labels)
    return environment.get_template("page.html").render(
        data=data,
        evaluation=evaluation,
        analysis=analysis,
        summary=summary(evaluation, analysis),
        interval_note=interval_note(evaluation, analysis),
        labels=labels[:fold],
        more_labels=labels[fold:],
        errors=error_rows(analysis),
        confusions=frequent_confusions(analysis.confusion),
        coco_figures=[
            (name, meaning, evaluation.coco.to_metrics()[f"COCO/{name}"])
            for name, meaning in COCO_FIGURES.items()
        ],
        charts=charts,
        pictures=[_picture(comparison) for comparison in data.comparisons],
    )


def _ordered_labels(labels: Sequence[LabelFigures]) -> list[LabelFigures]:
    """Worst first; labels without objects last."""
    return sorted(labels, key=lambda label: 2.0 if label.ap_50 is None else label.ap_50)


def _picture(comparison: Comparison) -> dict[str, Any]:
    wrong = [f"{label} {score:.2f}" for label, score in comparison.wrong]
    missed = counted(comparison.missed)
    num_objects = comparison.num_found + len(comparison.missed)
    return {
        "name": comparison.name,
        "num_found": comparison.num_found,
        "num_objects": num_objects,
        "missed": missed,
        "wrong": wrong,
        "truth_uri": _jpeg_uri(comparison.truth),
        "truth_alt": f"{comparison.name} with its {num_objects} annotated objects",
        "prediction_uri": _jpeg_uri(comparison.prediction),
        "prediction_alt": f"{comparison.name} with the model's detections: "
        f"{comparison.num_found} of {num_objects} objects found, "
        f"missed: {', '.join(missed) or 'none'}, wrong: {', '.join(wrong) or 'none'}",
        "size_wh": comparison.truth.size,
        "is_part": comparison.window_xyxy is not None,
    }


def _jpeg_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    shrunk(picture).save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _cell(value: object) -> str:
    if value is None:
        return _ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
