import numpy as np
import pytest
import yaml
from factories import encoded, picture
from PIL import Image

from appliance import storage
from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.annotations.formats.opening import open_source, parts_of
from appliance.annotations.formats.yolo import YoloWriter, parse
from appliance.annotations.formats.yolo_folder import open_yolo
from appliance.annotations.source import ObjectAnnotation, PictureAnnotation
from appliance.errors import DatasetError, StorageError

LABELS = {0: "egg", 2: "water"}
NAMES = "names: [egg, soap, water]\n"


def parsed(text, size_hw=(64, 96)):
    return parse(text.encode(), LABELS, size_hw, source="a.txt").refuse_faults().objects


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def put_set(folder, *pictures, label="0 0.5 0.5 0.25 0.5\n"):
    """Pictures of 96x64 pixels, each with a text file where Ultralytics looks for it."""
    for name in pictures:
        put(folder / name, encoded(picture()))
        before, slash, after = f"/{name}".rpartition("/images/")
        twin = f"{before}/labels/{after}" if slash else name
        put(folder / twin.lstrip("/").replace(".jpg", ".txt"), label)


def names_and_boxes(source):
    return {e.name: [o.box_xyxy for o in e.read().objects] for e in source.entries}


BOX = [(36.0, 16.0, 60.0, 48.0)]


def test_lines_are_shares_of_the_picture():
    assert parsed("\ufeff0 0.5 0.5 0.25 0.5\n\n 2.0 0.25\t0.125 0.5 0.25 \r\n") == (
        ObjectAnnotation("egg", (36, 16, 60, 48)),
        ObjectAnnotation("water", (0, 0, 48, 16)),
    )
    assert parsed("") == ()


@pytest.mark.parametrize(
    "points",
    [
        "0.5 0.25 0.75 0.5 0.25 0.75",  # an outline of three points
        "0.5 0.25 0.75 0.5 0.5 0.75 0.25 0.5",  # a rotated box
    ],
)
def test_outlines_and_rotated_boxes_become_the_box_around_them(points):
    assert parsed(f"0 {points}") == (ObjectAnnotation("egg", (24, 16, 72, 48)),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "egg 0.5 0.5 1 1",
            "Line 2 holds something else than numbers: a.txt (got 'egg 0.5 0.5 1 1'",
        ),
        (
            "1 0.5 0.5 1 1",
            "Line 2 has an unknown class: a.txt (got 1, expected a number from 0 to 2)",
        ),
        ("0.5 0.5 0.5 1 1", "Line 2 has an unknown class: a.txt (got 0.5"),
        ("nan 0.5 0.5 1 1", "Line 2 has an unknown class: a.txt (got nan"),
        ("0 0.5 0.5 1", "Line 2 has the wrong number of numbers: a.txt (got 4"),
        ("0 0.5 0.5 1 1 0.9", "Line 2 has the wrong number of numbers: a.txt (got 6"),
        ("0 0.5 0.5 1 1 1 1 1", "Line 2 has the wrong number of numbers: a.txt (got 8"),
        ("0 48 32 20 10", "Line 2 has no usable box: a.txt (got 48 32 20 10, expected shares"),
        ("0 0.5 0.5 inf 1", "Line 2 has no usable box: a.txt (got 0.5 0.5 inf 1"),
    ],
)
def test_lines_that_are_refused(line, message):
    with pytest.raises(DatasetError) as caught:
        parsed(f"0 0.5 0.5 0.25 0.5\n{line}")
    assert caught.value.message.startswith(message)


def test_file_that_is_no_text():
    with pytest.raises(DatasetError, match="The annotation is no text: a.txt"):
        parse(b"\xff\xfe0", LABELS, (1, 1), source="a.txt")


def test_a_score_too_many_gets_a_hint():
    with pytest.raises(DatasetError, match="A sixth number is the score of a detection"):
        parsed("0 0.5 0.5 1 1 0.9")


