"""Boxes in pixels, as shares and as corners, told apart in files of detections."""

from __future__ import annotations

import json

import numpy as np
import pytest

from appliance.annotations.dataset import AnnotatedImage
from appliance.errors import DatasetError
from appliance.evaluation.predictions import read_predictions
from appliance.labels import LabelMap

WIDTH, HEIGHT = 200, 100
RNG = np.random.default_rng(0)
CORNERS = np.sort(RNG.random((40, 2, 2)) * (WIDTH, HEIGHT), axis=1).reshape(-1, 4)
BOXES = CORNERS - np.pad(CORNERS[:, :2], ((0, 0), (2, 0)))  # x, y, width, height
SHARES = BOXES / (WIDTH, HEIGHT, WIDTH, HEIGHT)


def read(folder, boxes):
    """Reads a file with these boxes on one picture; the boxes measured."""
    image = AnnotatedImage(
        storage_path="data/a.jpg",
        name="a.jpg",
        size_hw=(HEIGHT, WIDTH),
        boxes_xyxy=np.zeros((0, 4), np.float32),
        label_names=(),
        difficult=np.zeros(0, bool),
    )
    rows = [
        {"file_name": "a.jpg", "category_name": "cup", "bbox": box, "score": 0.5}
        for box in np.asarray(boxes).tolist()
    ]
    path = folder / "detections.json"
    path.write_text(json.dumps(rows))
    return read_predictions(path, [image], LabelMap(("cup",))).detections[0].boxes_xyxy


def test_boxes_as_they_should_be_get_no_word(tmp_path, caplog):
    np.testing.assert_allclose(read(tmp_path, BOXES), CORNERS, atol=1e-3)
    assert caplog.messages == []
    assert len(read(tmp_path, np.zeros((0, 4)))) == 0


def test_shares_of_the_picture_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="The boxes are shares of the picture: .*json") as caught:
        read(tmp_path, SHARES)
    assert "no number above 1 in any box" in str(caught.value)
    assert "Multiply them" in str(caught.value)
    # As [top, left, bottom, right], which the 2018 package has, too.
    with pytest.raises(DatasetError, match="shares of the picture"):
        read(tmp_path, (CORNERS / (WIDTH, HEIGHT, WIDTH, HEIGHT))[:, [1, 0, 3, 2]])
    # One box in pixels among tiny ones: then they are pixels.
    assert len(read(tmp_path, [*SHARES, (10, 10, 20, 20)])) == 41


def test_corners_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="The boxes are corners: .*json") as caught:
        read(tmp_path, CORNERS)
    assert "of 40 boxes over the edge as [x, y, width, height], none as [x1, y1, x2, y2]" in str(
        caught.value
    )
    assert "Subtract the first two numbers" in str(caught.value)


def test_boxes_of_another_scale_are_refused(tmp_path):
    with pytest.raises(
        DatasetError, match="Most detections have no area on their picture"
    ) as caught:
        read(tmp_path, BOXES * (1000 / WIDTH, 1000 / HEIGHT, 1, 1))
    assert "pixels of another size" in str(caught.value)
    # A few such are measured, as wrong.
    assert len(read(tmp_path, [*BOXES, (WIDTH + 5, 1, 2, 2)])) == 41


@pytest.mark.parametrize(
    "boxes",
    [
        # Over the edge, and no corners: the third number is below the first.
        [(150, 50, 80, 60), (20, 10, 190, 95), (30, 10, 190, 95)],
        # Corners they might be, but most fit as they are.
        [(10, 10, 50, 50), (20, 10, 60, 40), (30, 20, 90, 60), (60, 10, 180, 30), (1, 1, 9, 9)],
    ],
)
def test_a_few_boxes_over_the_edge_are_no_reason_for_it(tmp_path, caplog, boxes):
    read(tmp_path, boxes)
    assert not [message for message in caplog.messages if "corners" in message]
