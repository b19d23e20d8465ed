"""What is wrong with the boxes of one picture."""

import numpy as np
import pytest
from planted_defects import codes

from appliance.annotations.checks.objects import InputSize, check_objects
from appliance.annotations.checks.pictures import inspect_entry
from appliance.annotations.source import Entry, ObjectAnnotation, PictureAnnotation
from appliance.errors import ConfigError
from appliance.labels import LabelMap
from appliance.model.spec import ModelSpec


def look_at(*objects, size_hw=(64, 96), input_side_px=None):
    """What is wrong with objects (label, box[, flags]) in one picture."""
    annotated = [ObjectAnnotation(*item) for item in objects]
    boxes = np.array([item.box_xyxy for item in annotated], np.float64).reshape(-1, 4)
    return check_objects(
        annotated,
        boxes,
        size_hw,
        file="a.xml",
        part="train",
        picture="a",
        input_size=InputSize.of(input_side_px),
    )


def test_the_size_of_the_input_decides_what_is_tiny():
    box = ("egg", (10, 10, 14, 14))
    assert look_at(box) == []
    (finding,) = look_at(box, input_side_px=128)
    assert "is 4x4 pixels here and 8.0x8.0 at the model's input (shorter side 128)" in finding.what
    # 4 pixels become 16 at 256: exactly half of the smallest anchor.
    assert look_at(box, input_side_px=256) == []
    assert codes(look_at(box, input_side_px=255)) == ["object-tiny"]


def test_the_limit_follows_the_default_model():
    spec = ModelSpec.of(LabelMap(("egg",)))
    size = InputSize.of()
    assert size.spec.shorter_side_px == spec.shorter_side_px
    assert size.smallest_object_px == spec.anchor_sizes_px[0] / 2
    # Long pictures are limited by their longer side: 2000 pixels become 640.
    assert size.scale((200, 2000)) == pytest.approx(0.32)
    with pytest.raises(ConfigError, match=r"got 16, expected 32 to 4096 pixels"):
        InputSize.of(16)


@pytest.mark.parametrize(
    ("box", "code", "text"),
    [
        ((10, 10, 10, 30), "box-without-area", "zero width"),
        ((10, 10, 30, 10), "box-without-area", "zero height"),
        ((10, 10, 10, 10), "box-without-area", "zero width and height"),
        ((30, 30, 10, 10), "box-inverted", "negative width -20 and height -20 pixels"),
        ((-9, 5, 0, 30), "box-outside", "0 pixels beyond the left edge"),
        ((-9, -9, -4, -2), "box-outside", "4 pixels beyond the left edge and 2 pixels beyond the"),
        ((5, 64, 30, 70), "box-outside", "0 pixels beyond the bottom edge"),
        ((96, 5, 99, 30), "box-outside", "0 pixels beyond the right edge"),
        ((-2.5, 5, 30, 30), "box-over-edge", "reaches 2.5 over the left edge of 96x64 pixels"),
        ((5, -1, 30, 30), "box-over-edge", "reaches 1 over the top edge"),
        ((5, 5, 96.6, 64), "box-over-edge", "reaches 0.6 over the right edge"),
    ],
)
def test_faults_of_boxes(box, code, text):
    (finding,) = look_at(("egg", box))
    assert finding.code == code
    assert text in finding.what
    assert (finding.object_number, finding.label) == (1, "egg")


@pytest.mark.parametrize(
    "box", [(0, 0, 95, 62), (-0.4, -0.5, 30, 30), (66, 34, 96.5, 64.5), (2, 55, 62, 58)]
)
def test_boxes_without_fault(box):
    assert look_at(("egg", box)) == []


def test_objects_on_each_other():
    egg, near, apart = (10, 10, 50, 50), (11, 10, 51, 50), (14, 10, 54, 50)
    assert codes(look_at(("egg", egg), ("egg", near))) == ["object-doubled"]
    assert codes(look_at(("egg", egg), ("milk", near))) == ["object-contradicted"]
    assert look_at(("egg", egg), ("egg", apart)) == []
    # Three of a kind: the second and the third each once; an equal label is named before another one.
    third = look_at(("egg", egg), ("milk", egg), ("egg", near))[1]
    assert (third.code, third.object_number) == ("object-doubled", 3)
    assert "doubles object 1" in third.what
    assert codes(look_at(("egg", egg), ("egg", egg), ("egg", egg))) == ["object-doubled"] * 2
    # What cannot be used is not compared.
    assert codes(look_at(("egg", (9, 9, 9, 9)), ("egg", (9, 9, 9, 9)))) == ["box-without-area"] * 2


def test_crowds_may_be_small_large_long_and_on_others():
    crowd = {"difficult": False, "truncated": False, "crowd": True}
    for box in ((0, 0, 96, 64), (1, 1, 2, 2), (0, 0, 96, 2), (10, 10, 50, 50)):
        item = ("egg", box, *crowd.values())
        assert look_at(("egg", (10, 10, 50, 50)), item) == []
    assert codes(look_at(("egg", (9, 9, 9, 12), *crowd.values()))) == ["box-without-area"]


def test_a_picture_that_vanishes_is_a_finding(tmp_path):
    def read():
        return PictureAnnotation(())

    entry = Entry("a", str(tmp_path / "a.jpg"), str(tmp_path / "a.xml"), read)
    inspected = inspect_entry(entry, part="train", input_size=InputSize.of())
    assert codes(inspected.findings) == ["picture-unreadable"]
    assert inspected.digest is None


def test_a_box_mostly_outside_is_no_box_of_this_picture():
    (finding,) = look_at(("egg", (14, 10, 999, 50)), size_hw=(288, 384))
    assert str(finding) == (
        "error: a.xml: object 1 (egg): 62 % of the box lie outside the picture of 384x288 pixels, it "
        "reaches 615 over the right edge: xmin 14, ymin 10, xmax 999, ymax 50 [box-mostly-outside]"
    )
    # A sliver that rounding moved over the edge is no mistake.
    assert codes(look_at(("egg", (95.8, 10, 96.5, 50)))) == ["object-elongated"]


def test_objects_keep_the_numbers_of_their_file():
    egg = (10, 10, 50, 50)
    doubled = [ObjectAnnotation("egg", egg, number=number) for number in (2, 4)]
    findings = check_objects(
        doubled,
        np.array([egg, egg], np.float64),
        (64, 96),
        file="a.xml",
        part="train",
        picture="a",
        input_size=InputSize.of(),
    )
    assert [(item.object_number, item.what[:16]) for item in findings] == [(4, "doubles object 2")]
