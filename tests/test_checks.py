import shutil

import pytest
from factories import encoded, jpeg_bytes, picture

from appliance.annotations import pascal_voc
from appliance.annotations.checks import Finding, check_dataset
from appliance.annotations.pascal_voc import VocAnnotation, VocObject
from appliance.annotations.sample_scenes import make_sample_dataset


def add(folder, name, *objects, size_hw=None, seed=0):
    path = folder / "JPEGImages" / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture(seed=seed)))
    annotation = VocAnnotation(tuple(VocObject(*item) for item in objects), size_hw)
    pascal_voc.write(folder / "Annotations" / f"{name}.xml", annotation)
    return path


def found(folder, findings):
    return [
        f"{finding.severity} {finding.file.removeprefix(f'{folder}/')}: "
        f"{finding.what.replace(str(folder), '.')}"
        for finding in findings
    ]


@pytest.fixture
def clean(tmp_path):
    for index in range(5):
        add(tmp_path, f"p{index}", ("egg", (1, 2, 30, 40)), seed=index)
    return tmp_path


def test_sample_scenes_are_clean(tmp_path):
    make_sample_dataset(tmp_path, train=8, test=2, size_wh=(96, 72))
    assert check_dataset(tmp_path, min_examples=1) == []


def test_clean_folder_and_text_of_a_finding(clean):
    assert check_dataset(clean) == []
    assert str(Finding("error", "a.xml", "it is wrong")) == "error: a.xml: it is wrong"


def test_everything_is_found_at_once(clean):
    pictures, annotations = clean / "JPEGImages", clean / "Annotations"
    add(clean, "bad_box", ("egg", (5, 5, 5, 9)), ("egg", (200, 5, 210, 9)), seed=10)
    add(clean, "double_box", ("egg", (1, 2, 3, 4)), ("egg", (1, 2, 3, 4)), seed=11)
    add(clean, "edge", ("egg", (-1, 2, 3, 4)), seed=12)
    add(clean, "resized", ("egg", (1, 2, 3, 4)), size_hw=(5, 6), seed=13)
    add(clean, "rare", ("yak", (1, 2, 3, 4)), seed=14)
    (annotations / "alone.xml").write_text("<annotation/>")
    (annotations / "p1.xml").write_text("<annotation>")
    (pictures / "bare.jpg").write_bytes(jpeg_bytes(seed=15))
    (pictures / "p2.png").write_bytes(encoded(picture(seed=16), "PNG"))
    (pictures / "p3.jpg").write_bytes(jpeg_bytes(seed=3)[:-300])
    (pictures / "p4.jpg").write_bytes(b"no picture at all")
    shutil.copy(pictures / "p0.jpg", pictures / "rare.jpg")
    assert found(clean, check_dataset(clean)) == [
        "error JPEGImages/p2.png: another picture has the same name, the annotation is unclear",
        "error JPEGImages/bare.jpg: picture without an annotation",
        (
            "error JPEGImages/p3.jpg: the picture is damaged (got image file is truncated "
            f"({_truncated_by(clean / 'JPEGImages/p3.jpg')} bytes not processed))"
        ),
        (
            "error JPEGImages/p4.jpg: not a picture (got 17 bytes beginning b'no pictu', expected "
            "JPEG, PNG, WebP, BMP, TIFF or GIF)"
        ),
        "error Annotations/alone.xml: annotation without a picture",
        (
            "error Annotations/bad_box.xml: the box of object 1 (egg) has no area: "
            "xmin 5, ymin 5, xmax 5, ymax 9"
        ),
        (
            "error Annotations/bad_box.xml: the box of object 2 (egg) lies outside the picture: "
            "xmin 200, ymin 5, xmax 210, ymax 9"
        ),
        (
            "error Annotations/p1.xml: the annotation is no well-formed XML "
            "(got no element found: line 1, column 12)"
        ),
        (
            "error Annotations/resized.xml: annotation and picture disagree about the size "
            "(got 6x5 in the XML, expected 96x64 as the picture has)"
        ),
        "warning JPEGImages/rare.jpg: same picture as ./JPEGImages/p0.jpg",
        (
            "warning Annotations/double_box.xml: object 2 (egg) doubles object 1: "
            "xmin 1, ymin 2, xmax 3, ymax 4"
        ),
        (
            "warning Annotations/edge.xml: the box of object 1 (egg) reaches over the edge of "
            "96x64 pixels and will be clipped: xmin -1, ymin 2, xmax 3, ymax 4"
        ),
        f"warning {clean}: only 1 examples of 'yak', at least 5 are advisable",
    ]


def test_across_parts(tmp_path):
    train, test = tmp_path / "train", tmp_path / "test"
    for index in range(5):
        add(train, f"p{index}", ("egg", (1, 2, 30, 40)), seed=index)
    add(test, "q0", ("egg", (1, 2, 30, 40)), ("soap", (1, 2, 3, 4)), seed=9)
    shutil.copy(train / "JPEGImages/p1.jpg", test / "JPEGImages/q0.jpg")
    expected = [
        "error test: class 'soap' does not occur in train, so no model will know it",
        (
            "warning test/JPEGImages/q0.jpg: same picture as ./train/JPEGImages/p1.jpg of train, "
            "so what test measures is too good"
        ),
    ]
    assert found(tmp_path, check_dataset(tmp_path)) == expected
    assert found(tmp_path, check_dataset({"train": train, "test": test})) == expected


def test_missing_folders_are_findings(tmp_path):
    assert found(tmp_path, check_dataset({"train": tmp_path / "no"})) == [
        "error no: no such dataset folder"
    ]
    (tmp_path / "test").mkdir()
    assert found(tmp_path, check_dataset(tmp_path)) == [
        (
            "error test/Annotations: the dataset has no folder of annotations "
            "(expected a folder 'Annotations')"
        )
    ]


def test_fridge_pictures_are_clean(shared_dir):
    assert check_dataset(shared_dir / "data/fridge/train") == []


def _truncated_by(path):
    """What Pillow says of the file: the number depends on its version."""
    from PIL import Image

    with Image.open(path) as image, pytest.raises(OSError, match="truncated") as caught:
        image.load()
    return str(caught.value).split("(")[1].split()[0]
