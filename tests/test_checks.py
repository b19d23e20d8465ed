import json

import numpy as np
import pytest
from factories import encoded, jpeg_bytes, picture
from PIL import Image
from planted_defects import (
    EGG,
    MILK,
    PLANTED,
    PLANTED_IN_OTHER_FORMATS,
    add,
    codes,
    found,
    plant_everything,
    plant_sound_pictures,
    planted,
)

from appliance.annotations.checks.findings import (
    DEFECTS,
    Finding,
    count_by_code,
    count_by_severity,
    counted,
    in_order,
)
from appliance.annotations.checks.labels import nearest_label
from appliance.annotations.checks.survey import CheckConfig, check_dataset, survey_dataset
from appliance.annotations.convert import convert
from appliance.annotations.samples.scenes import make_sample_dataset


@pytest.fixture
def clean(tmp_path):
    plant_sound_pictures(tmp_path, 5)
    return tmp_path


def texts(root, findings):
    return [str(finding).replace(f"{root}/", "") for finding in findings]


def test_every_planted_defect_is_found_and_nothing_else(tmp_path):
    parts = plant_everything(tmp_path)
    assert found(tmp_path, check_dataset(parts)) == planted()


def test_every_kind_of_defect_is_planted_once():
    planted_codes = [code for code, _, _ in PLANTED] + PLANTED_IN_OTHER_FORMATS
    assert sorted(planted_codes) == sorted(DEFECTS)
    assert len(DEFECTS) >= 20


def test_findings_say_what_where_and_by_how_much(tmp_path):
    findings = check_dataset(plant_everything(tmp_path))
    truncated_by = _truncated_by(tmp_path / "train/JPEGImages/truncated.jpg")
    box = "train/Annotations"
    pictures = "train/JPEGImages"
    expected = f"""\
error: {box}/alone.xml: there is no picture alone [annotation-without-picture]
error: {box}/broken.xml: the annotation is no well-formed XML (got no element found: line 1, column 20) [annotation-unreadable]
error: {box}/flat.xml: object 3 (egg): the box has zero width: xmin 50, ymin 20, xmax 50, ymax 30 [box-without-area]
error: {box}/inverted.xml: object 3 (egg): the box has negative width -40 pixels: xmin 50, ymin 20, xmax 10, ymax 30 [box-inverted]
error: {box}/mostly.xml: object 3 (egg): 52 % of the box lie outside the picture of 96x64 pixels, it reaches 12 over the right edge: xmin 85, ymin 20, xmax 108, ymax 64 [box-mostly-outside]
error: {box}/outside.xml: object 3 (egg): the box lies wholly outside the picture of 96x64 pixels, 104 pixels beyond the right edge: xmin 200, ymin 5, xmax 210, ymax 9 [box-outside]
error: {box}/resized.xml: annotation and picture disagree about the size (got 60x50 in the annotation, expected 96x64 as the picture has) [size-mismatch]
error: {box}/unreadable.xml: object 3 (egg): has no usable ymax (got 'nan', expected a number of pixels in <bndbox>) [object-unreadable]
error: {pictures}/bare.jpg: has no annotation; a picture without objects needs an empty one [picture-without-annotation]
error: {pictures}/empty.jpg: the picture is empty (got 0 bytes) [picture-empty]
error: {pictures}/huge.png: the picture is too large (got Image size (400000000 pixels) exceeds limit of 178956970 pixels, could be decompression bomb DOS attack.) [picture-too-large]
error: {pictures}/p3.jpg: same file as test/JPEGImages/p0.jpg of test, so what test measures is too good [picture-leaked]
error: {pictures}/text.jpg: not a picture (got 17 bytes beginning b'no pictu', expected JPEG, PNG, WebP, BMP, TIFF or GIF) [picture-unreadable]
error: {pictures}/truncated.jpg: the picture is damaged (got image file is truncated ({truncated_by} bytes not processed)) [picture-damaged]
error: {pictures}/twice.png: another picture has the same name, so the annotation is unclear [picture-name-shared]
error: test/Annotations/soap.xml: object 3 (soap): has the label 'soap', which is not in train [label-unknown]
error: val: has no usable object on 1 usable picture [no-objects]
error: extra: no such dataset folder [part-unreadable]
warning: train: class 'yak' has 1 usable example, at least 5 are advisable [label-rare]
warning: {box}/case.xml: object 3 (Milk): has the label 'Milk', elsewhere 'milk': one class becomes two [label-variant]
warning: {box}/contradicted.xml: object 3 (milk): has the box of object 1 (egg), IoU 1.00: one of the two labels is wrong [object-contradicted]
warning: {box}/covering.xml: object 3 (egg): the box covers 100% of the picture: does it label the picture, not an object?: xmin 0, ymin 0, xmax 96, ymax 64 [object-covers-picture]
warning: {box}/double.xml: object 3 (egg): doubles object 1: their boxes overlap with IoU 0.96 [object-doubled]
warning: {box}/edge.xml: object 3 (egg): the box reaches 8 over the right and 3 over the bottom edge of 96x64 pixels: xmin 85, ymin 20, xmax 104, ymax 67 [box-over-edge]
warning: {box}/long.xml: object 3 (egg): the box is 30 times as long as wide: xmin 2, ymin 55, xmax 92, ymax 58 [object-elongated]
warning: {box}/spelling.xml: object 3 (mlik): has the label 'mlik' (did you mean 'milk', with 39 objects?) [label-misspelt]
warning: {box}/tiny.xml: object 3 (egg): is 2x2 pixels here and 12.0x12.0 at the model's input (shorter side 384), where nothing below about 16x16 is found: xmin 90, ymin 55, xmax 92, ymax 57 [object-tiny]
warning: {box}/turned.xml: EXIF orientation 3 turns the picture, and the annotation gives a size that fits both: its boxes are taken for boxes of the turned picture [exif-ambiguous]
warning: {pictures}/blank.jpg: every pixel has the colour (128, 128, 128): was it taken or saved at all? [picture-blank]
warning: {pictures}/p1_again.jpg: same pixels as {pictures}/p1.jpg, annotated alike [picture-doubled]
warning: {pictures}/p2_other.jpg: same file as {pictures}/p2.jpg, annotated differently [picture-contradicted]
warning: {pictures}/p4_again.jpg: looks like {pictures}/p4.jpg: the same picture, re-encoded or resized? [picture-look-alike]
warning: test: class 'tea' has no usable object in test, so nothing is measured of it there [label-not-tested]
"""
    assert texts(tmp_path, findings) == expected.splitlines()


