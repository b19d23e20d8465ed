"""One mistake in a file is one finding: what a check, a repaired copy and training make of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from factories import jpeg_bytes
from planted_defects import EGG, MILK, PLANTED_IN_OTHER_FORMATS, add, plant_sound_pictures

from appliance.annotations.checks.repairs import write_repaired
from appliance.annotations.checks.survey import CheckConfig, check_dataset, survey_dataset
from appliance.annotations.convert import convert
from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.errors import DatasetError

ONE_IS_ENOUGH = CheckConfig(min_examples=1)


@pytest.fixture
def shop(tmp_path):
    """Converts pictures p0 to p5, each with an egg and milk, to a format; gives the folder."""

    def write(kind):
        plant_sound_pictures(tmp_path / "voc", 6)
        convert(tmp_path / "voc", tmp_path / "data", kind)
        return tmp_path / "data"

    return write


def document_of(folder):
    return json.loads((folder / "annotations/instances.json").read_text())


def write_document(folder, document):
    (folder / "annotations/instances.json").write_text(json.dumps(document))


def found(folder):
    """Code, picture and object of every finding."""
    findings = check_dataset(folder, config=ONE_IS_ENOUGH)
    return sorted((item.code, item.picture or "", item.object_number or 0) for item in findings)


def repaired(folder):
    """Repairs a copy, in which a check finds nothing: (action, code, object) and objects by picture."""
    out = Path(f"{folder}-mended")
    survey = survey_dataset(folder, config=ONE_IS_ENOUGH)
    changes = write_repaired(survey, folder, out, config=ONE_IS_ENOUGH).changes
    assert check_dataset(out, config=ONE_IS_ENOUGH) == []
    images = {
        image.name.partition(".")[0]: list(
            zip(image.label_names, image.boxes_xyxy.tolist(), strict=True)
        )
        for image in ObjectDetectionDataset.read(out).images
    }
    return [(change.action, change.code, change.object_number) for change in changes], images


def refusal(folder):
    with pytest.raises(DatasetError) as caught:
        ObjectDetectionDataset.read(folder)
    return str(caught.value)


BOTH = [("egg", [4, 4, 30, 30]), ("milk", [40, 10, 80, 50])]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"category_id": 99}, "unknown category (got category_id 99, expected one of 1, 2)"),
        ({"bbox": None}, "no usable bbox (got None, expected x, y, width and height in pixels)"),
        ({"bbox": [1, 2, 3]}, "no usable bbox (got [1, 2, 3], expected"),
        ({"bbox": [1, 2, float("nan"), 4]}, "no usable bbox (got [1, 2, nan, 4], expected"),
        ({"bbox": [1e308, 2, 1e308, 4]}, "no usable bbox (got [1e+308, 2, 1e+308, 4], expected"),
        ({"bbox": [10**400, 2, 3, 4]}, "no usable bbox (got [1000"),
        ({"iscrowd": "many"}, "iscrowd is wrong (got 'many', expected 0 or 1)"),
    ],
)
def test_one_bad_annotation_of_coco_is_one_finding(shop, change, text):
    folder = shop("coco")
    document = document_of(folder)
    document["annotations"][2] |= change  # the egg of p1, its first object
    document["annotations"][3]["bbox"] = [40, 10, 0, 40]  # and milk without width, its second
    document["annotations"][5]["bbox"] = [80, 10, -40, 40]  # the milk of p2
    write_document(folder, document)
    assert found(folder) == [
        ("box-inverted", "p2", 2),
        ("box-without-area", "p1", 2),
        ("object-unreadable", "p1", 1),
    ]
    findings = check_dataset(folder, config=ONE_IS_ENOUGH)
    (unreadable,) = [item for item in findings if item.code == "object-unreadable"]
    assert unreadable.file == f"{folder}/annotations/instances.json"
    assert unreadable.what.startswith("annotation 3 of p1.jpg")
    assert text in unreadable.what
    assert refusal(folder).startswith("Annotation 3 of p1.jpg")
    changes, images = repaired(folder)
    assert changes == [
        ("dropped", "object-unreadable", 1),
        ("dropped", "box-without-area", 2),
        ("left out", "box-without-area", None),  # p1 has no object left
        ("swapped", "box-inverted", 2),
    ]
    assert images == dict.fromkeys(("p0", "p2", "p3", "p4", "p5"), BOTH)


def test_annotations_of_no_picture_and_doubled_ids(shop):
    folder = shop("coco")
    document = document_of(folder)
    document["annotations"][0]["image_id"] = 99
    document["annotations"][4]["id"] = 4
    document["annotations"][6]["id"] = None
    write_document(folder, document)
    findings = check_dataset(folder, config=ONE_IS_ENOUGH)
    assert [str(item).replace(f"{folder}/annotations/", "") for item in findings] == [
        (
            "error: instances.json: an annotation belongs to no picture (got image_id 99 in annotation "
            "1, expected the id of one of the images) [object-of-no-picture]"
        ),
        (
            "error: instances.json: picture p2: object 1 (egg): two annotations have the same id (got "
            "id 4 twice) [annotation-id]"
        ),
        (
            "error: instances.json: picture p3: object 1 (egg): the id of an annotation is wrong (got "
            "None, expected a number) [annotation-id]"
        ),
    ]
    assert refusal(folder).startswith("An annotation belongs to no picture")
    changes, images = repaired(folder)
    assert changes == [
        ("dropped", "object-of-no-picture", None),
        ("renumbered", "annotation-id", 1),
        ("renumbered", "annotation-id", 1),
    ]
    assert images == dict.fromkeys(("p1", "p2", "p3", "p4", "p5"), BOTH) | {"p0": BOTH[1:]}


def test_pictures_of_coco_that_cannot_be_told_apart(shop):
    folder = shop("coco")
    document = document_of(folder)
    images = document["images"]
    images[1]["id"] = images[0]["id"]  # whose are the annotations?
    del images[2]["file_name"]
    images[4]["file_name"] = "./p3.jpg"  # one of them is of another picture
    write_document(folder, document)
    assert found(folder) == [
        ("annotation-unreadable", "p0", 0),
        ("annotation-unreadable", "p1", 0),
        ("annotation-unreadable", "p3", 0),
        # The annotations of p1, whose id no picture has any more.
        ("object-of-no-picture", "", 0),
        ("object-of-no-picture", "", 0),
        ("picture-unnamed", "", 0),
    ]
    assert refusal(folder).startswith("A picture has no file name")
    changes, images = repaired(folder)
    assert sorted({change[:2] for change in changes}) == [
        ("dropped", "object-of-no-picture"),
        ("left out", "annotation-unreadable"),
        ("left out", "picture-unnamed"),
    ]
    assert images == {"p5": BOTH}


def test_one_bad_row_of_a_table_is_one_finding(shop):
    folder = shop("csv")
    table = folder / "annotations.csv"
    rows = table.read_text().splitlines()
    rows[1] = rows[1].replace(",4,4,", ",4,x,")  # the egg of p0
    rows[2] = rows[2].replace(",40,10,", ",40,90,")  # its milk
    rows[3] = rows[3].replace(",egg,", ",,")
    rows.append(",egg,1,2,30,40,0,0,0,96,64")
    table.write_text("\n".join(rows))
    assert found(folder) == [
        ("box-inverted", "p0", 2),
        ("object-of-no-picture", "", 0),
        ("object-unreadable", "p0", 1),
        ("object-unreadable", "p1", 1),
    ]
    texts = [item.what for item in check_dataset(folder, config=ONE_IS_ENOUGH)]
    assert "line 2 has no usable ymin (got 'x', expected a number of pixels)" in texts
    assert "line 14 names no picture (got '')" in texts
    assert refusal(folder).startswith("Line 14 names no picture")


def test_one_bad_line_of_yolo_is_one_finding(shop):
    folder = shop("yolo")
    labels = folder / "labels/p0.txt"
    egg, milk = labels.read_text().splitlines()
    beyond = "0 1.2 0.5 0.1 0.1"
    labels.write_text(
        "\n".join(["7 0.5 0.5 0.1 0.1", "", egg, "0 0.5", "egg 1 2 3 4", milk, beyond])
    )
    assert found(folder) == [
        ("box-outside", "p0", 6),
        ("object-unreadable", "p0", 1),
        ("object-unreadable", "p0", 3),
        ("object-unreadable", "p0", 4),
    ]
    findings = check_dataset(folder, config=ONE_IS_ENOUGH)
    unreadable = [item for item in findings if item.code == "object-unreadable"]
    assert [item.what.partition(" (")[0] for item in unreadable] == [
        "line 1 has an unknown class",
        "line 4 has the wrong number of numbers",
        "line 5 holds something else than numbers",
    ]
    assert [item.label for item in unreadable] == [None, "egg", None]
    assert str(unreadable[0]).startswith(f"error: {labels}: object 1: line 1 has an unknown class")
    assert refusal(folder).startswith("Line 1 has an unknown class")
    changes, images = repaired(folder)
    assert [change for change in changes if change[0] == "dropped"] == changes
    assert len(changes) == 4
    for (label, box), (expected_label, expected) in zip(images["p0"], BOTH, strict=True):
        assert label == expected_label
        np.testing.assert_allclose(box, expected, atol=1e-4)


def test_one_bad_object_of_pascal_voc_is_one_finding(tmp_path):
    folder = tmp_path / "data"
    plant_sound_pictures(folder, 5)
    add(folder, "a", ("egg", (1, 2, 3, "nan")), EGG, ("egg", EGG[1]), ("milk", (40, 10, 200, 50)))
    xml = folder / "Annotations/a.xml"
    outline = "<object><name>milk</name><polygon><x1>1</x1><y1>2</y1></polygon></object>"
    xml.write_text(xml.read_text().replace("</annotation>", f"{outline}</annotation>"))
    assert found(folder) == [
        ("box-mostly-outside", "a", 4),
        ("object-doubled", "a", 3),
        ("object-unreadable", "a", 1),
        ("object-unreadable", "a", 5),
    ]
    findings = check_dataset(folder, config=ONE_IS_ENOUGH)
    assert [str(item).replace(f"{xml}: ", "").partition(",")[0] for item in findings] == [
        "error: object 1 (egg): has no usable ymax (got 'nan'",
        "error: object 4 (milk): 65 % of the box lie outside the picture of 96x64 pixels",
        "error: object 5 (milk): has an outline instead of a box (got <polygon> without <bndbox>",
        (
            "warning: object 3 (egg): doubles object 2: their boxes overlap with IoU 1.00 "
            "[object-doubled]"
        ),
    ]
    changes, images = repaired(folder)
    assert changes == [
        ("dropped", "object-unreadable", 1),
        ("dropped", "object-unreadable", 5),
        ("dropped", "object-doubled", 3),
        ("dropped", "box-mostly-outside", 4),
    ]
    assert images["a"] == BOTH[:1]
    assert refusal(folder).startswith("Object 1 (egg) has no usable ymax")


def test_a_picture_whose_objects_cannot_be_read_is_no_negative(tmp_path):
    folder = tmp_path / "data"
    plant_sound_pictures(folder, 5)
    add(folder, "a", ("egg", (1, 2, 3, "nan")))
    changes, images = repaired(folder)
    assert changes == [
        ("dropped", "object-unreadable", 1),
        ("left out", "object-unreadable", None),
    ]
    assert "a" not in images


def test_an_unknown_label_is_where_its_object_is(tmp_path):
    plant_sound_pictures(tmp_path / "train", 5)
    plant_sound_pictures(tmp_path / "test", 5)
    add(tmp_path / "test", "a", ("egg", (1, 2, 3, "nan")), EGG, MILK, ("soap", (60, 52, 80, 62)))
    parts = {part: tmp_path / part for part in ("train", "test")}
    unknown = [item for item in check_dataset(parts) if item.code == "label-unknown"]
    assert [(item.picture, item.object_number) for item in unknown] == [("a", 4)]


def test_half_of_a_box_must_lie_in_its_picture(tmp_path):
    # 96 pixels wide: the first has exactly half of its area inside, the second a little less.
    folder = tmp_path / "data"
    plant_sound_pictures(folder, 5)
    add(folder, "half", EGG, ("milk", (76, 10, 116, 50)))
    assert found(folder) == [("box-over-edge", "half", 2)]
    (half,) = [i for i in ObjectDetectionDataset.read(folder).images if i.name == "half.jpg"]
    assert half.boxes_xyxy[1].tolist() == [76, 10, 96, 50]
    add(folder, "less", EGG, ("milk", (76, 10, 117, 50)))
    assert found(folder) == [("box-mostly-outside", "less", 2), ("box-over-edge", "half", 2)]
    assert refusal(folder) == (
        f"The box of object 2 (milk) lies mostly outside the picture: {folder}/Annotations/less.xml "
        "(got xmin 76, ymin 10, xmax 117, ymax 50, expected xmin < xmax and ymin < ymax within 96x64 "
        "pixels). Correct or remove the object."
    )


def as_corners(document):
    for item in document["annotations"]:
        x, y, width, height = item["bbox"]
        item["bbox"] = [x, y, x + width, y + height]


def test_corners_for_width_and_height_are_one_finding(shop):
    folder = shop("coco")
    document = document_of(folder)
    as_corners(document)
    write_document(folder, document)
    (finding,) = check_dataset(folder, config=ONE_IS_ENOUGH)
    assert str(finding) == (
        f"error: {folder}: the boxes look like xmin, ymin, xmax, ymax, while COCO's bbox is x, y, "
        "width, height: as such 6 of 12 reach far over the edge, as corners all lie in their "
        "pictures; subtract xmin and ymin from the last two numbers, or give a CSV table "
        "[boxes-as-corners]"
    )
    with pytest.raises(DatasetError, match="Nothing that can be learnt from is left"):
        repaired(folder)


def test_a_part_with_corners_is_not_clipped_into_the_copy(tmp_path):
    for part in ("train", "test"):
        plant_sound_pictures(tmp_path / "voc" / part, 5)
    convert(tmp_path / "voc", tmp_path / "data", "coco")
    path = tmp_path / "data/annotations/instances_test.json"
    document = json.loads(path.read_text())
    as_corners(document)
    path.write_text(json.dumps(document))
    changes, images = repaired(tmp_path / "data")
    assert changes == [("left out", "boxes-as-corners", None)]
    assert images == {f"p{index}": BOTH for index in range(5)}


@pytest.mark.parametrize(
    "boxes",
    [
        # Drawn around things that fill their pictures, carelessly: a little over the edge.
        [[2, 1, 96, 64]] * 6,
        # One box of six that no corners could be.
        [[40, 10, 80, 50]] * 5 + [[60, 10, 20, 50]],
        # Too few to tell.
        [[40, 10, 80, 50]] * 2,
    ],
)
def test_boxes_that_need_not_be_corners(shop, boxes):
    folder = shop("coco")
    document = document_of(folder)
    document["annotations"] = [
        {"id": index, "image_id": index + 1, "category_id": 1, "bbox": box}
        for index, box in enumerate(boxes)
    ]
    write_document(folder, document)
    codes = {code for code, _, _ in found(folder)}
    assert "boxes-as-corners" not in codes
    assert codes & {"box-over-edge", "box-mostly-outside"}


def test_a_lost_label_file_is_a_warning(shop):
    folder = shop("yolo")
    for name in ("p1", "p4"):
        (folder / f"labels/{name}.txt").unlink()
    (finding,) = check_dataset(folder, config=ONE_IS_ENOUGH)
    assert str(finding) == (
        f"warning: {folder}: 2 of 6 pictures have no label file and count as pictures without "
        "objects: p1.jpg, p4.jpg [label-file-missing]"
    )
    changes, images = repaired(folder)
    assert changes == [("written", "label-file-missing", None)]
    assert images["p1"] == images["p4"] == []
    for index in range(8):
        (folder / f"images/more{index}.jpg").write_bytes(jpeg_bytes(seed=900 + index))
    (finding,) = check_dataset(folder, config=ONE_IS_ENOUGH)
    assert "10 of 14 pictures" in finding.what
    assert "more0.jpg, more1.jpg, more2.jpg, more3.jpg, more4.jpg, ..." in finding.what


def test_every_kind_of_defect_of_other_formats_is_tested():
    rooms = ("test_checks_of_formats.py", "test_checks_of_forms.py", "test_inside.py")
    text = "".join(Path(__file__).with_name(name).read_text() for name in rooms)
    assert [code for code in PLANTED_IN_OTHER_FORMATS if f'"{code}"' not in text] == []
