import hashlib
import json
import os

import numpy as np
import pytest
from factories import jpeg_bytes
from PIL import Image
from planted_defects import (
    EGG,
    MILK,
    PLANTED_IN_OTHER_FORMATS,
    add,
    annotate,
    found,
    plant_everything,
    plant_sound_pictures,
)

from appliance.annotations.checks.findings import DEFECTS, NOTHING
from appliance.annotations.checks.repairs import write_repaired
from appliance.annotations.checks.repairs_entry import boxes_for_the_picture
from appliance.annotations.checks.survey import CheckConfig, check_dataset, survey_dataset
from appliance.annotations.convert import convert
from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.annotations.new_folder import check_new_folder
from appliance.annotations.source import ObjectAnnotation, PictureAnnotation
from appliance.errors import DatasetError, StorageError
from appliance.images.header import PictureHeader

BOX = (40, 10, 80, 50)


def repair(data, out, config=CheckConfig()):
    return write_repaired(survey_dataset(data, config=config), data, out, config=config)


def brief(root, changes):
    return sorted(
        (change.action, change.code, change.file.removeprefix(f"{root}/"), change.object_number)
        for change in changes
    )


def objects_of(folder):
    """Name of a picture -> its objects."""
    return {
        image.name: list(zip(image.label_names, image.boxes_xyxy.tolist(), strict=True))
        for image in ObjectDetectionDataset.read(folder).images
    }


def digest_of(folder):
    sha = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        stat = path.stat()
        sha.update(f"{path} {stat.st_mode} {stat.st_mtime_ns}".encode())
        sha.update(path.read_bytes() if path.is_file() else b"")
    return sha.hexdigest()


def test_the_repaired_copy_has_no_errors_and_the_source_is_untouched(tmp_path):
    parts, out = plant_everything(tmp_path / "data"), tmp_path / "out"
    before = digest_of(tmp_path / "data")
    survey = survey_dataset(parts)
    repaired = write_repaired(survey, tmp_path / "data", out)
    assert digest_of(tmp_path / "data") == before
    # What is left are the warnings that nobody can mend without looking at the pictures.
    unmended = {code for code, defect in DEFECTS.items() if defect.repair == NOTHING}
    left = check_dataset(out)
    assert {finding.code for finding in left} == unmended
    assert {finding.severity for finding in left} == {"warning"}
    # And of all that was to be mended, nothing.
    assert {change.code for change in repaired.changes} == (
        set(DEFECTS) - unmended - set(PLANTED_IN_OTHER_FORMATS)
    )
    assert repaired.pictures == {"train": 31, "test": 4}
    training = ObjectDetectionDataset.read(out, part="train")
    ObjectDetectionDataset.read(out, part="test", labels=training.labels)


