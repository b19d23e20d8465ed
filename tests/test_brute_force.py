"""The PASCAL rules all together, against a brute-force version that was written from their text alone."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from evaluation_cases import THREE_LABELS, found
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.evaluation.metrics.average_precision import GroundTruth, pascal_average_precision

KINDS = ("plain", "plain", "difficult", "crowd")
coordinates = st.integers(0, 6)
sides = st.integers(1, 4)
boxes_with_ids = st.lists(
    st.tuples(coordinates, coordinates, sides, sides, st.integers(1, 3), st.sampled_from(KINDS)),
    max_size=5,
)
# Few scores, so that equal ones are common.
scored_boxes = st.lists(
    st.tuples(coordinates, coordinates, sides, sides, st.integers(1, 3), st.integers(0, 4)),
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(boxes_with_ids, scored_boxes), min_size=1, max_size=4))
def test_equals_the_brute_force_version_on_any_pictures(
    pictures: list[tuple[list[tuple], list[tuple[int, ...]]]],
) -> None:
    # One easy object makes sure that there is something to evaluate.
    truth_rows = [[(90, 90, 5, 5, 1, "plain"), *rows] for rows, _ in pictures]
    found_rows = [sorted(rows, key=lambda row: -row[5]) for _, rows in pictures]
    truths = [
        GroundTruth(
            np.array([(x, y, x + w, y + h) for x, y, w, h, _, _ in rows], np.float32),
            np.array([row[4] for row in rows]),
            np.array([row[5] == "difficult" for row in rows]),
            "1.jpg",
            np.array([row[5] == "crowd" for row in rows]),
        )
        for rows in truth_rows
    ]
    detections = [
        found(
            *(((x, y, x + w, y + h), score / 4) for x, y, w, h, _, score in rows),
            class_ids=[row[4] for row in rows],
        )
        for rows in found_rows
    ]
    result = pascal_average_precision(truths, detections, THREE_LABELS)

    expected = [brute_force(truth_rows, found_rows, class_id) for class_id in (1, 2, 3)]
    for label, ap in zip(result.labels, expected, strict=True):
        assert label.average_precision == (None if ap is None else pytest.approx(float(ap)))
    measured = [float(ap) for ap in expected if ap is not None]
    assert result.map == pytest.approx(sum(measured) / len(measured))


def brute_force(
    truth_rows: Sequence[Sequence[tuple]],
    found_rows: Sequence[Sequence[tuple[int, ...]]],
    class_id: int,
) -> Fraction | None:
    """Average precision in exact fractions, one detection and one object at a time."""
    ranked = sorted(
        (-row[5], image, place)
        for image, rows in enumerate(found_rows)
        for place, row in enumerate(rows)
        if row[4] == class_id
    )
    taken: set[tuple[int, int]] = set()
    verdicts = []
    for _, image, place in ranked:
        overlaps = [
            (overlap(found_rows[image][place], row), -index)
            for index, row in enumerate(truth_rows[image])
            if row[4] == class_id
        ]
        best, negative_index = max(overlaps, default=(Fraction(0), 0))
        target = (image, -negative_index)
        if best >= Fraction(1, 2):
            if truth_rows[image][-negative_index][5] != "plain":
                continue
            verdicts.append(target not in taken)
            taken.add(target)
        else:
            verdicts.append(False)
    total = sum(row[4] == class_id and row[5] == "plain" for rows in truth_rows for row in rows)
    precisions = [Fraction(sum(verdicts[:n]), n) for n in range(1, len(verdicts) + 1)]
    area = sum(max(precisions[n:]) for n, is_found in enumerate(verdicts) if is_found)
    return Fraction(area) / total if total else None


def overlap(a: tuple[int, ...], b: tuple[int, ...]) -> Fraction:
    """Intersection over union of two rows that begin with x, y, width, height."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return Fraction(shared, a[2] * a[3] + b[2] * b[3] - shared)
