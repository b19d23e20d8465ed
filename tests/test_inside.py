"""Pictures lie in the folder of their data, or where the user says; what a file names elsewhere stays shut."""

from __future__ import annotations

import json
import os

import pytest
from factories import encoded, picture

from appliance import storage
from appliance.annotations.checks.survey import CheckConfig, check_dataset
from appliance.annotations.convert import convert
from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.annotations.formats import pascal_voc
from appliance.annotations.formats.inside import home_of, lies_inside
from appliance.annotations.formats.opening import open_source
from appliance.annotations.source import ObjectAnnotation, PictureAnnotation
from appliance.errors import DatasetError, StorageError

EGG = ObjectAnnotation("egg", (24, 16, 72, 48))
SECRET = b"root:x:0:0:do not print this"
HINT = "If it is to be used, name the folder that it lies in: --images, or images_root= in Python."


def put(path, content=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture()) if content is None else content)
    return str(path)


def write_data(folder, kind, name):
    """Data of one format whose only picture is called `name`; gives the file that says so."""
    if kind == "coco":
        image = {"id": 1, "file_name": name, "width": 96, "height": 64}
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [24, 16, 48, 32]}
        classes = [{"id": 1, "name": "egg"}]
        document = {"images": [image], "annotations": [box], "categories": classes}
        return put(folder / "set.json", json.dumps(document).encode())
    if kind == "csv":
        table = f"image,label,xmin,ymin,xmax,ymax\n{name},egg,24,16,72,48\n"
        return put(folder / "set.csv", table.encode())
    put(folder / "data.yaml", b"train: train.txt\nnames: [egg]\n")
    return put(folder / "train.txt", f"{name}\n".encode())


def boxes_of(source):
    return [item.box_xyxy for entry in source.entries for item in entry.read().objects]


@pytest.fixture
def never_opened(monkeypatch):
    """Notes every address whose content is asked for."""
    opened = []
    read, ranges = storage.read_bytes, storage.open_input
    monkeypatch.setattr(storage, "read_bytes", lambda uri: opened.append(str(uri)) or read(uri))
    monkeypatch.setattr(storage, "open_input", lambda uri: opened.append(str(uri)) or ranges(uri))
    return opened


@pytest.mark.parametrize("kind", ["coco", "csv", "yolo"])
@pytest.mark.parametrize(
    "name",
    [
        "SECRET",
        "file://SECRET",
        "../secret.jpg",
        "images/../../secret.jpg",
        "..\\secret.jpg",
        "http://127.0.0.1:9/latest/meta-data",
        "s3://somebody/else.jpg",
        "C:\\Users\\somebody\\photos\\1.jpg",
    ],
)
def test_what_is_named_outside_is_not_opened(tmp_path, kind, name, never_opened):
    secret = put(tmp_path / "secret.jpg", SECRET)
    name = name.replace("SECRET", secret)
    file = write_data(tmp_path / "data", kind, name)
    with pytest.raises(DatasetError) as caught:
        ObjectDetectionDataset.read(tmp_path / "data")
    assert str(caught.value) == (
        f"A picture lies outside of the folder of the data and is not opened: {file} (got {name}, "
        f"expected a place in {tmp_path}/data). {HINT}"
    )
    with pytest.raises(DatasetError, match="A picture lies outside of the folder"):
        convert(tmp_path / "data", tmp_path / "out", "voc")
    assert not (tmp_path / "out").exists()
    findings = check_dataset(tmp_path / "data")
    assert [item.code for item in findings] == ["picture-outside", "no-objects"]
    assert "root:" not in str(findings)
    assert {path for path in never_opened if not path.startswith(f"{tmp_path}/data/")} == set()


@pytest.mark.parametrize("kind", ["coco", "csv"])
def test_the_rest_of_the_data_is_checked_and_kept(tmp_path, kind):
    put(tmp_path / "data/1.jpg")
    file = write_data(tmp_path / "data", kind, "1.jpg")
    text = storage.read_bytes(file).decode()
    if kind == "csv":
        text += "/etc/passwd,egg,1,2,30,40\n"
    else:
        document = json.loads(text)
        document["images"].append({"id": 2, "file_name": "/etc/passwd"})
        text = json.dumps(document)
    put(tmp_path / "data" / file.rpartition("/")[2], text.encode())
    findings = check_dataset(tmp_path / "data", config=CheckConfig(min_examples=1))
    assert [(item.code, item.file) for item in findings] == [("picture-outside", file)]
    assert boxes_of(open_source(tmp_path / "data")) == [EGG.box_xyxy]


