"""Is model B better than A: equal, clearly better, turned around, and too few pictures to tell."""

from __future__ import annotations

import math

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

from appliance.evaluation.metrics.average_precision import pascal_average_precision
from appliance.evaluation.metrics.intervals import Interval, bootstrap_intervals
from appliance.evaluation.metrics.paired import Difference, compare_detections, fewest_pictures


def test_equal_models_show_no_difference() -> None:
    truths, detections = random_pictures(2, 30)
    comparison = compare_detections(truths, detections, detections, THREE_LABELS)
    for one in (comparison.map, *comparison.per_label.values()):
        assert one.ap_a == one.ap_b
        assert one.difference == 0
        assert one.interval == Interval(0.0, 0.0)
        assert one.probability_b_better == 0.5
        assert one.verdict == "no difference shown"
    assert comparison.verdict == "no difference shown"
    assert (comparison.num_images, comparison.resamples, comparison.level) == (30, 1000, 0.95)


def test_clearly_better_model_is_called_better_where_it_is() -> None:
    truths = [truth_of(square(0), square(1), class_ids=[1, 2])] * 40
    both, first_only = (square(0), 0.9), (square(1), 0.8)
    a = [
        found(both, first_only, class_ids=[1, 2]) if i % 2 else found(both)
        for i in range(len(truths))
    ]
    b = [found(both, first_only, class_ids=[1, 2])] * 40

    comparison = compare_detections(truths, a, b, TWO_LABELS)

    assert comparison.per_label["joghurt"].verdict == "no difference shown"
    water = comparison.per_label["water"]
    assert (water.ap_a, water.ap_b, water.difference) == (0.5, 1.0, 0.5)
    # AP is the share that was found, so the difference is that of a share of 40.
    half_width = 1.96 * math.sqrt(0.25 / 40)
    assert water.interval.low == pytest.approx(0.5 - half_width, abs=0.03)
    assert water.interval.high == pytest.approx(0.5 + half_width, abs=0.03)
    assert (water.probability_b_better, water.pictures, water.verdict) == (1.0, 40, "better")
    assert comparison.map.difference == 0.25
    assert comparison.verdict == "better"


def test_turning_the_models_around_turns_everything_around() -> None:
    truths, a = random_pictures(5, 25)
    b = [one.filter(score_threshold=0.4) for one in a]
    there = compare_detections(truths, a, b, THREE_LABELS, seed=7)
    back = compare_detections(truths, b, a, THREE_LABELS, seed=7)
    opposite = {"better": "worse", "worse": "better", "no difference shown": "no difference shown"}
    for label in (None, *THREE_LABELS.names):
        one, other = (c.map if label is None else c.per_label[label] for c in (there, back))
        assert (one.ap_a, one.ap_b) == (other.ap_b, other.ap_a)
        assert one.difference == -other.difference
        assert one.interval.low == pytest.approx(-other.interval.high, abs=1e-12)
        assert one.interval.high == pytest.approx(-other.interval.low, abs=1e-12)
        assert one.probability_b_better == pytest.approx(1 - other.probability_b_better)
        assert one.verdict == opposite[other.verdict]
    assert there.verdict == "worse"


def test_paired_interval_is_narrower_than_what_two_models_show_apart() -> None:
    # Hard and easy pictures for both alike; B finds one object more in every tenth picture.
    rng = np.random.default_rng(0)
    truths, a, b = [], [], []
    for index in range(100):
        count = int(rng.integers(0, 4))
        truths.append(truth_of(*(square(place) for place in range(5))))
        finds = [(square(place), 0.9) for place in range(count)]
        a.append(found(*finds))
        b.append(found(*finds, (square(4), 0.9)) if index % 10 == 0 else found(*finds))
    comparison = compare_detections(truths, a, b, ONE_LABEL)
    assert comparison.map.difference == pytest.approx(0.02)
    assert comparison.verdict == "better"
    apart = [
        bootstrap_intervals(pascal_average_precision(truths, one, ONE_LABEL)).map for one in (a, b)
    ]
    assert apart[0].high > apart[1].low


@pytest.mark.parametrize(("pictures", "verdict"), [(5, "no difference shown"), (6, "better")])
def test_few_pictures_are_not_enough_for_a_verdict(pictures: int, verdict: str) -> None:
    truths = [truth_of(square(0))] * pictures
    a, b = [found()] * pictures, [found((square(0), 0.9))] * pictures
    one = compare_detections(truths, a, b, ONE_LABEL).map
    assert (one.difference, one.interval, one.pictures) == (1.0, Interval(1.0, 1.0), pictures)
    assert one.verdict == verdict


def test_pictures_that_say_nothing_about_a_class_do_not_count() -> None:
    truths = [truth_of(square(0))] * 5 + [truth_of(square(0), class_ids=[2])] * 20
    a = [found()] * 25
    b = [found((square(0), 0.9))] * 5 + [found((square(0), 0.9), class_ids=[2])] * 20
    comparison = compare_detections(truths, a, b, TWO_LABELS)
    assert comparison.per_label["joghurt"].pictures == 5
    assert comparison.per_label["joghurt"].verdict == "no difference shown"
    assert comparison.per_label["water"].verdict == "better"
    assert comparison.map.pictures == 25


def test_one_picture_has_a_difference_and_no_interval() -> None:
    comparison = compare_detections(
        [truth_of(square(0))], [found()], [found((square(0), 0.9))], TWO_LABELS
    )
    assert comparison.map == Difference(0.0, 1.0, 1.0, None, None, 1, "no difference shown")
    assert comparison.per_label["water"] == Difference(
        None, None, None, None, None, 0, "no difference shown"
    )


def test_level_asks_for_pictures_and_is_checked() -> None:
    # 2 * 0.5**6 is 0.031, 2 * 0.5**5 is 0.0625.
    assert (fewest_pictures(0.95), fewest_pictures(0.9), fewest_pictures(0.99)) == (6, 5, 8)
    with pytest.raises(ValueError, match="level must be above 0 and below 1, got 95"):
        compare_detections([], [], [], ONE_LABEL, level=95)
