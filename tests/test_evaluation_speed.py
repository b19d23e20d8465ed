"""The benchmark of the measuring, on a small case: its figures are there and equal those of pycocotools."""

from __future__ import annotations

import json

import pytest

from benchmarks.evaluation_speed import draw_case, largest_difference, measure


def test_small_case_is_measured_and_compared() -> None:
    result = measure(draw_case(pictures=12, detections=250, labels=3), rounds=2)
    assert (result["pictures"], result["detections"], result["objects"]) == (12, 250, 120)
    assert set(result["median_s"]) == set(result["rounds_s"])
    assert {len(rounds) for rounds in result["rounds_s"].values()} == {2}
    assert result["largest_difference"] < 1e-9
    assert 0.3 < result["map_50"] < 0.95
    assert 0.1 < result["coco"]["COCO/APs"] < 0.9
    assert result["within_limit"] == (result["median_s"]["pascal_and_coco"] < 10)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_same_seed_draws_the_same_case() -> None:
    first, second, other = (draw_case(3, 30, 3, seed=seed) for seed in (1, 1, 2))
    for a, b, c in zip(first.detections, second.detections, other.detections, strict=True):
        assert (a.boxes_xyxy == b.boxes_xyxy).all()
        assert (a.boxes_xyxy != c.boxes_xyxy).any()
    assert first.labels.names == ("label 0", "label 1", "label 2")


def test_difference_counts_missing_figures_as_pycocotools_writes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from appliance.evaluation.metrics.coco import CocoResult

    result = CocoResult(*[0.5] * 11, None, {})
    assert largest_difference(result, [*[0.5] * 11, -1.0]) == 0
    assert largest_difference(result, [*[0.5] * 10, 0.4, -1.0]) == pytest.approx(0.1)
    monkeypatch.setattr("benchmarks.evaluation_speed.MOST_DIFFERENCE", -1.0)
    with pytest.raises(RuntimeError, match="differ from those of pycocotools"):
        measure(draw_case(2, 10, 2), rounds=1)
