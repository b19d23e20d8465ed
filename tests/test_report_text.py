"""The words of the report: a sentence for every outcome, and what is said of the errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_cases import evaluation_of, groceries

from appliance.evaluation.analysis import analyse
from appliance.evaluation.evaluate import EvaluationResult
from appliance.evaluation.metrics.error_types import ErrorTypes, analyse_errors
from appliance.evaluation.report.page import ReportData, render_report
from appliance.evaluation.report.text import error_rows, interval_note, summary
from appliance.labels import LabelMap

NBSP = "\N{NO-BREAK SPACE}"


@pytest.fixture(scope="module")
def evaluation() -> EvaluationResult:
    return groceries()


def sentence(result: EvaluationResult) -> str:
    return summary(result, analyse(result, resamples=1))


def test_perfect_model_reads_well() -> None:
    perfect = evaluation_of(LabelMap(("water",)), [(0, 1), (1, 1)], [(0, 1, 0.9), (1, 1, 0.8)])
    assert sentence(perfect) == (
        "At a score of 0.80 or more the model finds every one of the 2 objects, with no wrong one "
        "among its detections."
    )
    single = evaluation_of(LabelMap(("water",)), [(0, 1)], [(0, 1, 0.9)])
    assert "finds the only object, with no wrong one" in sentence(single)


def test_one_wrong_detection_is_said_in_words() -> None:
    scored = [(0, 1, 0.9), (9, 1, 0.8), (1, 1, 0.7), (2, 1, 0.6)]
    result = evaluation_of(LabelMap(("water",)), [(0, 1), (1, 1), (2, 1), (3, 1)], scored)
    text = sentence(result)
    assert (
        "At a score of 0.60 or more the model finds 3 of the 4 objects, with one wrong one" in text
    )
    assert "What costs most: missed (0.2" in text


def test_few_pictures_are_called_few(evaluation: EvaluationResult) -> None:
    note = interval_note(evaluation, analyse(evaluation, resamples=10))
    assert note.startswith(f"Intervals hold 95{NBSP}% of 10 repetitions")
    assert "So few pictures say little about others" in note
    many = replace(evaluation, ground_truths=evaluation.ground_truths * 30)
    assert "So few" not in interval_note(many, analyse(evaluation, resamples=10))


def test_errors_are_listed_by_what_they_cost(evaluation: EvaluationResult) -> None:
    rows = error_rows(analyse(evaluation, resamples=1))
    assert len(rows) == 6
    assert rows[0].name == "Missed"
    assert rows[0].share == 1.0
    costs = [row.ap_cost for row in rows]
    assert costs == sorted(costs, reverse=True)


def analyse_shown(result: EvaluationResult, score_threshold: float) -> ErrorTypes:
    return analyse_errors(
        result.ground_truths, result.detections, result.labels, score_threshold=score_threshold
    )


def test_errors_below_the_threshold_are_told_from_those_that_users_see() -> None:
    # The threshold is 0.8; below it, one detection is at no object.
    scored = [(0, 1, 0.9), (1, 1, 0.8), (9, 1, 0.3), (2, 1, 0.2)]
    result = evaluation_of(LabelMap(("water",)), [(0, 1), (1, 1), (2, 1), (3, 1)], scored)
    analysis = analyse(result, resamples=1)
    assert analysis.score_threshold == pytest.approx(0.2)
    strict = replace(analysis, error_types_shown=analyse_shown(result, 0.8))
    rows = {row.name: row for row in error_rows(strict)}
    assert (rows["Nothing there"].count, rows["Nothing there"].faint) == (0, 1)
    assert rows["Nothing there"].ap_cost == pytest.approx(1 / 16)
    assert (rows["Missed"].count, rows["Missed"].faint) == (2, 0)
    page = render_report(ReportData("m", result, analysis=strict))
    assert "and 1 fainter" in page
    assert "only detections below the threshold are of this kind" in page


def test_the_kinds_of_errors_follow_the_overlap_that_counts() -> None:
    result = evaluation_of(LabelMap(("water",)), [(0, 1)], [(0, 1, 0.9)], iou_threshold=0.75)
    analysis = analyse(result, resamples=1)
    assert analysis.error_types.iou_threshold == 0.75
    assert "how much higher mAP@0.75 would be" in render_report(
        ReportData("m", result, analysis=analysis)
    )
