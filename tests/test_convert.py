import json
import os
import random

import pytest
import typer
from factories import encoded, picture
from object_stores import BUCKET
from PIL import Image
from typer.testing import CliRunner

from appliance.annotations.convert import WRITERS, convert
from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.annotations.formats import pascal_voc
from appliance.annotations.formats.opening import open_source, parts_of
from appliance.annotations.source import ObjectAnnotation, PictureAnnotation
from appliance.cli.data_convert import convert as convert_command
from appliance.errors import ConfigError, DatasetError, StorageError

FORMATS = ("voc", "coco", "yolo", "csv")
LABELS = ("water", "egg", "apple")  # not in the order of the alphabet
DECLARE_LABELS = ("coco", "yolo")
MARKS = {
    "voc": ("difficult", "truncated"),
    "coco": ("difficult", "truncated", "crowd"),
    "yolo": (),
    "csv": ("difficult", "truncated", "crowd"),
}


def write_set(out, kind, *, parts=(None,), crowds=True, seed=0):
    """Random annotated pictures, written by the writers themselves."""
    rng = random.Random(seed)
    writer = WRITERS[kind](LABELS)
    files = []
    for part in parts:
        for number, name in enumerate(("1.jpg", "2.png", "m/1.jpg", "m n/ü.jpg")):
            path = out / writer.picture_folder(part) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            width, height = rng.randint(50, 500), rng.randint(50, 500)
            path.write_bytes(encoded(picture((width, height)), "PNG" if "png" in name else "JPEG"))
            objects = []
            for _ in range(number):  # the first one shows nothing
                x1, y1 = rng.uniform(-3, width - 2), rng.uniform(-3, height - 2)
                objects.append(
                    ObjectAnnotation(
                        rng.choice(LABELS),
                        (x1, y1, rng.uniform(x1 + 1, width + 3), rng.uniform(y1 + 1, height + 3)),
                        difficult=rng.random() < 0.5,
                        truncated=rng.random() < 0.5,
                        crowd=crowds and rng.random() < 0.5,
                    )
                )
            annotation = PictureAnnotation(tuple(objects), (height, width), name)
            writer.add(part, name, annotation)
            files.append(writer.file_of(part, name, annotation))
    for name, data in filter(None, [*files, *writer.last_files()]):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    return out


def content(folder, marks, part=None):
    """Name -> size and sorted objects, with the marks that a format can hold."""
    read = {}
    for entry in open_source(folder, part=part).entries:
        annotation = entry.read()
        with Image.open(entry.picture_path) as image:
            size_wh = image.size
        assert annotation.size_hw == size_wh[::-1]
        read[entry.name] = [
            (item.label, item.box_xyxy, tuple(getattr(item, mark) for mark in marks))
            for item in annotation.objects
        ]
    return read


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, objects in first.items():
        assert [(label, marks) for label, _, marks in objects] == [
            (label, marks) for label, _, marks in second[name]
        ]
        for (_, box, _), (_, other, _) in zip(objects, second[name], strict=True):
            assert box == pytest.approx(other, abs=1e-3)


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_round_trip_loses_nothing_that_the_formats_can_hold(tmp_path, source, target):
    original = write_set(tmp_path / "original", source, crowds=False)
    there = convert(original, tmp_path / "there", target)
    convert(tmp_path / "there", tmp_path / "back", source)
    marks = [mark for mark in MARKS[source] if mark in MARKS[target]]
    assert_equal(content(original, marks), content(tmp_path / "there", marks))
    assert_equal(content(original, marks), content(tmp_path / "back", marks))
    assert (there.images, there.negatives, there.objects) == ({"": 4}, 1, 6)
    if source in DECLARE_LABELS and target in DECLARE_LABELS:
        for folder in ("there", "back"):
            assert open_source(tmp_path / folder).labels == LABELS
    for entry in open_source(original).entries:
        (copy,) = [e for e in open_source(tmp_path / "back").entries if e.name == entry.name]
        with open(entry.picture_path, "rb") as first, open(copy.picture_path, "rb") as second:
            assert first.read() == second.read()