@pytest.mark.parametrize("part", ["train", "test"])
def test_sample_scenes_are_clean(sound_scenes, part):
    assert check_dataset(sound_scenes / part) == []
    assert check_dataset(sound_scenes) == []


def test_fridge_pictures_are_clean(shared_dir):
    survey = survey_dataset({"train": shared_dir / "data/fridge/train"})
    assert survey.findings == ()
    train = survey.parts["train"]
    assert (train.pictures, train.negatives, train.objects) == (20, 0, 180)


def test_counts_of_what_can_be_used(clean):
    add(clean, "negative")
    add(clean, "bad", ("egg", (9, 9, 9, 9)))
    add(clean, "text", EGG, data=b"text")
    summary = survey_dataset(clean).parts["dataset"]
    assert (summary.pictures, summary.negatives, summary.objects) == (6, 1, 10)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("<annotation><object>", "annotation-unreadable"),
        ("<!DOCTYPE a><annotation/>", "annotation-unreadable"),
        (
            "<annotation><size><width>9</width><height>7</height></size></annotation>",
            "size-mismatch",
        ),
        ("<annotation><object><name>egg</name></object></annotation>", "object-unreadable"),
    ],
)
def test_a_picture_with_a_faulty_annotation_is_neither_usable_nor_a_negative(clean, text, code):
    add(clean, "faulty")
    (clean / "Annotations/faulty.xml").write_text(text)
    survey = survey_dataset(clean)
    assert codes(survey.findings) == [code]
    summary = survey.parts["dataset"]
    assert (summary.pictures, summary.negatives, summary.objects) == (5, 0, 10)


def test_a_picture_with_one_sound_object_is_usable(clean):
    add(clean, "half", EGG, ("milk", (9, 9, 9, 9)), ("milk", (1, 2, 3, "nan")))
    summary = survey_dataset(clean).parts["dataset"]
    assert (summary.pictures, summary.negatives, summary.objects) == (6, 0, 11)