@pytest.mark.parametrize(
    ("pictures", "train"),
    [
        ("images/train/m/1.jpg", "images/train"),  # Ultralytics
        ("train/images/m/1.jpg", "../train/images"),  # Roboflow
        ("train/images/m/1.jpg", "train"),
        ("train/m/1.jpg", "./train/"),
    ],
)
def test_layouts_with_a_yaml(tmp_path, pictures, train):
    put_set(tmp_path, pictures)
    put(tmp_path / "data.yaml", f"train: {train}\nval:\nnc: 3\n{NAMES}")
    source = open_source(tmp_path)
    assert (source.format, source.labels) == ("yolo", ("egg", "soap", "water"))
    assert names_and_boxes(source) == {"m/1": BOX}


@pytest.mark.parametrize("base", ["set", ".", "", "/somewhere/else", "../datasets/set"])
def test_path_in_the_yaml_may_be_that_of_another_machine(tmp_path, base):
    put_set(tmp_path / "set", "images/train/1.jpg", "images/val/2.jpg")
    put(
        tmp_path / "set/coco8.yaml",
        f"path: {base}\ntrain: [images/train]\nval: images/val\nnames: {{0: egg, 7: 9}}\n",
    )
    assert list(parts_of(tmp_path / "set")) == ["train", "val"]
    source = open_source(f"{tmp_path}/set#val")
    assert source.labels == ("egg", "9")
    assert names_and_boxes(source) == {"2": BOX}


def test_absolute_path_in_the_yaml(tmp_path):
    put_set(tmp_path / "near", "photos/images/1.jpg")
    put(tmp_path / "near/data.yaml", f"path: {tmp_path}/near/photos\ntrain: images\n{NAMES}")
    assert names_and_boxes(open_source(tmp_path / "near/data.yaml")) == {"1": BOX}
    put(tmp_path / "near/data.yaml", f"train: {tmp_path}/near/photos/images\n{NAMES}")
    assert names_and_boxes(open_source(tmp_path / "near")) == {"1": BOX}


@pytest.mark.parametrize("listed", ["./images/train/1.jpg", "data/images/train/1.jpg", "ABSOLUTE"])
def test_list_of_pictures(tmp_path, listed):
    put_set(tmp_path, "images/train/1.jpg", "images/train/2.jpg")
    line = listed.replace("ABSOLUTE", str(tmp_path / "images/train/1.jpg"))
    put(tmp_path / "train.txt", f"{line}\n\n")
    put(tmp_path / "data.yaml", f"train: train.txt\n{NAMES}")
    (entry,) = open_source(tmp_path).entries
    assert entry.picture_path == str(tmp_path / "images/train/1.jpg")
    assert len(entry.read().objects) == 1
    (entry,) = open_source(tmp_path / "train.txt").entries
    assert len(entry.read().objects) == 1


def test_list_with_a_picture_that_is_not_there(tmp_path):
    put_set(tmp_path, "obj_train_data/1.jpg")  # CVAT
    put(tmp_path / "train.txt", "data/obj_train_data/1.jpg\ndata/obj_train_data/2.jpg\n")
    put(tmp_path / "obj.names", "egg\nwater\n\n")
    source = open_yolo(tmp_path / "train.txt")
    assert source.labels == ("egg", "water")
    assert [entry.picture_path is None for entry in source.entries] == [False, True]
    with pytest.raises(DatasetError, match=r"An annotation has no picture: data/obj_.*2\.txt"):
        source.entries[1].read()
    put(tmp_path / "obj_train_data/2.jpg", encoded(picture()))
    assert [len(e.read().objects) for e in open_yolo(tmp_path / "train.txt").entries] == [1, 0]


