"""The charts of the report: what they show, and that they are drawn once."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from report_cases import decoded, evaluation_of, groceries

from appliance.evaluation.analysis import analyse
from appliance.evaluation.report.chart import INK, Chart, Ink
from appliance.evaluation.report.confusion_chart import confusion_chart, frequent_confusions
from appliance.evaluation.report.page import ReportData, result_charts, write_report
from appliance.evaluation.tensorboard import write_tensorboard
from appliance.labels import LabelMap


def test_confusions_of_many_classes_are_gathered() -> None:
    labels = LabelMap(tuple(f"label {index}" for index in range(40)))
    # Everything is found, but every third object is taken for the next class.
    objects = [(index % 20, index + 1) for index in range(20)]
    scored = [(place, c + 1 if c % 3 == 0 else c, 0.9) for place, c in objects]
    analysis = analyse(evaluation_of(labels, objects, scored), resamples=1)
    matrix = analysis.confusion
    pairs = frequent_confusions(matrix, limit=4)
    assert [(p.truth, p.predicted, p.count, p.share) for p in pairs[:2]] == [
        ("label 2", "label 3", 1, 1.0),
        ("label 5", "label 6", 1, 1.0),
    ]
    assert len(frequent_confusions(matrix)) == 6
    chart = confusion_chart(matrix)
    assert "The 17 labels with the fewest mistakes are gathered." in chart.caption
    assert chart.is_wide
    assert "14 objects found as what they are, 6 taken for another label, 0 missed" in chart.alt
    shown = decoded(chart.svg_uri("dark"))
    for text in (b">17 others<", b">label 2<", b">background<"):
        assert text in shown
    assert b">label 30<" not in shown


def test_curves_pass_through_their_best_points() -> None:
    # Thousands of faint wrong detections must not crowd the few that matter out of the drawing.
    faint = [(15, 1, 0.001 * rank / 3000) for rank in range(3000, 0, -1)]
    scored = [(place, 1, 0.9 - 0.0137 * place) for place in range(10)]
    result = evaluation_of(LabelMap(("cup",)), [(p, 1) for p in range(10)], [*scored, *faint])
    charts = {chart.name: chart for chart in result_charts(result, analyse(result, resamples=1))}
    for name, point in (("f1", (0.9 - 0.0137 * 9, 1.0)), ("precision_recall", (1.0, 1.0))):
        ax = Figure().add_subplot()
        charts[name].paint(ax, INK["light"])
        drawn = np.array(ax.get_lines()[0].get_xydata())
        assert np.abs(drawn - point).sum(axis=1).min() < 1e-6
        assert len(drawn) < 300


def test_charts_that_were_drawn_are_not_drawn_again(tmp_path) -> None:
    evaluation = groceries()
    analysis = analyse(evaluation, resamples=1)
    drawn: list[str] = []

    def paint(ax: Axes, _: Ink) -> None:
        drawn.append("f1")
        ax.plot([0, 1], [1, 0])

    charts = [
        Chart("f1", "F1", "A line.", "Mine.", paint) if chart.name == "f1" else chart
        for chart in result_charts(evaluation, analysis)
    ]
    write_tensorboard(tmp_path / "eval", evaluation, charts=charts)
    assert drawn == ["f1"]
    data = ReportData("m", evaluation, analysis=analysis, charts=charts)
    write_report(tmp_path / "report", data)
    assert drawn == ["f1", "f1"]  # as SVG for the page, and no second time as PNG
    mine = next(chart for chart in charts if chart.name == "f1")
    assert (tmp_path / "report" / "f1.png").read_bytes() == mine.png
    page = (tmp_path / "report" / "index.html").read_text()
    assert "<figcaption>Mine.</figcaption>" in page
    assert "Precision and recall" in page