def test_a_picture_leaks_only_into_later_parts(tmp_path):
    for part in ("train", "val", "test"):
        plant_sound_pictures(tmp_path / part, 5)
        for index in range(2):
            add(tmp_path / part, f"shared{index}", EGG, MILK, seed=1)
    findings = check_dataset({part: tmp_path / part for part in ("train", "val", "test")})
    assert found(tmp_path, findings) == sorted(
        [
            ("picture-doubled", f"{part}/JPEGImages/shared1.jpg", None)
            for part in ("train", "val", "test")
        ]
        + [
            ("picture-leaked", f"{part}/JPEGImages/shared{index}.jpg", None)
            for part in ("train", "val")
            for index in range(2)
        ]
    )


def test_pixels_count_not_their_lossless_encoding(clean):
    image = picture((60, 60), seed=5)
    add(clean, "a", EGG, data=encoded(image, "PNG"), extension="png")
    add(clean, "b", EGG, data=encoded(image, "BMP"), extension="bmp")
    add(clean, "c", EGG, data=encoded(picture((60, 60), seed=6), "BMP"), extension="bmp")
    (finding,) = check_dataset(clean)
    assert finding.code == "picture-doubled"
    assert finding.what == f"same pixels as {clean}/JPEGImages/a.png, annotated alike"


def test_two_blank_pictures_are_the_same_only_if_their_files_are(clean):
    for name, quality in (("a", 90), ("b", 90), ("c", 50)):
        data = encoded(Image.new("RGB", (96, 64), "black"), quality=quality)
        add(clean, name, EGG, data=data)
    assert codes(check_dataset(clean)) == [
        "picture-blank",
        "picture-blank",
        "picture-doubled",
        "picture-blank",
    ]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_pictures_that_are_not_rgb_are_fine(clean, mode):
    image_format = "TIFF" if mode == "CMYK" else "PNG"
    grey = Image.fromarray((np.arange(96 * 64).reshape(64, 96) * 9).astype(np.uint16))
    image = grey if mode == "I;16" else picture().convert(mode)
    assert image.mode == mode
    add(clean, "a", EGG, data=encoded(image, image_format), extension=image_format.lower())
    assert check_dataset(clean) == []


