"""Wrong, missed, either and wrong on negatives against the score threshold, and their plot."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import found, random_pictures, square, truth_of
from matplotlib.figure import Figure

import appliance
from appliance.errors import ConfigError
from appliance.evaluation.metrics.error_counts import (
    DetectionEvaluation,
    count_errors,
    graph_error_counts,
)
from appliance.evaluation.metrics.matching import Matches, match_detections

THRESHOLDS = [0.0, 0.25, 0.5, 0.75, 1.0]


def matches_by_hand() -> Matches:
    """One of two objects found at 0.5; a wrong one at 0.75; two negatives, one of which has two wrong."""
    truths = [
        truth_of(square(0), square(1)),
        truth_of(square(0), difficult=[0]),
        truth_of(),
        truth_of(),
    ]
    detections = [
        found((square(5), 0.75), (square(0), 0.5)),
        found((square(0), 0.9), (square(5), 0.25)),
        found((square(0), 0.5), (square(1), 0.1)),
        found(),
    ]
    return match_detections(truths, detections)


def test_objects_by_hand() -> None:
    counts = count_errors(matches_by_hand(), THRESHOLDS)
    assert counts.wrong.tolist() == [4, 3, 2, 1, 0]
    assert counts.missed.tolist() == [1, 1, 1, 2, 2]
    assert counts.either.tolist() == [5, 4, 3, 3, 2]
    assert counts.on_negatives.tolist() == [2, 1, 1, 0, 0]
    assert (counts.num_negatives, counts.unit) == (2, "objects")


def test_pictures_by_hand() -> None:
    counts = count_errors(matches_by_hand(), THRESHOLDS, unit="pictures")
    assert counts.wrong.tolist() == [3, 3, 2, 1, 0]
    assert counts.missed.tolist() == [1, 1, 1, 1, 1]
    assert counts.either.tolist() == [3, 3, 2, 1, 1]
    assert counts.on_negatives.tolist() == [1, 1, 1, 0, 0]
    assert (counts.num_negatives, counts.unit) == (2, "pictures")


@pytest.mark.parametrize("unit", ["objects", "pictures"])
@pytest.mark.parametrize("seed", range(3))
def test_every_threshold_counts_what_lies_on_its_side(seed: int, unit: str) -> None:
    matches = match_detections(*random_pictures(seed, scores=20))
    counts = count_errors(matches, unit=unit)
    assert counts.score_thresholds.tolist() == [index / 100 for index in range(101)]
    for index, threshold in enumerate(counts.score_thresholds):
        is_wrong = matches.is_false_positive & (matches.scores >= np.float32(threshold))
        wrong = matches.image_index[is_wrong].tolist()
        missed = matches.object_image_index[matches.object_is_missed(threshold)].tolist()
        if unit == "pictures":
            wrong, missed = set(wrong), set(missed)
            assert counts.either[index] == len(wrong | missed)
        else:
            assert counts.either[index] == len(wrong) + len(missed)
        assert counts.wrong[index] == len(wrong)
        assert counts.missed[index] == len(missed)
        on_negatives = [image for image in wrong if matches.image_is_negative[image]]
        assert counts.on_negatives[index] == len(on_negatives)


@pytest.mark.parametrize("unit", ["objects", "pictures"])
def test_negatives_have_a_line_of_their_own_where_there_are_any(unit: str) -> None:
    counts = count_errors(matches_by_hand(), unit=unit)
    axes = graph_error_counts(counts, Figure().add_subplot())
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == ["wrong", "missed", "either", "wrong, on negatives"]
    assert lines["wrong, on negatives"].get_ydata().tolist() == counts.on_negatives.tolist()
    assert axes.get_ylabel() == f"{unit} in error"

    without = count_errors(match_detections([truth_of(square(0))], [found()]), unit=unit)
    assert without.num_negatives == 0
    lines = graph_error_counts(without, Figure().add_subplot()).get_lines()
    assert [line.get_label() for line in lines] == ["wrong", "missed", "either"]


def test_no_picture_makes_no_error() -> None:
    for unit in ("objects", "pictures"):
        counts = count_errors(match_detections([], []), THRESHOLDS, unit=unit)
        assert counts.wrong.tolist() == counts.missed.tolist() == counts.either.tolist() == [0] * 5


def test_all_that_a_plot_takes_has_a_public_name() -> None:
    counts = appliance.count_errors(matches_by_hand())
    assert isinstance(counts, appliance.ErrorCounts)
    axes = appliance.graph_error_counts(counts, Figure().add_subplot())
    assert axes.get_xlabel() == "score threshold"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: count_errors(None), "not the verdicts of an evaluation (got NoneType"),
        (lambda: graph_error_counts(matches_by_hand()), "no error counts (got Matches, expected"),
        (lambda: match_detections(None, []), "ground_truths (got NoneType, expected a list of Gro"),
        (lambda: match_detections([], "a.json"), "detections (got str, expected a list of Detecti"),
        (lambda: match_detections([], [{}]), "detections[0] (got dict, expected a list of Detecti"),
        (lambda: DetectionEvaluation([], [], "milk"), "no labels (got 'milk', expected a list of"),
        (lambda: DetectionEvaluation([], [], None), "no labels (got None, expected a list of"),
    ],
)
def test_arguments_of_another_kind_are_told_in_a_sentence(call, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call()
    assert sentence in str(caught.value)