@pytest.mark.parametrize("source", ["coco", "csv"])
@pytest.mark.parametrize("target", FORMATS)
def test_crowds(tmp_path, source, target):
    original = write_set(tmp_path / "original", source, seed=1)
    annotations = [e.read() for e in open_source(original).entries]
    counts = {
        mark: sum(getattr(item, mark) for a in annotations for item in a.objects)
        for mark in ("difficult", "truncated", "crowd")
    }
    assert all(counts.values())
    done = convert(original, tmp_path / "there", target)
    written = [e.read() for e in open_source(tmp_path / "there").entries]
    expected = [
        [
            (item.label, item.difficult or (item.crowd and target == "voc"))
            for item in annotation.objects
            if not (item.crowd and target == "yolo")
        ]
        for annotation in annotations
    ]
    if target == "yolo":
        expected = [[(label, False) for label, _ in objects] for objects in expected]
    assert [[(o.label, o.difficult) for o in a.objects] for a in written] == expected
    lost = {mark: counts[mark] for mark in counts if mark not in MARKS[target]}
    assert done.losses == lost
    assert done.objects == sum(map(len, expected))
    assert done.negatives == expected.count([])
    assert (done.warning is None) == (not lost)
    if target == "voc":
        assert done.warning == (
            "Pascal VOC cannot hold every mark, and crowds became difficult objects: "
            f"crowd of {counts['crowd']} objects"
        )


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_parts_are_kept(tmp_path, source, target):
    original = write_set(
        tmp_path / "original", source, parts=("train", "val", "test"), crowds=False
    )
    done = convert(original, tmp_path / "there", target)
    assert done.images == {"train": 4, "val": 4, "test": 4}
    assert list(parts_of(tmp_path / "there")) == ["train", "val", "test"]
    for part in ("train", "val", "test"):
        assert_equal(content(original, (), part), content(tmp_path / "there", (), part))


def test_one_part_of_divided_data(tmp_path):
    original = write_set(tmp_path / "original", "coco", parts=("train", "val"))
    assert convert(f"{original}#val", tmp_path / "there", "voc").images == {"": 4}
    assert_equal(content(original, (), "val"), content(tmp_path / "there", ()))


@pytest.mark.parametrize("target", FORMATS)
def test_dividing(tmp_path, target):
    original = write_set(tmp_path / "original", "voc")
    done = convert(original, tmp_path / "there", target, train_size=0.5, seed=3)
    assert done.images == {"train": 2, "val": 2}
    names = [set(content(tmp_path / "there", (), part)) for part in ("train", "val")]
    assert names[0] | names[1] == set(content(original, ()))
    convert(original, tmp_path / "again", target, train_size=0.5, seed=3)
    assert set(content(tmp_path / "again", (), "train")) == names[0]


def test_dividing_what_cannot_be_divided(tmp_path):
    original = write_set(tmp_path / "original", "voc", parts=("train", "test"))
    with pytest.raises(ConfigError, match="The data is divided already"):
        convert(original, tmp_path / "there", "csv", train_size=0.5)
    with pytest.raises(ConfigError, match="train_size is wrong"):
        convert(original, tmp_path / "there", "csv", train_size=1)
    pascal_voc.write(tmp_path / "one/1.xml", PictureAnnotation(()))
    (tmp_path / "one/1.jpg").write_bytes(encoded(picture()))
    with pytest.raises(DatasetError, match="too small to be divided"):
        convert(tmp_path / "one", tmp_path / "there", "csv", train_size=0.5)


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("tool_applies_exif", [True, False])
def test_boxes_stay_in_place_in_turned_pictures(tmp_path, target, tool_applies_exif):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "set").mkdir()
    (tmp_path / "set/1.jpg").write_bytes(encoded(picture((80, 48)), exif=exif))
    box, size_hw = ((24, 8, 32, 32), (80, 48)) if tool_applies_exif else ((8, 16, 32, 24), (48, 80))
    annotation = PictureAnnotation((ObjectAnnotation("egg", box),), size_hw)
    pascal_voc.write(tmp_path / "set/1.xml", annotation)
    convert(tmp_path / "set", tmp_path / "out", target)
    for folder in ("set", "out"):
        (image,) = ObjectDetectionDataset.read(tmp_path / folder).images
        assert image.size_hw == (80, 48)
        assert image.boxes_xyxy.tolist() == [[24, 8, 32, 32]]