def test_list_of_pictures_in_an_object_store(tmp_path):
    store = f"memory://{tmp_path.name}"
    files = {
        "images/1.jpg": encoded(picture()),
        "labels/1.txt": b"0 0.5 0.5 0.25 0.5",
        "train.txt": b"images/1.jpg\nimages/2.jpg\n",
        "data.yaml": f"train: train.txt\nval: val.txt\ntest: test\n{NAMES}".encode(),
    }
    for name, data in files.items():
        storage.write_bytes(f"{store}/{name}", data)
    first, missing = open_source(f"{store}#train").entries
    assert [item.box_xyxy for item in first.read().objects] == BOX
    assert missing.picture_path is None
    for part in ("val", "test"):
        with pytest.raises(DatasetError, match=f"The part {part} is not there"):
            open_source(f"{store}#{part}")


@pytest.mark.parametrize(
    ("pictures", "names"),
    [
        ("images/1.jpg", "classes.txt"),  # Label Studio
        ("images/1.jpg", "labels/classes.txt"),
        ("1.jpg", "classes.txt"),  # LabelImg
        ("obj_train_data/1.jpg", "obj.names"),  # CVAT
    ],
)
def test_layouts_without_a_yaml(tmp_path, pictures, names):
    put_set(tmp_path, pictures)
    put(tmp_path / names, "egg\r\nsoap\r\n")
    source = open_source(tmp_path)
    assert source.labels == ("egg", "soap")
    assert [entry.read().objects[0].label for entry in source.entries] == ["egg"]
    assert parts_of(tmp_path) == {}


@pytest.mark.parametrize("folder", ["images/{}", "{}/images"])
def test_parts_without_a_yaml(tmp_path, folder):
    for part in ("test", "train", "valid"):
        put_set(tmp_path, f"{folder.format(part)}/{part}1.jpg")
    put(tmp_path / "classes.txt", "egg")
    assert list(parts_of(tmp_path)) == ["train", "valid", "test"]
    for place in (parts_of(tmp_path)["valid"], f"{tmp_path}#val"):
        assert names_and_boxes(open_source(place)) == {"valid1": BOX}


def test_folder_of_one_part_finds_its_labels_and_classes(tmp_path):
    put_set(tmp_path, "images/train/1.jpg", "images/val/2.jpg")
    put(tmp_path / "data.yaml", f"train: images/train\nval: images/val\n{NAMES}")
    assert names_and_boxes(open_source(tmp_path / "images/val")) == {"2": BOX}


def test_picture_without_a_text_file_is_a_negative(tmp_path):
    put_set(tmp_path, "images/1.jpg")
    put_set(tmp_path, "images/3.jpg", label="")
    put(tmp_path / "images/2.jpg", encoded(picture()))
    put(tmp_path / "classes.txt", "egg")
    source = open_source(tmp_path)
    assert names_and_boxes(source) == {"1": BOX, "2": [], "3": []}
    assert source.entries[1].annotation_path == str(tmp_path / "labels/2.txt")
    assert ObjectDetectionDataset.read(tmp_path).negatives == 2


@pytest.mark.parametrize("part", ["", "train/"])
def test_text_file_without_a_picture(tmp_path, part):
    put_set(tmp_path, f"images/{part}1.jpg")
    put(tmp_path / f"labels/{part}2.txt", "0 0.5 0.5 0.25 0.5")
    put(tmp_path / "labels/classes.txt", "egg")
    source = open_source(tmp_path)
    assert [(entry.name, entry.picture_path is None) for entry in source.entries] == [
        ("1", False),
        ("2", True),
    ]
    with pytest.raises(DatasetError, match=r"An annotation has no picture: .*/2\.txt"):
        source.refuse_faults()