def test_every_change_is_listed(tmp_path):
    parts, out = plant_everything(tmp_path / "data"), tmp_path / "out"
    repaired = write_repaired(survey_dataset(parts), tmp_path / "data", out)
    assert brief(tmp_path / "data", repaired.changes) == [
        ("clipped", "box-over-edge", "train/Annotations/edge.xml", 3),
        ("dropped", "box-mostly-outside", "train/Annotations/mostly.xml", 3),
        ("dropped", "box-outside", "train/Annotations/outside.xml", 3),
        ("dropped", "box-without-area", "train/Annotations/flat.xml", 3),
        ("dropped", "object-doubled", "train/Annotations/double.xml", 3),
        ("dropped", "object-unreadable", "train/Annotations/unreadable.xml", 3),
        ("left out", "annotation-unreadable", "train/Annotations/broken.xml", None),
        ("left out", "annotation-without-picture", "train/Annotations/alone.xml", None),
        ("left out", "label-unknown", "test/Annotations/soap.xml", None),
        ("left out", "no-objects", "val", None),
        ("left out", "part-unreadable", "extra", None),
        ("left out", "picture-damaged", "train/JPEGImages/truncated.jpg", None),
        ("left out", "picture-doubled", "train/JPEGImages/p1_again.jpg", None),
        ("left out", "picture-empty", "train/JPEGImages/empty.jpg", None),
        ("left out", "picture-leaked", "train/JPEGImages/p3.jpg", None),
        ("left out", "picture-name-shared", "train/Annotations/twice.xml", None),
        ("left out", "picture-too-large", "train/JPEGImages/huge.png", None),
        ("left out", "picture-unreadable", "train/JPEGImages/text.jpg", None),
        ("left out", "picture-without-annotation", "train/JPEGImages/bare.jpg", None),
        ("relabelled", "label-variant", "train/Annotations/case.xml", 3),
        ("resized", "size-mismatch", "train/Annotations/resized.xml", None),
        ("swapped", "box-inverted", "train/Annotations/inverted.xml", 3),
    ]
    lines = (out / "changes.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [change.to_json() for change in repaired.changes]
    clip = next(change for change in repaired.changes if change.action == "clipped")
    assert str(clip).replace(str(tmp_path), "") == (
        "clipped: /data/train/Annotations/edge.xml: object 3 (egg): reached 8 over the right and 3 "
        "over the bottom edge, now xmin 85, ymin 20, xmax 96, ymax 64 [box-over-edge]"
    )


def test_the_repaired_objects(tmp_path):
    write_repaired(
        survey_dataset(plant_everything(tmp_path / "data")), tmp_path / "data", tmp_path / "out"
    )
    objects = objects_of(tmp_path / "out/train")
    sound = [("egg", [4, 4, 30, 30]), ("milk", [40, 10, 80, 50])]
    for name in ("p0", "flat", "outside", "mostly", "unreadable", "double", "resized", "blank"):
        assert objects[f"{name}.jpg"] == sound, name
    assert objects["edge.jpg"] == [*sound, ("egg", [85, 20, 96, 64])]
    assert objects["inverted.jpg"] == [*sound, ("egg", [10, 20, 50, 30])]
    assert objects["case.jpg"] == [*sound, ("milk", [60, 52, 80, 62])]
    assert objects["spelling.jpg"] == [*sound, ("mlik", [60, 52, 80, 62])]
    assert objects["tiny.jpg"] == [*sound, ("egg", [90, 55, 92, 57])]


def test_pictures_are_copied_byte_by_byte_in_their_folders(tmp_path):
    source = add(tmp_path / "data", "shelf/top", EGG, MILK)
    repair(tmp_path / "data", tmp_path / "out")
    copy = tmp_path / "out/JPEGImages/shelf/top.jpg"
    assert copy.read_bytes() == source.read_bytes()
    assert (tmp_path / "out/changes.jsonl").read_text() == ""


@pytest.mark.parametrize("kind", ["voc", "coco", "yolo", "csv"])
@pytest.mark.parametrize("parts", [("train", "test"), ("",)])
def test_the_copy_has_the_format_of_the_source(tmp_path, kind, parts):
    for part in parts:
        plant_sound_pictures(tmp_path / "voc" / part, 3)
        add(tmp_path / "voc" / part, "edge", EGG, ("milk", (85, 20, 104, 64)))
        add(tmp_path / "voc" / part, "outside", EGG, ("milk", (100, 20, 110, 40)))
    convert(tmp_path / "voc", tmp_path / "data", kind)
    repaired = repair(tmp_path / "data", tmp_path / "out")
    assert repaired.format == kind
    assert [(change.action, change.object_number) for change in repaired.changes] == [
        ("clipped", 2),
        ("dropped", 2),
    ] * len(parts)
    survey = survey_dataset(tmp_path / "out", config=CheckConfig(min_examples=1))
    assert survey.findings == ()
    for summary in survey.parts.values():
        assert (summary.source.format, summary.pictures, summary.objects) == (kind, 5, 9)


def test_a_picture_that_lost_every_object_is_no_negative(tmp_path):
    plant_sound_pictures(tmp_path / "data", 5)
    add(tmp_path / "data", "flat", ("egg", (9, 9, 9, 20)))
    add(tmp_path / "data", "negative")
    repaired = repair(tmp_path / "data", tmp_path / "out")
    assert [(change.action, change.object_number) for change in repaired.changes] == [
        ("dropped", 1),
        ("left out", None),
    ]
    objects = objects_of(tmp_path / "out")
    assert "flat.jpg" not in objects
    assert objects["negative.jpg"] == []


def test_a_picture_that_the_annotation_names_is_kept(tmp_path):
    plant_sound_pictures(tmp_path / "data", 5)
    add(tmp_path / "data", "twice", EGG)
    other = tmp_path / "data/JPEGImages/twice.png"
    Image.new("L", (96, 64), 7).save(other)
    xml = tmp_path / "data/Annotations/twice.xml"
    xml.write_text(xml.read_text().replace("<folder>", "<filename>twice.png</filename><folder>"))
    repaired = repair(tmp_path / "data", tmp_path / "out")
    assert [(change.action, change.code) for change in repaired.changes] == [
        ("left out", "picture-name-shared")
    ]
    assert repaired.changes[0].file.endswith("twice.jpg")
    assert sorted(path.name for path in (tmp_path / "out/JPEGImages").glob("twice*")) == [
        "twice.png"
    ]
    assert (tmp_path / "out/JPEGImages/twice.png").read_bytes() == other.read_bytes()


def test_boxes_are_turned_with_a_picture_that_the_tool_showed_unturned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg_bytes((96, 64), 5, exif=exif)
    plant_sound_pictures(tmp_path / "data", 5)
    add(tmp_path / "data", "turned", ("egg", (10, 4, 50, 30)), data=data, size_hw=(64, 96))
    repaired = repair(tmp_path / "data", tmp_path / "out")
    (change,) = repaired.changes
    assert change.action == "turned"
    assert change.what == "boxes of the stored picture are now boxes of the shown one, 64x96"
    assert objects_of(tmp_path / "out")["turned.jpg"] == [("egg", [34, 10, 60, 50])]
    assert check_dataset(tmp_path / "out") == []


def placed(size_hw, *boxes, picture_hw=(64, 96)):
    """Boxes of an annotation for `size_hw` in a picture of another size."""
    annotation = PictureAnnotation(tuple(ObjectAnnotation("egg", box) for box in boxes), size_hw)
    return boxes_for_the_picture(annotation, PictureHeader(picture_hw, 1), source="a.xml")


def test_sizes_that_disagree():
    # Resized to a third: boxes inside the size that is given, the same proportions.
    boxes, what = placed((192, 288), (30, 60, 90, 120), (0, 0, 288, 192))
    np.testing.assert_allclose(boxes, [[10, 20, 30, 40], [0, 0, 96, 64]])
    assert what == "boxes scaled with the picture from 288x192 to 96x64"
    # Rounded: 100x67 is 96x64 but for a third of a pixel.
    assert placed((67, 100), (0, 0, 100, 67))[0].tolist() == [[0, 0, 96, 64]]
    # A box beyond the size that is given, all inside the picture: the size is wrong.
    boxes, what = placed((50, 60), (40, 10, 80, 50))
    assert boxes.tolist() == [[40, 10, 80, 50]]
    assert what == "size corrected from 60x50 to 96x64, boxes as they were"
    # A negative has no boxes that could be wrong.
    boxes, what = placed((96, 64))
    assert (boxes.shape, what[:14]) == ((0, 4), "size corrected")
    # Sides exchanged, or beyond both: nobody can tell.
    for size_hw, box in (((96, 64), (10, 10, 50, 50)), ((50, 60), (40, 10, 120, 50))):
        boxes, what = placed(size_hw, box)
        assert boxes is None
        assert what.startswith("nothing tells how boxes for ")


def test_a_picture_whose_size_disagrees_beyond_repair_is_left_out(tmp_path):
    plant_sound_pictures(tmp_path / "data", 5)
    add(tmp_path / "data", "cropped", EGG, size_hw=(96, 64))
    (change,) = repair(tmp_path / "data", tmp_path / "out").changes
    assert (change.action, change.code) == ("left out", "size-mismatch")
    assert "cropped.jpg" not in objects_of(tmp_path / "out")


def test_given_labels_decide_what_stays(tmp_path):
    plant_sound_pictures(tmp_path / "data", 5)
    add(tmp_path / "data", "yak", EGG, ("yak", BOX))
    add(tmp_path / "data", "case", ("EGG", EGG[1]), MILK)
    config = CheckConfig(labels=("egg", "milk"))
    repaired = repair(tmp_path / "data", tmp_path / "out", config)
    assert [(change.action, change.picture) for change in repaired.changes] == [
        ("relabelled", "case"),
        ("left out", "yak"),
    ]
    assert check_dataset(tmp_path / "out", config=config) == []


def test_the_test_part_may_show_what_is_left_of_training(tmp_path):
    for part in ("train", "test"):
        plant_sound_pictures(tmp_path / "data" / part, 5)
        # The only jam of training is in a picture that is in the test part as well.
        add(tmp_path / "data" / part, "jam", EGG, ("jam", BOX), seed=3)
    repaired = repair(tmp_path / "data", tmp_path / "out")
    assert [(change.part, change.code) for change in repaired.changes] == [
        ("train", "picture-leaked"),
        ("test", "label-unknown"),
    ]
    assert check_dataset(tmp_path / "out") == []


def test_nothing_is_left(tmp_path):
    add(tmp_path / "data", "a", ("egg", (9, 9, 9, 20)))
    with pytest.raises(DatasetError, match="Nothing that can be learnt from is left"):
        repair(tmp_path / "data", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["full", "data/inside", "data", "file"])
def test_a_folder_with_files_or_inside_the_data_is_refused(tmp_path, out):
    plant_sound_pictures(tmp_path / "data", 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/old.txt").write_text("old")
    (tmp_path / "file").write_text("old")
    before = digest_of(tmp_path)
    with pytest.raises(StorageError, match="Will not write into|The folder to write is not empty"):
        repair(tmp_path / "data", tmp_path / out)
    assert digest_of(tmp_path) == before


def test_new_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    check_new_folder(tmp_path / "empty")
    check_new_folder(tmp_path / "new", not_inside=tmp_path / "data")
    check_new_folder(tmp_path / "empty", not_inside="")
    check_new_folder("fsspec+memory://shop/new", not_inside=tmp_path)
    with pytest.raises(StorageError, match="Will not write into the data"):
        check_new_folder("s3://shop/data/new", not_inside="s3://shop/data")
    with pytest.raises(StorageError, match="Will not write into the data"):
        check_new_folder(tmp_path / "empty/out", not_inside=f"{tmp_path}/empty#train")
    link = tmp_path / "link"
    os.symlink(tmp_path / "empty", link)
    with pytest.raises(StorageError, match="Will not write into the data"):
        check_new_folder(link / "out", not_inside=tmp_path / "empty")


def test_the_planted_data_is_what_the_checks_see(tmp_path):
    annotate(tmp_path, "alone", EGG)
    add(tmp_path, "a", EGG)
    findings = check_dataset(tmp_path, config=CheckConfig(min_examples=0))
    assert found(tmp_path, findings) == [
        ("annotation-without-picture", "Annotations/alone.xml", None)
    ]