@pytest.mark.parametrize("kind", ["coco", "csv", "yolo"])
@pytest.mark.parametrize(
    "name", ["FAR/1.jpg", "photos/1.jpg", "1.jpg", "/of/another/machine/1.jpg"]
)
def test_a_folder_that_the_user_names(tmp_path, kind, name):
    far = put(tmp_path / "far/photos/1.jpg")
    put(tmp_path / "far/photos/1.txt", b"0 0.5 0.5 0.5 0.5")
    name = name.replace("FAR", str(tmp_path / "far/photos"))
    write_data(tmp_path / "data", kind, name)
    for root in (tmp_path / "far/photos", f"{tmp_path}/far/photos/"):
        source = open_source(tmp_path / "data", images_root=root)
        assert [entry.picture_path for entry in source.entries] == [far]
        assert boxes_of(source) == [EGG.box_xyxy]
    dataset = ObjectDetectionDataset.read(tmp_path / "data", images_root=tmp_path / "far/photos")
    assert [image.storage_path for image in dataset.images] == [far]


def test_a_yolo_part_that_lies_outside(tmp_path):
    put(tmp_path / "far/images/train/1.jpg")
    put(tmp_path / "far/labels/train/1.txt", b"0 0.5 0.5 0.5 0.5")
    for path, train in ((f"{tmp_path}/far", "images/train"), ("", "../far/images/train")):
        yaml = f"path: {path}\ntrain: {train}\nnames: [egg]\n"
        file = put(tmp_path / "data/data.yaml", yaml.encode())
        with pytest.raises(DatasetError) as caught:
            open_source(tmp_path / "data")
        got = f"{train} below path {path}" if path else train
        assert str(caught.value) == (
            f"The part train lies outside of the folder of the data and is not opened: {file} "
            f"(got {got}, expected a place in {tmp_path}/data). {HINT}"
        )
        for root in (tmp_path / "far", tmp_path / "far/images"):
            source = open_source(tmp_path / "data", images_root=root)
            assert boxes_of(source) == [EGG.box_xyxy]
    put(tmp_path / "data/data.yaml", b"train: http://127.0.0.1:9/images\nnames: [egg]\n")
    with pytest.raises(DatasetError, match="The part train lies outside of the folder"):
        open_source(tmp_path / "data")


@pytest.mark.parametrize("labels", ["labels/1.txt", "labels/train/1.txt"])
def test_yolo_pictures_elsewhere_with_labels_in_the_data(tmp_path, labels):
    far = put(tmp_path / "far/1.jpg")
    put(tmp_path / "data" / labels, b"0 0.5 0.5 0.5 0.5")
    put(tmp_path / "data/labels/classes.txt", b"egg")
    if "train" in labels:
        put(tmp_path / "data/data.yaml", b"train: images/train\nnames: [egg]\n")
    source = open_source(tmp_path / "data", "yolo", images_root=tmp_path / "far")
    assert [(entry.name, entry.picture_path) for entry in source.entries] == [("1", far)]
    assert boxes_of(source) == [EGG.box_xyxy]


