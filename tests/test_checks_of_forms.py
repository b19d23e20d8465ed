"""Boxes in another form than their format has: one finding for all of a part, and none that may be right."""

from __future__ import annotations

import csv
import json

import pytest
from factories import jpeg_bytes
from planted_defects import codes, plant_sound_pictures

from appliance.annotations.checks.findings import count_by_code
from appliance.annotations.checks.repairs import write_repaired
from appliance.annotations.checks.survey import CheckConfig, check_dataset, survey_dataset
from appliance.annotations.convert import convert
from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.errors import DatasetError

ONE_IS_ENOUGH = CheckConfig(min_examples=1)
WIDTH, HEIGHT = 96, 64
TEXT = (
    "the boxes look like shares of the picture, while pixels are meant: the numbers of all 12 lie "
    "between 0 and 1; multiply them by width and height of their picture, or give them as YOLO, whose "
    "boxes are shares [boxes-as-shares]"
)


def shares_of(box):
    """Four numbers of pixels, each by the side it runs along."""
    return [number / side for number, side in zip(box, (WIDTH, HEIGHT, WIDTH, HEIGHT), strict=True)]


def as_corners(box):
    x, y, width, height = box
    return [x, y, x + width, y + height]


def as_centre(box):
    x, y, width, height = box
    return [x + width / 2, y + height / 2, width, height]


def rewrite(path, form):
    """Puts every box of a COCO file into another form."""
    document = json.loads(path.read_text())
    for item in document["annotations"]:
        item["bbox"] = form(item["bbox"])
    path.write_text(json.dumps(document))


def coco(tmp_path, form):
    plant_sound_pictures(tmp_path / "voc", 6)
    convert(tmp_path / "voc", tmp_path / "data", "coco")
    rewrite(tmp_path / "data/annotations/instances.json", form)
    return tmp_path / "data"


def table(folder, rows, side_px=64):
    folder.mkdir()
    with (folder / "boxes.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("image", "label", "xmin", "ymin", "xmax", "ymax"), *rows])
    for seed, image in enumerate(dict.fromkeys(row[0] for row in rows)):
        (folder / image).write_bytes(jpeg_bytes((side_px, side_px), seed))
    return folder


@pytest.mark.parametrize(
    "form",
    [
        shares_of,
        lambda box: shares_of(as_corners(box)),
        lambda box: shares_of(as_centre(box)),
    ],
)
def test_shares_in_coco_are_one_finding(tmp_path, form):
    folder = coco(tmp_path, form)
    survey = survey_dataset(folder, config=ONE_IS_ENOUGH)
    assert [str(finding) for finding in survey.findings] == [f"error: {folder}: {TEXT}"]
    part = survey.parts["dataset"]
    assert (part.pictures, part.negatives, part.objects) == (0, 0, 0)


@pytest.mark.parametrize("form", [as_corners, as_centre])
def test_shares_in_a_table_are_one_finding(tmp_path, form):
    boxes = form([0.1, 0.2, 0.3, 0.4]), form([0.6, 0.5, 0.4, 0.5])
    rows = [
        (f"{name}.jpg", label, *box)
        for name in "abcdef"
        for label, box in zip(("egg", "milk"), boxes, strict=True)
    ]
    folder = table(tmp_path / "data", rows)
    findings = check_dataset(folder, config=ONE_IS_ENOUGH)
    assert [str(finding) for finding in findings] == [f"error: {folder}: {TEXT}"]


@pytest.mark.parametrize(
    ("boxes", "side_px", "expected"),
    [
        ([(0.1, 0.2, 0.4, 0.6)] * 2, 64, {"object-tiny": 2}),  # too few to tell
        ([(0.1, 0.2, 0.4, 0.6)] * 5 + [(1, 2, 30, 40)], 64, {"object-tiny": 5}),  # one is in pixels
        ([(0, 0, 1, 1)] * 6, 16, {}),  # a pixel may be an object here
        ([(0, 0, 0, 0)] * 6, 64, {"box-without-area": 6, "no-objects": 1}),  # says nothing
    ],
)
def test_boxes_that_need_not_be_shares(tmp_path, boxes, side_px, expected):
    rows = [(f"{index}.jpg", "egg", *box) for index, box in enumerate(boxes)]
    findings = check_dataset(table(tmp_path / "data", rows, side_px), config=ONE_IS_ENOUGH)
    assert count_by_code(findings) == expected


def test_shares_in_yolo_are_what_they_should_be(tmp_path):
    plant_sound_pictures(tmp_path / "voc", 6)
    convert(tmp_path / "voc", tmp_path / "data", "yolo")
    assert check_dataset(tmp_path / "data", config=ONE_IS_ENOUGH) == []


def test_a_part_with_shares_is_left_out_of_the_copy(tmp_path):
    for part in ("train", "test"):
        plant_sound_pictures(tmp_path / "voc" / part, 5)
    folder, out = tmp_path / "data", tmp_path / "out"
    convert(tmp_path / "voc", folder, "coco")
    rewrite(folder / "annotations/instances_test.json", shares_of)
    survey = survey_dataset(folder, config=ONE_IS_ENOUGH)
    assert codes(survey.findings) == ["boxes-as-shares"]
    repair = write_repaired(survey, folder, out, config=ONE_IS_ENOUGH)
    assert repair.pictures == {"train": 5}
    (change,) = repair.changes
    assert (change.action, change.code, change.part) == ("left out", "boxes-as-shares", "test")
    assert check_dataset(out, config=ONE_IS_ENOUGH) == []
    assert len(ObjectDetectionDataset.read(f"{out}#train")) == 5


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (
            shares_of,
            "boxes written as shares of the picture instead of pixels [boxes-as-shares]",
        ),
        (
            as_corners,
            "COCO boxes written as corners instead of width and height [boxes-as-corners]",
        ),
    ],
)
def test_why_nothing_is_left(tmp_path, form, reason):
    folder = coco(tmp_path, form)
    survey = survey_dataset(folder, config=ONE_IS_ENOUGH)
    assert survey.parts["dataset"].objects == 0
    with pytest.raises(DatasetError) as caught:
        write_repaired(survey, folder, tmp_path / "out", config=ONE_IS_ENOUGH)
    assert str(caught.value) == (
        f"Nothing that can be learnt from is left of the data: {folder} (got dataset: {reason})"
    )
    assert not (tmp_path / "out").exists()
