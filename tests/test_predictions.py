"""Detections as COCO results: what is written comes back, what others write is understood or refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.annotations.dataset import AnnotatedImage
from appliance.detections import Detections
from appliance.errors import DatasetError, LabelError, StorageError
from appliance.evaluation.predictions import CocoIds, read_predictions, write_predictions
from appliance.labels import LabelMap

LABELS = LabelMap(("cup", "water"))
SIZE_HW = (100, 200)


def annotated(*paths: str, annotation_path: str | None = None) -> list[AnnotatedImage]:
    """Pictures of 200 x 100 pixels, of which only names and sizes are asked."""
    return [
        AnnotatedImage(
            storage_path=path,
            name=Path(path).name,
            size_hw=SIZE_HW,
            boxes_xyxy=np.zeros((0, 4), np.float32),
            label_names=(),
            difficult=np.zeros(0, bool),
            annotation_path=annotation_path,
        )
        for path in paths
    ]


IMAGES = annotated("data/a/1.jpg", "data/b/1.jpg", "data/b/two.v2.png", "data/b/000000000139.jpg")


def row(**changes: Any) -> dict[str, Any]:
    """A detection on `two.v2.png` with some keys changed, or left out where they are None."""
    plain = {
        "file_name": "two.v2.png",
        "category_name": "water",
        "bbox": [10, 20, 30, 40],
        "score": 0.5,
    }
    return {key: value for key, value in {**plain, **changes}.items() if value is not None}


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "detections.json"
    path.write_text(json.dumps(rows))
    return path


def read_one(folder: Path, ids: CocoIds = CocoIds(), **changes: Any) -> tuple[int, Detections]:
    """The only picture with a detection, and what is on it."""
    found = read_predictions(write(folder, row(**changes)), IMAGES, LABELS, ids).detections
    (index,) = (index for index, one in enumerate(found) if len(one))
    return index, found[index]


def random_detections(seed: int, size_hw: tuple[int, int] = SIZE_HW) -> Detections:
    rng = np.random.default_rng(seed)
    height, width = size_hw
    corners = np.sort(rng.random((20, 2, 2)) * (width, height), axis=1).astype(np.float32)
    scores = np.sort(rng.random(20).astype(np.float32))[::-1]
    return Detections(corners.reshape(-1, 4), scores, rng.integers(1, 3, 20), size_hw)


def test_a_round_trip_is_exact(tmp_path: Path) -> None:
    written = [
        random_detections(0),
        Detections.empty(SIZE_HW),
        random_detections(1),
        random_detections(2),
    ]
    path = tmp_path / "out" / "detections.json"
    write_predictions(path, IMAGES, written, LABELS)
    read = read_predictions(path, IMAGES, LABELS)
    assert read.clipped == 0
    assert len(read.detections) == len(written)
    for before, after in zip(written, read.detections, strict=True):
        assert np.array_equal(before.boxes_xyxy, after.boxes_xyxy)
        assert np.array_equal(before.scores, after.scores)
        assert np.array_equal(before.class_ids, after.class_ids)


def test_the_file_is_what_others_read(tmp_path: Path) -> None:
    found = Detections(
        np.array([(10, 20, 40, 60.5)]), np.array([0.9], np.float32), np.array([2]), SIZE_HW
    )
    nothing = Detections.empty(SIZE_HW)
    path = tmp_path / "detections.json"
    write_predictions(path, IMAGES, [nothing, found, nothing, nothing], LABELS)
    assert json.loads(path.read_text()) == [
        {
            "image_id": 2,
            "file_name": "b/1.jpg",
            "category_id": 2,
            "category_name": "water",
            "bbox": [10.0, 20.0, 30.0, 40.5],
            "score": 0.9,
        }
    ]
    write_predictions(path, IMAGES, [nothing] * 4, LABELS)
    assert json.loads(path.read_text()) == []


def test_ids_of_a_coco_data_set_are_kept(tmp_path: Path) -> None:
    document = {
        "images": [{"id": 7, "file_name": "1.jpg"}, {"id": "x9", "file_name": "2.jpg"}],
        "categories": [{"id": 44, "name": " water"}, {"id": 1, "name": "cup"}],
        "annotations": [],
    }
    source = tmp_path / "instances.json"
    source.write_text(json.dumps(document))
    images = annotated("s/1.jpg", "s/2.jpg", annotation_path=str(source))
    ids = CocoIds.of(images)
    assert ids == CocoIds({7: "1.jpg", "x9": "2.jpg"}, {44: "water", 1: "cup"})
    found = [random_detections(0), random_detections(1)]
    path = tmp_path / "detections.json"
    write_predictions(path, images, found, LABELS, ids)
    rows = json.loads(path.read_text())
    assert {one["image_id"] for one in rows} == {7, "x9"}
    assert {one["category_id"]: one["category_name"] for one in rows} == dict(ids.categories)
    bare = [{key: one[key] for key in ("image_id", "category_id", "bbox", "score")} for one in rows]
    path.write_text(json.dumps(bare))
    again = read_predictions(path, images, LABELS, ids).detections
    assert [one.class_ids.tolist() for one in again] == [one.class_ids.tolist() for one in found]
    # Ids that this data set does not have are not guessed at, however well they would fit.
    bare[0]["image_id"] = 1
    path.write_text(json.dumps(bare))
    with pytest.raises(DatasetError, match=r"detection 1 \(got image_id 1,"):
        read_predictions(path, images, LABELS, ids)


def test_other_formats_have_no_ids_of_their_own() -> None:
    assert CocoIds.of(annotated("1.jpg", annotation_path="1.xml")) == CocoIds()
    assert CocoIds.of(annotated("1.jpg", "2.jpg")) == CocoIds()


@pytest.mark.parametrize(
    ("named", "index"),
    [
        ({"file_name": "two.v2.png"}, 2),
        ({"file_name": "two.v2"}, 2),
        ({"file_name": "elsewhere/two.v2.png"}, 2),
        ({"file_name": "a/1.jpg"}, 0),
        ({"file_name": "./b/1"}, 1),
        ({"file_name": "data\\a\\1.jpg"}, 0),
        ({"file_name": None, "image_id": "two.v2"}, 2),
        ({"file_name": None, "image_id": 139}, 3),
        ({"file_name": "000000000139", "image_id": 5}, 3),
    ],
)
def test_a_picture_is_found_by_name_or_number(
    tmp_path: Path, named: dict[str, Any], index: int
) -> None:
    assert read_one(tmp_path, **named)[0] == index


@pytest.mark.parametrize(
    ("named", "class_id"),
    [
        ({"category_name": "cup"}, 1),
        ({"category_name": None, "category": "water"}, 2),
        ({"category_name": None, "label": "water"}, 2),
        ({"category_name": None, "category_id": 1}, 1),
        ({"category_name": "water", "category_id": 1}, 2),
    ],
)
def test_a_class_is_found_by_name_or_place(
    tmp_path: Path, named: dict[str, Any], class_id: int
) -> None:
    assert read_one(tmp_path, **named)[1].class_ids.tolist() == [class_id]


def test_detections_are_ordered_and_clipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(
        tmp_path,
        row(score=0.2),
        row(score=0.8, bbox=[-10, 90, 30, 40], category_name="cup"),
        row(score=0.8, bbox=[190, 0, 10.004, 5]),
    )
    with caplog.at_level(logging.WARNING):
        read = read_predictions(path, IMAGES, LABELS)
    found = read.detections[2]
    assert found.scores.tolist() == pytest.approx([0.8, 0.8, 0.2])
    assert found.class_ids.tolist() == [1, 2, 2]
    assert found.boxes_xyxy.tolist() == [[0, 90, 20, 100], [190, 0, 200, 5], [10, 20, 40, 60]]
    # A few thousandths of a pixel are rounding, not a mistake.
    assert read.clipped == 1
    assert "1 boxes reached over the edge and are measured as cut there" in caplog.text


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"file_name": "3.jpg"}, DatasetError, "a picture that the data set does not have: "),
        ({"file_name": "two.v2.jpg"}, DatasetError, "got file_name 'two.v2.jpg'"),
        ({"file_name": "1.jpg"}, DatasetError, "may mean several pictures"),
        ({"file_name": None, "image_id": 1}, DatasetError, "may mean several pictures"),
        ({"file_name": None, "image_id": 4}, DatasetError, "got image_id 4, expected one of 4"),
        ({"file_name": None}, DatasetError, "does not say which picture it belongs to"),
        ({"file_name": None, "image_id": True}, DatasetError, "image_id true"),
        ({"category_name": "milk"}, LabelError, "got 'milk', expected one of cup, water"),
        ({"category_name": None, "category_id": 3}, LabelError, "expected 1 (cup), 2 (water)"),
        ({"category_name": None}, LabelError, "got category_id null"),
        ({"bbox": [1, 2, 3]}, DatasetError, "has no box"),
        ({"bbox": None}, DatasetError, "has no box"),
        ({"bbox": [1, 2, "3", 4]}, DatasetError, "has no box"),
        ({"bbox": [1, 2, float("nan"), 4]}, DatasetError, "got [1, 2, NaN, 4]"),
        ({"bbox": [1e308, 2, 1e308, 4]}, DatasetError, "has a box beyond any picture: "),
        (
            {"bbox": [1, 2, 10**400, 4]},
            DatasetError,
            "in pixels of a picture 200 wide and 100 high",
        ),
        ({"score": 1.5}, DatasetError, "has no score: "),
        ({"score": None}, DatasetError, "has no score"),
        ({"score": "0.5"}, DatasetError, 'got "0.5", expected score from 0 to 1'),
    ],
)
def test_a_bad_detection_is_named(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    path = write(tmp_path, row(), row(**changes))
    with pytest.raises(error) as caught:
        read_predictions(path, IMAGES, LABELS)
    assert f"{path}, detection 2" in str(caught.value)
    assert message in str(caught.value)


def test_boxes_without_area_are_wrong_detections(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    boxes = ([1, 2, 0, 4], [1, 2, 3, -4], [250, 2, 3, 4], [99, 0, 1e-9, 4])
    rows = [row(bbox=box, score=0.9 - index / 10) for index, box in enumerate(boxes)]
    sound = [row(score=0.1)] * 4
    read = read_predictions(write(tmp_path, *rows, *sound), IMAGES, LABELS)
    found = read.detections[2]
    assert read.without_area == 4
    assert "4 boxes have no area on their picture and count as wrong" in caplog.text
    sides = found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]
    assert sides[:4].max() <= 0.0625
    assert found.boxes_xyxy[2].tolist() == [199.9375, 2, 200, 2.0625]
    with pytest.raises(DatasetError, match="Most detections have no area on their picture"):
        read_predictions(write(tmp_path, *rows, *sound[:3]), IMAGES, LABELS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{]", "Not a JSON file"),
        ("\xff", "Not a JSON file"),
        ('{"images": [], "annotations": []}', "got an object with images, annotations"),
        ("{}", "Not COCO results: "),
        ("{}", "got an object with nothing in it"),
        ("12", "Not COCO results"),
        ("[" * 100_000, "Not a JSON file"),
        ('["' + "x" * 100 + '"]', "Not a detection: "),
    ],
)
def test_what_is_no_list_of_detections_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "detections.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError) as caught:
        read_predictions(path, IMAGES, LABELS)
    assert message in str(caught.value)
    assert 'expected a list of {"file_name" or "image_id"' in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere\.json"):
        read_predictions(tmp_path / "nowhere.json", IMAGES, LABELS)


def test_names_are_below_the_shared_folder(tmp_path: Path) -> None:
    for paths, names in (
        (["s3://b/x/a/1.jpg", "s3://b/x/ab/2.jpg"], ["a/1.jpg", "ab/2.jpg"]),
        (["x/1.jpg"], ["1.jpg"]),
        (["x/1.jpg", "x/2.jpg"], ["1.jpg", "2.jpg"]),
    ):
        images = annotated(*paths)
        write_predictions(
            tmp_path / "d.json", images, [random_detections(1) for _ in images], LABELS
        )
        rows = json.loads((tmp_path / "d.json").read_text())
        assert list(dict.fromkeys(one["file_name"] for one in rows)) == names