@pytest.mark.parametrize("kind", FORMATS)
def test_object_store(tmp_path, s3_host, monkeypatch, kind):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    options = f"?endpoint_override={s3_host}&scheme=http&region=us-east-1"
    store = f"s3://{BUCKET}/{tmp_path.name}{options}"
    original = write_set(tmp_path / "original", kind, parts=("train", "val"), crowds=False)
    convert(original, store, kind)
    assert list(parts_of(store)) == ["train", "val"]
    there = ObjectDetectionDataset.read(f"{store}#val")
    here = ObjectDetectionDataset.read(f"{original}#val")
    assert [image.name for image in there.images] == ["1.jpg", "2.png", "ü.jpg", "1.jpg"]
    assert there.digest() == here.digest()
    assert all(image.storage_path.endswith(f"g{options}") for image in there.images)
    convert(f"{store}#val", tmp_path / "back", kind)
    assert_equal(content(original, MARKS[kind], "val"), content(tmp_path / "back", MARKS[kind]))
    with pytest.raises(StorageError, match="The folder to write is not empty"):
        convert(original, store, kind)


def test_links(tmp_path):
    original = write_set(tmp_path / "original", "voc")
    convert(original, tmp_path / "there", "coco", link=True)
    link = tmp_path / "there/images/1.jpg"
    assert os.readlink(link) == str(original / "JPEGImages/1.jpg")
    assert len(ObjectDetectionDataset.read(tmp_path / "there")) == 4


def test_pictures_that_differ_in_their_ending_only_keep_apart(tmp_path):
    (tmp_path / "set").mkdir()
    rows = ["image,label,xmin,ymin,xmax,ymax", "1.jpg,egg,1,2,3,4", "1.png,,,,,"]
    (tmp_path / "set/set.csv").write_text("\n".join(rows))
    (tmp_path / "set/1.jpg").write_bytes(encoded(picture()))
    (tmp_path / "set/1.png").write_bytes(encoded(picture(), "PNG"))
    convert(tmp_path / "set", tmp_path / "out", "voc")
    objects = {e.name: len(e.read().objects) for e in open_source(tmp_path / "out").entries}
    assert objects == {"1.jpg": 1, "1.png": 0}


def test_nothing_is_overwritten_and_nothing_half_done(tmp_path):
    original = write_set(tmp_path / "original", "voc")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/.hidden").write_text("mine")
    for out in (tmp_path / "full", tmp_path / "full/.hidden"):
        with pytest.raises(StorageError, match="The folder to write is not empty"):
            convert(original, out, "coco")
    (original / "JPEGImages/extra.jpg").write_bytes(encoded(picture()))
    with pytest.raises(DatasetError, match="A picture has no annotation"):
        convert(original, tmp_path / "there", "coco")
    assert not (tmp_path / "there").exists()
    with pytest.raises(ConfigError, match=r"Unknown format \(got png, expected voc, coco"):
        convert(original, tmp_path / "there", "png")


def test_folder_that_cannot_be_written(tmp_path):
    original = write_set(tmp_path / "original", "voc")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot write the file: .*/file/out/images"):
        convert(original, tmp_path / "file/out", "coco")


@pytest.fixture
def command():
    app = typer.Typer()
    app.command()(convert_command)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_command(tmp_path, command):
    original = write_set(tmp_path / "original", "coco", seed=1)
    out = tmp_path / "there"
    done = command(original, out, "--to", "yolo", "--from", "coco", "--train-size", 0.5)
    assert done.exit_code == 0
    assert done.stdout == (
        f"Wrote 2 pictures for train, 2 pictures for val to {out} as yolo: 1 object, "
        "3 pictures without any\n"
    )
    assert done.stderr.startswith(
        "warning: YOLO cannot hold every mark, and crowds were left out: "
    )
    assert "crowd of 5 objects" in done.stderr
    done = command(original, tmp_path / "json", "--to", "csv", "--json", "--link")
    assert json.loads(done.stdout) == {
        "format": "csv",
        "images": {"": 4},
        "objects": 6,
        "negatives": 1,
        "losses": {},
        "out": str(tmp_path / "json"),
        "warning": None,
    }