def test_boxes_are_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    put_set(tmp_path, "images/1.jpg")
    put(tmp_path / "images/1.jpg", encoded(picture((96, 64)), exif=exif))
    put(tmp_path / "classes.txt", "egg")
    (image,) = ObjectDetectionDataset.read(tmp_path).images
    assert image.size_hw == (96, 64)
    assert image.boxes_xyxy.tolist() == [[24, 24, 40, 72]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "Not valid YAML: F"),
        ("- 1", "Not a settings file: F"),
        ("names: []\ntrain: images", "The names of the classes are wrong: F (got [])"),
        ("names: egg\ntrain: images", "The names of the classes are wrong: F (got 'egg')"),
        ("names: [a, no]\ntrain: images", "The name of class 1 is wrong: F (got False, expected a"),
        ("names: [a, [b]]\ntrain: images", "The name of class 1 is wrong: F (got ['b']"),
        ("names: [a, ' ']\ntrain: images", "The name of class 1 is wrong: F (got ' '"),
        ("names: [a, a]\ntrain: images", "A class stands twice: F (got a)"),
        ("names: {a: 0}\ntrain: images", "The number of a class is wrong: F (got 'a'"),
        ("names: {-1: a}\ntrain: images", "The number of a class is wrong: F (got -1"),
        ("names: [a]\ntrain: [b, c]", "The part train is wrong: F (got ['b', 'c']"),
        ("names: [a]\ntrain: photos", "The part train is not there: F (got photos, expected a"),
        ("names: [a]\nkpt_shape: [17, 3]", "The labels are key points, not boxes: F"),
    ],
)
def test_yaml_that_is_refused(tmp_path, text, message):
    put_set(tmp_path, "images/1.jpg")
    path = tmp_path / "data.yaml"
    put(path, text)
    with pytest.raises(DatasetError) as caught:
        open_source(path)
    assert caught.value.message.replace(str(path), "F").startswith(message)


def test_what_is_missing_is_said(tmp_path):
    put_set(tmp_path, "images/1.jpg")
    with pytest.raises(DatasetError, match="The classes have no names.*names in data.yaml, or in"):
        open_source(tmp_path)
    put(tmp_path / "classes.txt", b"\xff")
    with pytest.raises(DatasetError, match="The names of the classes are not in UTF-8"):
        open_source(tmp_path)
    put(tmp_path / "classes.txt", "egg")
    (tmp_path / "labels/1.txt").unlink()
    with pytest.raises(DatasetError, match=r"No picture has labels: .*/labels/1\.txt"):
        open_source(tmp_path, "yolo")
    (tmp_path / "images/1.jpg").unlink()
    with pytest.raises(DatasetError, match="The dataset is empty"):
        open_source(tmp_path, "yolo")
    with pytest.raises(StorageError, match="No such dataset folder"):
        open_source(tmp_path / "nowhere", "yolo")
    with pytest.raises(StorageError, match="no.yaml"):
        open_source(tmp_path / "no.yaml")


def test_yaml_without_names_or_parts(tmp_path):
    put_set(tmp_path, "images/1.jpg")
    put(tmp_path / "data.yaml", "nc: 1\n")
    put(tmp_path / "classes.txt", "egg")
    assert open_source(tmp_path).labels == ("egg",)


def test_what_is_written_has_the_layout_of_ultralytics():
    writer = YoloWriter(("no", "Kätzchen"))
    objects = (
        ObjectAnnotation("Kätzchen", (36, 16, 60, 48), difficult=True),
        ObjectAnnotation("no", (0, 0, 96, 64), truncated=True, crowd=True),
        ObjectAnnotation("no", (-3, 1 / 3, 99, 64)),
    )
    pictures = [("train", "m/1.jpg", objects), ("valid", "2.jpg", ())]
    files = {}
    for part, name, shown in pictures:
        writer.add(part, name, PictureAnnotation(shown, (64, 96)))
        files |= [writer.file_of(part, name, PictureAnnotation(shown, (64, 96)))]
    files |= writer.last_files()
    assert yaml.safe_load(files["data.yaml"]) == {
        "train": "images/train",
        "val": "images/valid",
        "names": {0: "no", 1: "Kätzchen"},
    }
    lines = files["labels/train/m/1.txt"].decode().splitlines()
    assert lines[0] == "1 0.5 0.5 0.25 0.5"
    assert len(lines) == 2
    assert np.allclose(np.array(lines[1].split(), float)[1:], [0.5, 193 / 384, 1.0625, 191 / 192])
    assert files["labels/valid/2.txt"] == b""
    assert dict(writer.losses) == {"difficult": 1, "truncated": 1, "crowd": 1}