@pytest.mark.parametrize(
    ("orientation", "size_hw", "ambiguous"),
    [
        (1, None, False),
        (3, None, True),
        (6, None, True),
        (3, (64, 96), True),
        (6, (64, 96), False),
        (6, (96, 64), False),
    ],
)
def test_exif_is_ambiguous_only_where_the_size_does_not_tell(
    clean, orientation, size_hw, ambiguous
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg_bytes((96, 64), 77, exif=exif)
    add(clean, "turned", ("egg", (4, 4, 30, 30)), data=data, size_hw=size_hw)
    add(clean, "negative", data=jpeg_bytes((96, 64), 78, exif=exif), size_hw=size_hw)
    assert codes(check_dataset(clean)) == ["exif-ambiguous"] * ambiguous


def test_given_labels_are_the_only_ones(clean):
    add(clean, "more", ("MILK", (1, 2, 30, 40)), ("eggs", (40, 2, 60, 40)), ("x", (70, 2, 90, 40)))
    config = CheckConfig(labels=("egg", "milk", "tea"), min_examples=1)
    assert [
        (finding.code, finding.label, finding.what)
        for finding in check_dataset(clean, config=config)
    ] == [
        (
            "label-unknown",
            "MILK",
            (
                "has the label 'MILK', which is not among the given labels but for case or spaces: "
                "'milk' is"
            ),
        ),
        (
            "label-unknown",
            "eggs",
            "has the label 'eggs', which is not among the given labels (did you mean 'egg'?)",
        ),
        ("label-unknown", "x", "has the label 'x', which is not among the given labels"),
        ("label-rare", "tea", "class 'tea' has 0 usable examples, at least 1 are advisable"),
    ]


def test_labels_that_look_alike_but_are_not_misspelt(clean):
    for index in range(12):
        add(clean, f"c{index}", ("size 1", (1, 2, 30, 40)), ("cat", (40, 2, 60, 40)))
    for label in ("size 2", "car", "catfish"):
        add(clean, label, (label, (1, 2, 30, 40)))
    assert codes(check_dataset(clean)) == ["label-rare"] * 3


def test_spellings_of_one_class(tmp_path):
    for index in range(6):
        add(tmp_path / "train", f"a{index}", ("egg box", (1, 2, 30, 40)))
        add(tmp_path / "test", f"a{index}", ("EggBox", (1, 2, 30, 40)))
    add(tmp_path / "train", "b", ("egg_box", (1, 2, 30, 40)), ("egg_box", (40, 2, 80, 40)))
    survey = survey_dataset({part: tmp_path / part for part in ("train", "test")})
    assert survey.corrections == {"EggBox": "egg box"}
    assert [(finding.code, finding.part, finding.what) for finding in survey.findings] == [
        (
            "label-unknown",
            "test",
            (
                "has the label 'EggBox', which is not in train but for case or spaces: 'egg box' is; "
                "so do 5 more objects"
            ),
        ),
        (
            "label-misspelt",
            "train",
            (
                "has the label 'egg_box' (did you mean 'egg box', with 6 objects?); "
                "so does 1 more object"
            ),
        ),
        (
            "label-not-tested",
            "test",
            "class 'egg box' has no usable object in test, so nothing is measured of it there",
        ),
    ]


def test_nearest_label_ignores_case():
    assert nearest_label("ORNAGE", ["orange", "water"]) == "orange"
    assert nearest_label("soap", ["orange", "water"]) is None


def test_only_negatives(tmp_path):
    add(tmp_path, "a")
    assert codes(check_dataset(tmp_path)) == ["no-objects"]
    assert codes(check_dataset({"train": tmp_path / "nowhere"})) == ["part-unreadable"]


def test_unreadable_training_data_does_not_condemn_the_test_data(tmp_path):
    plant_sound_pictures(tmp_path / "test", 2)
    parts = {"train": tmp_path / "nowhere", "test": tmp_path / "test"}
    assert codes(check_dataset(parts)) == ["part-unreadable"]


@pytest.mark.parametrize("kind", ["voc", "coco", "yolo", "csv"])
def test_every_format_is_checked_alike(tmp_path, kind):
    plant_sound_pictures(tmp_path / "voc", 5)
    for name in ("broken", "missing"):
        add(tmp_path / "voc", name, EGG)
    add(tmp_path / "voc", "edge", EGG, ("milk", (85, 20, 104, 64)))
    add(tmp_path / "voc", "negative")
    convert(tmp_path / "voc", tmp_path / "data", kind)
    (broken,) = (tmp_path / "data").rglob("broken.jpg")
    broken.write_bytes(broken.read_bytes()[:-200])
    (missing,) = (tmp_path / "data").rglob("missing.jpg")
    missing.unlink()
    findings = check_dataset(tmp_path / "data")
    assert sorted((finding.code, finding.picture) for finding in findings) == [
        ("annotation-without-picture", "missing"),
        ("box-over-edge", "edge"),
        ("picture-damaged", "broken"),
    ]
    assert findings[-1].object_number == 2


def test_findings_as_text_json_and_in_order():
    in_coco = Finding("box-outside", "d/all.json", "far away", "train", "shelf/7", 2, "egg")
    assert str(in_coco) == (
        "error: d/all.json: picture shelf/7: object 2 (egg): far away [box-outside]"
    )
    assert json.loads(json.dumps(in_coco.to_json())) == {
        "severity": "error",
        "code": "box-outside",
        "file": "d/all.json",
        "what": "far away",
        "part": "train",
        "picture": "shelf/7",
        "object_number": 2,
        "label": "egg",
    }
    later = Finding("box-outside", "a/b.xml", "far away", "test", "b", 10, "egg")
    last = Finding("object-tiny", "a/b.xml", "tiny", "train", "b", 2, "egg")
    assert in_order([last, later, in_coco], ("train", "test")) == [in_coco, later, last]
    assert list(count_by_code([last, later, in_coco]).items()) == [
        ("box-outside", 2),
        ("object-tiny", 1),
    ]
    assert count_by_severity([last, later, in_coco]) == {"error": 2, "warning": 1}


def test_numbers_agree_with_their_nouns():
    assert [counted(1, "error"), counted(2, "error"), counted(1200, "class")] == [
        "1 error",
        "2 errors",
        "1,200 classes",
    ]


@pytest.fixture(scope="module")
def sound_scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    make_sample_dataset(folder, train=16, test=8, size_wh=(160, 120))
    return folder


def _truncated_by(path):
    """What Pillow says of the file: the number depends on its version."""
    with Image.open(path) as image, pytest.raises(OSError, match="truncated") as caught:
        image.load()
    return str(caught.value).split("(")[1].split()[0]
