import os

import pytest
from factories import encoded, picture

from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.annotations.formats import pascal_voc
from appliance.annotations.formats.voc_folder import open_voc
from appliance.annotations.source import ObjectAnnotation, PictureAnnotation
from appliance.errors import DatasetError, StorageError

EGG = ObjectAnnotation("egg", (1, 2, 30, 40))


def put(folder, annotations=(), pictures=()):
    for name in pictures:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(), "PNG" if name.endswith("png") else "JPEG"))
    for name in annotations:
        pascal_voc.write(folder / name, PictureAnnotation((EGG,), filename="wrong.jpg"))


def pairs(source):
    def below(path):
        return path and os.path.relpath(path, source.root)

    return [
        (entry.name, below(entry.picture_path), below(entry.annotation_path))
        for entry in source.entries
    ]


@pytest.mark.parametrize(
    ("annotations", "pictures"),
    [
        ("Annotations", "JPEGImages"),  # PASCAL, CVAT
        ("Annotations", "images"),  # Label Studio
        ("annotations", "images"),
        ("annotations", "Images"),
    ],
)
def test_usual_folders(tmp_path, annotations, pictures):
    put(tmp_path, [f"{annotations}/monday/1.xml"], [f"{pictures}/monday/1.JPG"])
    source = open_voc(tmp_path)
    assert source.format == "voc"
    assert source.labels is None
    assert pairs(source) == [
        ("monday/1", f"{pictures}/monday/1.JPG", f"{annotations}/monday/1.xml")
    ]
    assert source.entries[0].read().objects == (EGG,)


def test_xml_beside_its_picture(tmp_path):
    put(tmp_path, ["1.xml", "b/1.xml"], ["1.jpg", "b/1.png"])
    assert pairs(open_voc(tmp_path)) == [("1", "1.jpg", "1.xml"), ("b/1", "b/1.png", "b/1.xml")]
    assert len(ObjectDetectionDataset.create_from_dir("set", tmp_path)) == 2


def test_pictures_in_the_top_folder(tmp_path):
    put(tmp_path, ["Annotations/1.xml"], ["1.jpg"])
    assert pairs(open_voc(tmp_path)) == [("1", "1.jpg", "Annotations/1.xml")]


def test_only_one_of_the_two_is_nested(tmp_path):
    put(
        tmp_path,
        ["Annotations/1.xml", "Annotations/2.xml", "Annotations/b/4.xml"],
        ["JPEGImages/a/1.jpg", "JPEGImages/a/2.jpg", "JPEGImages/b/2.jpg", "JPEGImages/4.jpg"],
    )
    assert pairs(open_voc(tmp_path)) == [
        ("2", None, "Annotations/2.xml"),  # it could be either of two
        ("4", "JPEGImages/4.jpg", "Annotations/b/4.xml"),
        ("a/1", "JPEGImages/a/1.jpg", "Annotations/1.xml"),
        ("a/2", "JPEGImages/a/2.jpg", None),
        ("b/2", "JPEGImages/b/2.jpg", None),
    ]


def test_loners_and_doubles_are_told_apart(tmp_path):
    put(
        tmp_path,
        ["Annotations/1.xml", "Annotations/3.xml"],
        [f"JPEGImages/{n}" for n in ("1.jpg", "1.png", "2.jpg")],
    )
    source = open_voc(tmp_path)
    assert pairs(source) == [
        ("1", "JPEGImages/1.jpg", "Annotations/1.xml"),
        ("2", "JPEGImages/2.jpg", None),
        ("3", None, "Annotations/3.xml"),
    ]
    assert source.doubled == (str(tmp_path / "JPEGImages/1.png"),)
    with pytest.raises(DatasetError, match=r"A picture has no annotation: .*/2\.jpg"):
        source.entries[1].read()
    with pytest.raises(DatasetError, match=r"Two pictures share one name.*1\.png"):
        source.refuse_faults()


def test_named_folders_are_taken_at_their_word(tmp_path):
    put(tmp_path, ["annotations/1.xml"], ["images/1.jpg"])
    with pytest.raises(DatasetError, match=r"no folder of annotations: .*/xml \(expected"):
        open_voc(tmp_path, annotations_dir="xml")
    with pytest.raises(DatasetError, match="no folder of pictures: .*/photos"):
        open_voc(tmp_path, "annotations", "photos")
    with pytest.raises(StorageError, match="No such dataset folder"):
        open_voc(tmp_path / "nowhere")