@pytest.mark.parametrize("place", ["far/1.jpg", "far/train/1.jpg", "far/train/JPEGImages/1.jpg"])
def test_voc_pictures_elsewhere(tmp_path, place):
    far = put(tmp_path / place)
    put(tmp_path / place.replace("1.jpg", "2.jpg"))  # that nobody annotated: not of the data
    xml = tmp_path / "data/train/Annotations/1.xml"
    xml.parent.mkdir(parents=True)
    pascal_voc.write(xml, PictureAnnotation((EGG,), None, "/etc/passwd"))
    with pytest.raises(DatasetError, match="has no folder of pictures"):
        open_source(tmp_path / "data")
    source = open_source(tmp_path / "data", images_root=tmp_path / "far")
    assert [entry.picture_path for entry in source.entries] == [far]
    put(tmp_path / place.replace(".jpg", ".png"), encoded(picture(), "PNG"))
    assert open_source(tmp_path / "data", images_root=tmp_path / "far").doubled == (
        far.replace(".jpg", ".png"),
    )
    with pytest.raises(StorageError, match="No such dataset folder"):
        open_source(tmp_path / "data", images_root=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    (lonely,) = open_source(tmp_path / "data", images_root=tmp_path / "empty").entries
    assert lonely.picture_path is None


def test_names_in_pascal_voc_are_never_opened(tmp_path, never_opened):
    secret = put(tmp_path / "secret.jpg", SECRET)
    put(tmp_path / "data/JPEGImages/1.jpg")
    xml = f"<annotation><filename>{secret}</filename><path>{secret}</path></annotation>"
    put(tmp_path / "data/Annotations/1.xml", xml.encode())
    check_dataset(tmp_path / "data")
    convert(tmp_path / "data", tmp_path / "out", "coco")
    assert secret not in never_opened
    assert all(SECRET not in path.read_bytes() for path in (tmp_path / "out").rglob("*.*"))


def test_links_are_followed(tmp_path):
    put(tmp_path / "far/1.jpg")
    (tmp_path / "data").mkdir()
    os.symlink(tmp_path / "far/1.jpg", tmp_path / "data/1.jpg")
    write_data(tmp_path / "data", "csv", "1.jpg")
    (entry,) = open_source(tmp_path / "data").entries
    assert entry.picture_path == f"{tmp_path}/data/1.jpg"


def test_pictures_of_a_bucket(tmp_path):
    store = f"memory://{tmp_path.name}"
    for name in ("data/1.jpg", "far/2.jpg"):
        storage.write_bytes(f"{store}/{name}", encoded(picture()))
    rows = [f"{name},egg,24,16,72,48" for name in (f"{store}/data/1.jpg", f"{store}/far/2.jpg")]
    table = "\n".join(["image,label,xmin,ymin,xmax,ymax", *rows])
    storage.write_bytes(f"{store}/data/set.csv", table.encode())
    source = open_source(f"{store}/data")
    assert [entry.picture_path for entry in source.entries] == [f"{store}/data/1.jpg"]
    assert [fault.error.got for fault in source.faults] == [f"{store}/far/2.jpg"]
    source = open_source(f"{store}/data", images_root=f"{store}/far")
    assert [entry.picture_path for entry in source.entries] == [
        f"{store}/data/1.jpg",
        f"{store}/far/2.jpg",
    ]
    assert boxes_of(source) == [EGG.box_xyxy] * 2


@pytest.mark.parametrize(
    ("file", "home"),
    [
        ("data/set.json", "data"),
        ("data/annotations/instances_train.json", "data"),
        ("data/train/_annotations.coco.json", "data"),
        ("data/train2017/annotations/a.json", "data"),
        ("data/a/annotations/train/a.json", "data/a"),
        ("data/train-images/a.json", "data/train-images"),
        ("s3://bucket/data/annotations/a.json?region=x", "s3://bucket/data?region=x"),
        ("s3://train/a.json", "s3://train"),
    ],
)
def test_the_folder_of_the_data(file, home):
    assert home_of(file) == home


@pytest.mark.parametrize(
    ("path", "folder", "inside"),
    [
        ("/data/a/1.jpg", "/data", True),
        ("/data", "/data/", True),
        ("/database/1.jpg", "/data", False),
        ("/data/../etc/passwd", "/data", False),
        ("/etc/passwd", "/", True),
        ("s3://b/data/1.jpg", "s3://b/data/", True),
        ("s3://b/data/../1.jpg", "s3://b/data", False),
        ("s3://b/data/%2e%2e/1.jpg", "s3://b/data", False),
        ("s3://b/data/1.jpg?endpoint_override=evil", "s3://b/data", False),
        ("gs://b/data/1.jpg", "s3://b/data", False),
        ("zip://data/1.jpg::/a.zip", "zip://data::/a.zip", True),
        ("zip://data/1.jpg::/b.zip", "zip://data::/a.zip", False),
        ("/data/1.jpg", "s3://b/data", False),
    ],
)
def test_inside_or_outside(path, folder, inside):
    assert lies_inside(path, folder) is inside


def test_on_the_command_line(tmp_path, run_appliance, capsys):
    put(tmp_path / "far/1.jpg")
    write_data(tmp_path / "data", "coco", f"{tmp_path}/far/1.jpg")
    data, out, far = tmp_path / "data", tmp_path / "out", tmp_path / "far"
    assert run_appliance("data", "check", data) == 1
    capsys.readouterr()
    assert run_appliance("data", "convert", data, out, "--to", "voc") == 1
    assert "A picture lies outside of the folder" in capsys.readouterr().err
    mended = tmp_path / "mended"
    assert run_appliance("data", "check", data, "--images", far, "--fix", mended) == 0
    assert "0 errors, 1 warning left" in capsys.readouterr().out.splitlines()[-1]
    assert run_appliance("data", "convert", data, out, "--to", "voc", "--images", far) == 0
    assert len(ObjectDetectionDataset.read(out)) == 1


def test_every_command_that_reads_data_takes_the_folder_of_its_pictures(
    tmp_path, run_appliance, capsys
):
    far = tmp_path / "far"
    put(far / "1.jpg")
    data = write_data(tmp_path / "data", "coco", f"{far}/1.jpg")
    found = tmp_path / "found.json"
    row = {"image_id": 1, "category_id": 1, "bbox": [24, 16, 48, 32], "score": 0.9}
    found.write_text(json.dumps([row]))
    for command in (
        ("data", "stats", data),
        ("data", "show", data, "-o", tmp_path / "sheet.png"),
        ("data", "augment", data, "-o", tmp_path / "augmented.png"),
        ("evaluate", "--predictions", found, data),
        ("compare", found, found, data),
    ):
        assert run_appliance(*command) == 1, command
        assert "lies outside of the folder" in capsys.readouterr().err
        assert run_appliance(*command, "--images", far) == 0, command
    # Training has read the pictures when it finds that the workers cannot share them.
    odd = ("train", data, "--out", tmp_path / "model", "--workers", 2, "--batch-size", 3)
    assert run_appliance(*odd, "--images", far) == 1
    assert "batch size 3 and 2 workers" in capsys.readouterr().err
