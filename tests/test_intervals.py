"""Bootstrap intervals: each draw against evaluating its pictures anew, and a case whose answer is known."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from evaluation_cases import (
    ONE_LABEL,
    THREE_LABELS,
    TWO_LABELS,
    found,
    random_pictures,
    square,
    truth_of,
)

from appliance.detections import Detections
from appliance.errors import DatasetError
from appliance.evaluation.metrics import intervals
from appliance.evaluation.metrics.average_precision import PascalResult, pascal_average_precision
from appliance.evaluation.metrics.intervals import (
    Interval,
    bootstrap_intervals,
    mean_over_labels,
    percentile_interval,
    resampled_average_precisions,
)
from appliance.evaluation.metrics.matching import GroundTruth


def one_object_each(is_found: np.ndarray) -> PascalResult:
    """Pictures with one object, found or not, and nothing wrong: AP is the share that was found."""
    truths = [truth_of(square(0))] * len(is_found)
    detections = [found((square(0), 0.9)) if one else found() for one in is_found]
    return pascal_average_precision(truths, detections, ONE_LABEL)


@pytest.mark.parametrize("interpolation", ["all-point", "11-point"])
@pytest.mark.parametrize("weights_at_once", [1, 100, 200_000])
def test_each_draw_equals_an_evaluation_of_the_pictures_drawn(
    interpolation: str, weights_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "_WEIGHTS_AT_ONCE", weights_at_once)
    for seed, pictures, most_objects in ((3, 12, 8), (47, 6, 2)):
        truths, detections = random_pictures(seed, pictures, most_objects)
        detections = with_different_scores(detections)
        result = pascal_average_precision(truths, detections, THREE_LABELS, 0.5, interpolation)
        drawn = resampled_average_precisions(result, resamples=60, seed=4)
        expected = evaluated_anew(truths, detections, interpolation, resamples=60, seed=4)
        assert drawn == pytest.approx(expected, abs=1e-12, nan_ok=True)
        means = [math.nan if np.isnan(row).all() else np.nanmean(row) for row in expected]
        assert mean_over_labels(drawn) == pytest.approx(means, abs=1e-12, nan_ok=True)
    # The last pictures are so few that some draws lack a class, and one lacks all.
    assert set(np.isnan(expected).sum(axis=1).tolist()) == {0, 1, 2, 3}


def evaluated_anew(
    truths: list[GroundTruth],
    detections: list[Detections],
    interpolation: str,
    resamples: int,
    seed: int,
) -> np.ndarray:
    """The average precisions of the pictures drawn, each draw matched and measured as any other set."""
    rng = np.random.default_rng(seed)
    measured = np.full((resamples, 3), np.nan)
    for row in measured:
        chosen = rng.integers(len(truths), size=len(truths)).tolist()
        again = [truths[index] for index in chosen], [detections[index] for index in chosen]
        try:
            result = pascal_average_precision(*again, THREE_LABELS, 0.5, interpolation)
        except DatasetError:
            continue
        row[:] = [math.nan if ap is None else ap for ap in result.ap_per_label.values()]
    return measured


def with_different_scores(detections: list[Detections]) -> list[Detections]:
    scores = np.random.default_rng(0).permutation(sum(len(one) for one in detections)) / 1000
    ends = np.cumsum([len(one) for one in detections])[:-1]
    return [
        Detections(one.boxes_xyxy, np.sort(part)[::-1], one.class_ids, one.size_hw)
        for one, part in zip(detections, np.split(scores, ends), strict=True)
    ]


def test_interval_of_a_share_is_the_one_of_the_textbook() -> None:
    is_found = np.arange(400) % 5 != 0
    result = bootstrap_intervals(one_object_each(is_found), resamples=2000)
    half_width = NormalDist().inv_cdf(0.975) * math.sqrt(0.8 * 0.2 / 400)
    assert result.map.low == pytest.approx(0.8 - half_width, abs=0.005)
    assert result.map.high == pytest.approx(0.8 + half_width, abs=0.005)
    assert result.ap_per_label == {"joghurt": result.map}
    narrower = bootstrap_intervals(one_object_each(is_found), resamples=2000, level=0.5)
    assert result.map.low < narrower.map.low < 0.8 < narrower.map.high < result.map.high


def test_nine_of_ten_intervals_of_level_090_hold_the_true_value() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        interval = bootstrap_intervals(
            one_object_each(rng.random(60) < 0.7), resamples=200, level=0.9
        ).map
        held += interval.low <= 0.7 <= interval.high
    # The standard deviation of the count is 4; the percentile bootstrap is a little too narrow.
    assert 168 <= held <= 192


def test_same_seed_same_interval() -> None:
    result = one_object_each(np.arange(50) % 3 != 0)
    first, second, other = (bootstrap_intervals(result, seed=seed) for seed in (3, 3, 4))
    assert first == second
    assert (first.level, first.resamples) == (0.95, 1000)
    assert 0 < first.map.low < 2 / 3 < first.map.high < 1
    drawn = [resampled_average_precisions(result, resamples=9, seed=seed) for seed in (3, 4)]
    assert (drawn[0] != drawn[1]).any()
    assert other.resamples == 1000


def test_one_picture_says_nothing_about_others() -> None:
    result = pascal_average_precision([truth_of(square(0))], [found((square(0), 0.9))], TWO_LABELS)
    both = bootstrap_intervals(result)
    assert both.map is None
    assert both.ap_per_label == {"joghurt": None, "water": None}


def test_class_that_is_absent_from_some_draws_is_measured_in_the_others() -> None:
    truths = [truth_of(square(0)), truth_of(square(0), class_ids=[2])]
    detections = [found((square(0), 0.9)), found()]
    result = bootstrap_intervals(pascal_average_precision(truths, detections, THREE_LABELS))
    # Always found and never found, where they occur; of the pictures, none, one or two are the first.
    assert result.ap_per_label == {
        "joghurt": Interval(1.0, 1.0),
        "water": Interval(0.0, 0.0),
        "milk": None,
    }
    assert result.map == Interval(0.0, 1.0)


def test_negatives_are_drawn_too() -> None:
    truths = [truth_of(square(0)), *[truth_of()] * 9]
    detections = [found((square(0), 0.5)), *[found((square(0), 0.9))] * 9]
    result = pascal_average_precision(truths, detections, ONE_LABEL)
    assert result.map == pytest.approx(0.1)
    drawn = resampled_average_precisions(result, resamples=500, seed=0)[:, 0]
    # The object drawn k times among ten pictures: k / 10. Not drawn: no figure.
    assert set(np.round(drawn[~np.isnan(drawn)] * 10).tolist()) >= {1.0, 2.0, 3.0}
    assert np.isnan(drawn).mean() == pytest.approx(0.9**10, abs=0.08)


def test_percentiles_of_what_is_known() -> None:
    values = np.append(np.arange(101.0), np.nan)
    middle = percentile_interval(values, 0.9, 50.0)
    assert middle == Interval(pytest.approx(5.0), pytest.approx(95.0))
    assert percentile_interval(np.array([np.nan]), 0.9, 50.0) is None
    assert percentile_interval(values, 0.9, None) is None


def test_an_interval_holds_its_figure_also_where_no_draw_does() -> None:
    values = np.arange(101.0)
    assert percentile_interval(values, 0.9, 2.0) == Interval(2.0, pytest.approx(95.0))
    assert percentile_interval(values, 0.9, 99.0) == Interval(pytest.approx(5.0), 99.0)
    # Every picture has a find and then a wrong detection, all of one score. A picture drawn twice puts its
    # finds beside each other, before its wrong ones: each draw looks better than the pictures as they are.
    truths, detections = (
        [truth_of(square(0))] * 30,
        [found((square(0), 0.5), (square(5), 0.5))] * 30,
    )
    result = pascal_average_precision(truths, detections, ONE_LABEL)
    drawn = resampled_average_precisions(result, resamples=1000, seed=0)
    assert np.quantile(drawn, 0.025) > result.map + 0.01
    intervals_of_all = bootstrap_intervals(result)
    assert intervals_of_all.map.low == result.map < intervals_of_all.map.high
    assert intervals_of_all.ap_per_label == {"joghurt": intervals_of_all.map}


def test_wrong_numbers_are_refused() -> None:
    result = one_object_each(np.array([True, False]))
    with pytest.raises(ValueError, match="level must be above 0 and below 1, got 1.0"):
        bootstrap_intervals(result, level=1.0)
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        bootstrap_intervals(result, resamples=0)


def test_ranking_is_cut_after_its_last_find_without_changing_a_figure() -> None:
    truths: list[GroundTruth] = [truth_of(square(0), square(1))] * 3
    with_tail = [found((square(0), 0.9), *((square(5), 0.5 - i / 100) for i in range(9)))] * 3
    bare = [found((square(0), 0.9))] * 3
    first, second = (
        resampled_average_precisions(
            pascal_average_precision(truths, detections, ONE_LABEL), resamples=5, seed=0
        )
        for detections in (with_tail, bare)
    )
    assert first.tolist() == second.tolist() == [[0.5]] * 5
