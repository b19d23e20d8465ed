"""One HTML page that shows a person how good a model is: figures, curves, pictures, surroundings.

The page is a single file without scripts and without anything fetched from elsewhere: pictures and charts
lie in it as data URIs, and its own content security policy forbids the rest. All text that comes from
data is escaped by the template engine. jinja2 is imported by `write_report`.
"""

from __future__ import annotations

import base64
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

from appliance import storage
from appliance.evaluation.average_precision import LabelResult, OperatingPoint
from appliance.evaluation.comparison import Comparison
from appliance.evaluation.evaluate import EvaluationResult
from appliance.evaluation.report_charts import (
    error_counts_chart,
    precision_recall_chart,
    training_charts,
)

_JPEG_QUALITY = 80
_PICTURE_MAX_SIDE_PX = 800
_ABSENT = "–"


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
        model_name: The model, as users know it.
        evaluation: Its figures.
        description: One sentence on model and data.
        created: When; local time with its zone.
        training_log: One mapping per logged step, with `step` and, as far as known, `loss` and
            `learning_rate`.
        comparisons: Pictures with truth and predictions, worst first.
        sections: Tables below, in this order.
    """

    model_name: str
    evaluation: EvaluationResult
    description: str = ""
    created: datetime = field(default_factory=lambda: datetime.now().astimezone())
    training_log: Sequence[Mapping[str, Any]] = ()
    comparisons: Sequence[Comparison] = ()
    sections: Sequence[ReportSection] = ()


def write_report(out_dir: str | os.PathLike[str], data: ReportData) -> str:
    """Writes `index.html` into a folder or below a URI.

    Args:
        out_dir: Where; made when it is not there.
        data: What to show.

    Returns:
        The path or URI of the page.

    Raises:
        StorageError: It cannot be written.
    """
    target = f"{str(out_dir).rstrip('/')}/index.html"
    storage.write_bytes(target, render_report(data).encode())
    return target


def render_report(data: ReportData) -> str:
    """The page as text; see `write_report`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    evaluation = data.evaluation
    return environment.get_template("report.html").render(
        data=data,
        evaluation=evaluation,
        summary=_summary(evaluation.pascal.best),
        labels=_ordered_labels(evaluation.pascal.labels),
        result_charts=[
            precision_recall_chart(evaluation.pascal),
            error_counts_chart(evaluation.pascal),
        ],
        training_charts=training_charts(data.training_log),
        pictures=[_picture(comparison) for comparison in data.comparisons],
    )


def _summary(best: OperatingPoint) -> str:
    num_objects = best.true_positives + best.false_negatives
    if best.score_threshold is None:
        return f"The model finds none of the {num_objects:,} objects, at any score threshold."
    found = "every one" if not best.false_negatives else f"{best.true_positives:,}"
    wrong = f"{best.false_positives:,} wrong ones" if best.false_positives else "no wrong one"
    if best.false_positives == 1:
        wrong = "one wrong one"
    return (
        f"At a score of {best.score_threshold:.2f} or more the model finds {found} of "
        f"{num_objects:,} objects, with {wrong} among its detections."
    )


def _ordered_labels(labels: Sequence[LabelResult]) -> list[LabelResult]:
    """Worst first; labels without objects last."""
    return sorted(
        labels,
        key=lambda label: 2.0 if label.average_precision is None else label.average_precision,
    )


def _picture(comparison: Comparison) -> dict[str, Any]:
    wrong = [f"{label} {score:.2f}" for label, score in comparison.wrong]
    missed = _counted(comparison.missed)
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
    }


def _counted(labels: Sequence[str]) -> list[str]:
    counts = Counter(labels)
    return [label if count == 1 else f"{label} ×{count}" for label, count in counts.items()]


def _jpeg_uri(picture: Image.Image) -> str:
    small = picture.convert("RGB")
    small.thumbnail((_PICTURE_MAX_SIDE_PX, _PICTURE_MAX_SIDE_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
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
