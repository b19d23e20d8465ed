"""The Detections value: its contract, its filter, its two dictionaries."""

from __future__ import annotations

import json

import factories
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.detections import Detections

VALID = {
    "boxes_xyxy": [[0, 0, 10, 10], [2, 3, 96, 64]],
    "scores": [0.9, 0.5],
    "class_ids": [2, 1],
    "size_hw": (64, 96),
}


@st.composite
def any_detections(draw):
    height, width = draw(st.tuples(st.integers(1, 5000), st.integers(1, 5000)))
    count = draw(st.integers(0, 6))

    def spans(length):
        # Two different float32 numbers in 0..length, in order.
        ends = st.floats(0, length, width=32)
        pair = st.tuples(ends, ends).filter(lambda span: span[0] != span[1]).map(sorted)
        return draw(st.lists(pair, min_size=count, max_size=count))

    boxes = [
        (x1, y1, x2, y2) for (x1, x2), (y1, y2) in zip(spans(width), spans(height), strict=True)
    ]
    scores = draw(st.lists(st.floats(0, 1, width=32), min_size=count, max_size=count))
    class_ids = draw(st.lists(st.integers(1, 2**31), min_size=count, max_size=count))
    return Detections(boxes, sorted(scores, reverse=True), class_ids, (height, width))


def assert_equal(one: Detections, other: Detections) -> None:
    assert one.size_hw == other.size_hw
    for name in ("boxes_xyxy", "scores", "class_ids"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)


def test_a_valid_value_has_the_stated_types_and_shapes():
    found = Detections(**VALID)
    assert len(found) == 2
    assert (found.boxes_xyxy.dtype, found.boxes_xyxy.shape) == (np.float32, (2, 4))
    assert (found.scores.dtype, found.scores.shape) == (np.float32, (2,))
    assert (found.class_ids.dtype, found.class_ids.shape) == (np.int64, (2,))


@pytest.mark.parametrize("nothing", [[], np.zeros((0, 4)), np.zeros(0)])
def test_nothing_found_is_a_valid_value(nothing):
    found = Detections(nothing, [], [], (10, 20))
    assert len(found) == 0
    assert found.boxes_xyxy.shape == (0, 4)
    assert_equal(found, Detections.empty((10, 20)))


def test_the_value_shares_no_memory_and_cannot_be_changed():
    boxes = np.array(VALID["boxes_xyxy"], np.float32)
    found = Detections(**{**VALID, "boxes_xyxy": boxes})
    boxes[:] = 0
    assert found.boxes_xyxy[1, 3] == 64
    for array in (found.boxes_xyxy, found.scores, found.class_ids):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"boxes_xyxy": [[0, 0, 10, 10]]}, "must be"),
        ({"boxes_xyxy": [[0, 0, 10], [0, 0, 10]]}, "must be"),
        ({"boxes_xyxy": [[0, 0, 1, 1, 0, 0, 1, 1]]}, "must be"),
        ({"boxes_xyxy": []}, "must be"),
        ({"scores": [0.9]}, "must be"),
        ({"scores": [[0.9], [0.5]]}, "must be"),
        ({"scores": 0.9}, "must be"),
        ({"class_ids": [1]}, "must be"),
        ({"class_ids": [[1], [2]]}, "must be"),
        ({"size_hw": (0, 96)}, "must be positive"),
        ({"size_hw": (64, -1)}, "must be positive"),
        ({"boxes_xyxy": [[0, 0, 10, 10], [-0.1, 0, 1, 1]]}, "box 1 is degenerate"),
        ({"boxes_xyxy": [[0, -1, 10, 10], [0, 0, 1, 1]]}, "box 0 is degenerate"),
        ({"boxes_xyxy": [[0, 0, 10, 10], [0, 0, 96.1, 1]]}, "outside 96x64"),
        ({"boxes_xyxy": [[0, 0, 10, 10], [0, 0, 1, 64.1]]}, "outside 96x64"),
        ({"boxes_xyxy": [[5, 0, 5, 10], [0, 0, 1, 1]]}, "degenerate"),
        ({"boxes_xyxy": [[0, 6, 5, 5], [0, 0, 1, 1]]}, "degenerate"),
        ({"boxes_xyxy": [[0, 0, 10, 10], [0, 0, float("nan"), 1]]}, "box 1 is degenerate"),
        ({"boxes_xyxy": [[0, 0, 10, 10], [0, 0, float("inf"), 1]]}, "box 1 is degenerate"),
        ({"scores": [0.5, 0.9]}, "descend"),
        ({"scores": [1.1, 0.9]}, "descend within"),
        ({"scores": [0.9, -0.1]}, "descend within"),
        ({"scores": [0.9, float("nan")]}, "descend"),
        ({"scores": [float("nan"), 0.1]}, "descend"),
        ({"class_ids": [1, 0]}, "count from 1, got 0"),
    ],
)
def test_a_broken_contract_cannot_be_built(changed, message):
    with pytest.raises(ValueError, match=message):
        Detections(**{**VALID, **changed})


def test_filter_keeps_scores_at_the_threshold_best_first():
    found = factories.detections(5)
    threshold = float(found.scores[2])
    kept = found.filter(score_threshold=threshold)
    np.testing.assert_array_equal(kept.scores, found.scores[:3])
    np.testing.assert_array_equal(kept.boxes_xyxy, found.boxes_xyxy[:3])
    np.testing.assert_array_equal(found.filter(max_detections=2).scores, found.scores[:2])
    assert_equal(found.filter(), found)
    assert len(found.filter(max_detections=0)) == 0
    assert len(found.filter(score_threshold=1.0)) == 0


def test_filter_by_class_counts_only_that_class():
    found = Detections([[0, 0, 5, 5]] * 4, [0.9, 0.8, 0.7, 0.6], [1, 2, 1, 3], (64, 96))
    assert found.filter(class_ids=[1, 3]).scores.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert found.filter(class_ids=[1], max_detections=1).class_ids.tolist() == [1]
    assert len(found.filter(class_ids=[])) == 0


def test_score_dict_has_the_contract_keys_in_relative_top_left_bottom_right():
    found = Detections([[48, 16, 96, 32]], [0.75], [3], (64, 96))
    assert found.to_score_dict() == {
        "detection_boxes": [[0.25, 0.5, 0.5, 1.0]],
        "detection_scores": [0.75],
        "detection_classes": [3],
        "num_detections": 1,
    }


@settings(deadline=None)
@given(any_detections())
def test_score_dict_through_json_and_back_loses_nothing(found):
    text = json.dumps(found.to_score_dict())
    assert_equal(Detections.from_score_dict(json.loads(text), found.size_hw), found)
