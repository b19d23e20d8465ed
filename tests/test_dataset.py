import logging
import random
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from factories import encoded, jpeg_bytes, picture
from PIL import Image, ImageDraw

from appliance.annotations.dataset import AnnotatedImage, ObjectDetectionDataset
from appliance.annotations.formats import pascal_voc
from appliance.annotations.source import ObjectAnnotation, PictureAnnotation
from appliance.annotations.splitting import stratified_indices
from appliance.annotations.statistics import DatasetStatistics
from appliance.errors import ConfigError, DatasetError, LabelError, StorageError
from appliance.images.decoding import decode_image
from appliance.images.header import PictureHeader
from appliance.labels import Label, LabelMap


def add(folder, name, *objects, size_wh=(96, 64), size_hw=None, filename=None, data=None):
    """Puts a picture and its annotation into a Pascal VOC folder."""
    path = folder / "JPEGImages" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data or encoded(picture(size_wh), "PNG" if name.endswith("png") else "JPEG"))
    annotation = PictureAnnotation(
        tuple(ObjectAnnotation(*item) for item in objects), size_hw, filename
    )
    pascal_voc.write(folder / "Annotations" / f"{path.stem}.xml", annotation)
    return path


def load(folder, **options):
    return ObjectDetectionDataset.create_from_dir("set", folder, **options)


def test_reads_a_folder(tmp_path):
    add(tmp_path, "b.JPG", ("water", (1, 2, 30, 40), True), ("egg", (0, 0, 96, 64)))
    add(tmp_path, "a.png", ("egg", (5.5, 6, 7, 8)), size_hw=(64, 96), filename="other.jpg")
    add(tmp_path, "c.jpeg")
    dataset = load(tmp_path)
    assert repr(dataset) == "ObjectDetectionDataset('set', 3 images, 2 classes)"
    assert len(dataset) == 3
    assert dataset.labels == [Label("egg"), Label("water")]
    first, second, negative = dataset.images
    assert first.name == "a.png"
    assert first.storage_path == str(tmp_path / "JPEGImages/a.png")
    assert first.annotation_path == str(tmp_path / "Annotations/a.xml")
    assert first.boxes_xyxy.tolist() == [[5.5, 6, 7, 8]]
    assert second.name == "b.JPG"
    assert second.size_hw == (64, 96)
    assert second.boxes_xyxy.dtype == np.float32
    assert second.label_names == ("water", "egg")
    assert second.difficult.tolist() == [True, False]
    assert len(second) == 2
    assert negative.boxes_xyxy.shape == (0, 4)
    assert negative.difficult.shape == (0,)
    assert negative.label_names == ()


def test_arrays_are_read_only_copies():
    boxes = np.array([[1, 2, 3, 4]], np.float32)
    image = AnnotatedImage("a.jpg", "a.jpg", (10, 10), boxes, ("egg",), [False])
    boxes[:] = 0
    assert image.boxes_xyxy.tolist() == [[1, 2, 3, 4]]
    with pytest.raises(ValueError, match="read-only"):
        image.boxes_xyxy[0, 0] = 5


def test_marks_are_false_unless_given():
    image = AnnotatedImage("a.jpg", "a.jpg", (10, 10), [[1, 2, 3, 4]], ("egg",), [True])
    assert image.truncated.tolist() == image.crowd.tolist() == [False]
    marked = replace(image, truncated=[True], crowd=[True])
    assert marked.truncated.dtype == marked.crowd.dtype == np.bool_
    assert marked.truncated.tolist() == marked.crowd.tolist() == [True]
    with pytest.raises(ValueError, match="differ in length: 1, 1, 1, 2, 1"):
        replace(image, truncated=[True, True], crowd=[])


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="differ in length: 1, 0, 1"):
        AnnotatedImage("a.jpg", "a.jpg", (10, 10), [[1, 2, 3, 4]], (), [False])


def test_other_folder_names_and_subfolders(tmp_path):
    add(tmp_path, "a.jpg", ("egg", (1, 2, 3, 4)))
    for old, new in (("JPEGImages", "pictures/monday"), ("Annotations", "xml/monday")):
        (tmp_path / new).parent.mkdir()
        (tmp_path / old).rename(tmp_path / new)
    dataset = load(f"file://{tmp_path}", annotations_dir="xml", image_subdirectory="pictures")
    assert [image.name for image in dataset.images] == ["a.jpg"]


def test_given_labels_decide_the_order(tmp_path):
    add(tmp_path, "a.jpg", ("egg", (1, 2, 3, 4)))
    dataset = load(tmp_path, labels=["water", Label("egg")])
    assert dataset.label_map.class_map == {"water": 1, "egg": 2}
    assert load(tmp_path, labels=dataset.label_map).label_map == dataset.label_map


def test_class_that_training_never_saw(tmp_path):
    add(tmp_path, "a.jpg", ("egg", (1, 2, 3, 4)), ("soap", (1, 2, 3, 4)))
    with pytest.raises(LabelError) as caught:
        load(tmp_path, labels=["water", "egg"])
    assert str(caught.value) == (
        f"Unknown label 'soap': {tmp_path}/Annotations/a.xml (expected one of water, egg). "
        "Correct the label, or train a model that knows the class."
    )


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(StorageError, match="No such dataset folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"no folder of annotations: .*/Annotations"):
        load(tmp_path)
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(DatasetError, match=r"no folder of pictures: .*/JPEGImages"):
        load(tmp_path)
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(DatasetError, match="The dataset is empty"):
        load(tmp_path)


def test_picture_without_annotation_and_the_reverse(tmp_path):
    path = add(tmp_path, "a.jpg", ("egg", (1, 2, 3, 4)))
    shutil.copy(path, path.with_name("b.jpg"))
    with pytest.raises(DatasetError, match=r"A picture has no annotation: .*b\.jpg .*b\.xml"):
        load(tmp_path)
    path.with_name("b.jpg").unlink()
    path.unlink()
    with pytest.raises(DatasetError, match=r"An annotation has no picture: .*a\.xml .*a\.jpg"):
        load(tmp_path)


def test_two_pictures_of_one_name(tmp_path):
    add(tmp_path, "a.jpg", ("egg", (1, 2, 3, 4)))
    add(tmp_path, "a.png", ("egg", (1, 2, 3, 4)))
    with pytest.raises(DatasetError, match=r"Two pictures share one name.*a\.png"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ((5, 5, 5, 9), "has no area"),
        ((5, 9, 8, 5), "has no area"),
        ((96, 5, 99, 9), "lies outside the picture"),
        ((-9, 5, 0, 9), "lies outside the picture"),
        ((5, 64, 9, 70), "lies outside the picture"),
    ],
)
def test_unusable_boxes_are_named(tmp_path, box, fault):
    add(tmp_path, "a.jpg", ("egg", (1, 2, 3, 4)), ("cup", box))
    with pytest.raises(DatasetError) as caught:
        load(tmp_path)
    x1, y1, x2, y2 = box
    assert caught.value.message == (
        f"The box of object 2 (cup) {fault}: {tmp_path}/Annotations/a.xml (got xmin {x1}, "
        f"ymin {y1}, xmax {x2}, ymax {y2}, expected xmin < xmax and ymin < ymax within "
        "96x64 pixels)"
    )


def test_boxes_over_the_edge_are_clipped_and_counted(tmp_path, caplog):
    add(tmp_path, "a.jpg", ("egg", (-2, 3, 50, 65)), ("egg", (1, 2, 3, 4)))
    add(tmp_path, "b.jpg", ("egg", (90, 3, 97, 20)))
    with caplog.at_level(logging.WARNING):
        dataset = load(tmp_path)
    assert dataset.images[0].boxes_xyxy.tolist() == [[0, 3, 50, 64], [1, 2, 3, 4]]
    assert dataset.images[1].boxes_xyxy.tolist() == [[90, 3, 96, 20]]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: 2 boxes reached over the edge and were clipped"
    ]


def test_size_disagreement(tmp_path):
    add(tmp_path, "a.jpg", ("egg", (1, 2, 3, 4)), size_hw=(640, 960))
    with pytest.raises(
        DatasetError, match=r"960x640 in the annotation, expected 96x64 as the picture"
    ):
        load(tmp_path)


@pytest.mark.parametrize("data", [b"no picture", jpeg_bytes()[:20], b"RIFF\0\0\0\0WEBPVP8 "])
def test_unreadable_picture(tmp_path, data):
    add(tmp_path, "a.jpg", ("egg", (1, 2, 3, 4)), data=data)
    with pytest.raises(DatasetError, match=r"A picture of the dataset cannot be read: .*a\.jpg"):
        load(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("tool_applies_exif", [True, False])
def test_exif_rotation_keeps_boxes_in_place(tmp_path, orientation, tool_applies_exif):
    # A red rectangle is drawn into the stored pixels; wherever it shows up, there the box must be.
    stored = Image.new("RGB", (80, 48), "white")
    ImageDraw.Draw(stored).rectangle((8, 16, 31, 23), fill="red")
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "PNG", exif=exif)
    pixels = decode_image(data, source="a.png").pixels.numpy()
    rows, columns = np.nonzero(pixels[1] == 0)
    upright_box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    swaps = orientation >= 5
    if tool_applies_exif or not swaps:
        box, size_hw = upright_box, pixels.shape[1:]
    else:
        box, size_hw = (8, 16, 32, 24), (48, 80)
    add(tmp_path, "a.png", ("egg", box), size_hw=size_hw, data=data)
    (image,) = load(tmp_path).images
    assert image.size_hw == ((80, 48) if swaps else (48, 80))
    assert image.boxes_xyxy.tolist() == [[float(value) for value in upright_box]]


def test_invalid_exif_orientation_is_none(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 77
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes((40, 20), exif=exif))
    assert PictureHeader.read(str(tmp_path / "a.jpg")) == PictureHeader((20, 40), 1)


def test_only_negatives_need_labels(tmp_path):
    add(tmp_path, "a.jpg")
    with pytest.raises(DatasetError, match="No picture of the dataset shows any object"):
        load(tmp_path)
    dataset = load(tmp_path, labels=["egg"])
    assert dataset.statistics().describe("empty").splitlines() == [
        "Dataset name: empty",
        "Total classes: 1, total images: 1",
        "Label-wise object counts:",
        "    Label egg: 0 objects",
        "Bounding box width and height distribution:",
        "    Bounding box widths  unknown: there are no boxes",
        "    Bounding box heights unknown: there are no boxes",
    ]


def test_no_pictures():
    with pytest.raises(DatasetError, match="The dataset has no pictures: nothing"):
        ObjectDetectionDataset("nothing", [], LabelMap(("egg",)))


def test_print_info_has_the_layout_of_the_first_system(tmp_path, capsys):
    widths = (54, 61, 79, 90)
    objects = [("egg", (0, 0, width, width / 2)) for width in widths]
    add(tmp_path, "a.jpg", *objects, ("water", (1, 1, 2, 2)))
    load(tmp_path).print_info()
    assert capsys.readouterr().out == (
        "Dataset name: set\n"
        "Total classes: 2, total images: 1\n"
        "Label-wise object counts:\n"
        "    Label egg: 4 objects\n"
        "    Label water: 1 objects\n"
        "Bounding box width and height distribution:\n"
        "    Bounding box widths  0/5/25/50/75/95/100-percentile: 1/12/54/61/79/88/90 pixels\n"
        "    Bounding box heights 0/5/25/50/75/95/100-percentile: 1/6/27/30/40/44/45 pixels\n"
    )


def image_of(name, *labels):
    boxes = np.tile(np.array([[1, 2, 3, 4]], np.float32), (len(labels), 1))
    return AnnotatedImage(name, name, (10, 10), boxes, labels, np.zeros(len(labels), bool))


def dataset_of(*label_sets):
    images = [image_of(f"{index}.jpg", *labels) for index, labels in enumerate(label_sets)]
    return ObjectDetectionDataset("set", images, LabelMap(("egg", "rare", "water")))


def test_split_is_deterministic_and_shares_labels_out():
    dataset = dataset_of(*[("egg",)] * 12, *[("water",)] * 8, ("rare", "egg"), (), (), ())
    train, test = dataset.split(0.75, seed=3)
    assert (train.name, test.name) == ("set (train)", "set (test)")
    assert len(train) == 18
    assert len(test) == 6
    assert train.label_map == test.label_map == dataset.label_map
    counts = DatasetStatistics.of(test.images, test.label_map)
    assert counts.object_counts == {"egg": 3, "rare": 0, "water": 2}
    assert counts.empty_image_count == 1
    names = [image.name for image in train.images]
    assert set(names) | {image.name for image in test.images} == {f"{i}.jpg" for i in range(24)}
    again, _ = dataset.split(0.75, seed=3)
    assert [image.name for image in again.images] == names
    other, _ = dataset.split(0.75, seed=4)
    assert [image.name for image in other.images] != names


@pytest.mark.parametrize("seed", range(5))
def test_split_trains_on_a_label_that_occurs_once(seed):
    dataset = dataset_of(*[("egg", "water")] * 3, ("rare",))
    train, _ = dataset.split(0.5, seed=seed)
    assert any("rare" in image.label_names for image in train.images)


@pytest.mark.parametrize(("train_size", "expected"), [(0.01, 1), (0.99, 3)])
def test_split_leaves_no_part_empty(train_size, expected):
    assert len(dataset_of(("egg",), ("egg",), ("egg",), ()).split(train_size)[0]) == expected


@pytest.mark.parametrize("train_size", [0, 1, -0.5, 20])
def test_split_share_must_be_a_share(train_size):
    with pytest.raises(ConfigError, match="train_size is wrong"):
        dataset_of(("egg",), ("egg",)).split(train_size)


def test_split_of_a_single_picture():
    with pytest.raises(DatasetError, match="too small to be divided"):
        dataset_of(("egg",)).split(0.5)


def quadratic_split(label_sets, train_size, seed):
    """The rule of the split, as plainly as it can be written: slow, and free of clever structures."""
    label_sets = [labels or {"nothing"} for labels in label_sets]
    total = len(label_sets)
    room = {True: round(total * train_size)}
    room[False] = total - room[True]
    counts = Counter(label for labels in label_sets for label in labels)
    lacking = {
        (label, part): count * room[part] / total
        for label, count in counts.items()
        for part in room
    }
    waiting = list(range(total))
    random.Random(seed).shuffle(waiting)
    chosen = set()
    while waiting:
        left = Counter(label for index in waiting for label in label_sets[index])
        # Of equally rare labels the first of the alphabet; to show nothing stands before all.
        rarest = min(left, key=lambda label: (left[label], label != "nothing", label))
        index = next(index for index in waiting if rarest in label_sets[index])
        waiting.remove(index)
        open_parts = [part for part in (False, True) if room[part]]
        part = max(open_parts, key=lambda p: (round(lacking[rarest, p], 6), room[p], p))
        room[part] -= 1
        for label in label_sets[index]:
            lacking[label, part] -= 1
        chosen |= {index} if part else set()
    return chosen


@pytest.mark.parametrize("seed", range(8))
def test_split_follows_its_rule(seed):
    rng = random.Random(seed)
    labels = [f"class{number}" for number in range(9)]
    label_sets = [frozenset(rng.choices(labels, k=rng.randint(0, 4))) for _ in range(150)]
    assert stratified_indices(label_sets, 0.7, seed) == quadratic_split(label_sets, 0.7, seed)


def test_split_of_very_many_pictures():
    # With a search through all pictures for each of them this would take an hour.
    label_sets = [frozenset({f"class{index % 97}"}) for index in range(50_000)]
    chosen = stratified_indices(label_sets, 0.8, seed=0)
    assert len(chosen) == 40_000
    counts = Counter(index % 97 for index in chosen)
    assert all(abs(count - 0.8 * 50_000 / 97) < 10 for count in counts.values())


def test_split_shares_negatives_out():
    train, test = dataset_of(*[("egg",)] * 10, *[()] * 10).split(0.7)
    assert (len(train), train.negatives) == (14, 7)
    assert (len(test), test.negatives) == (6, 3)


def test_split_by_chance_alone():
    dataset = dataset_of(*[("egg",)] * 90, *[("water",)] * 10)
    train, test = dataset.split(0.5, stratify=False, seed=1)
    assert (len(train), len(test)) == (50, 50)
    assert train.statistics().object_counts["water"] != 5
    again, _ = dataset.split(0.5, stratify=False, seed=1)
    assert [image.name for image in again.images] == [image.name for image in train.images]


def dataset_named(name, labels, **label_sets):
    images = [image_of(f"{name}/{key}.jpg", *shown) for key, shown in label_sets.items()]
    return ObjectDetectionDataset(name, images, LabelMap(labels))


def test_merge_keeps_ids_and_appends_new_classes():
    first = dataset_named("first", ("water", "egg"), a=("egg",))
    second = dataset_named("second", ("apple", "egg"), a=("apple",), b=())
    merged = first.merge(second, dataset_named("third", ("soap",), a=("soap",)))
    assert merged.name == "first + second + third"
    assert merged.label_map.class_map == {"water": 1, "egg": 2, "apple": 3, "soap": 4}
    assert [image.name for image in merged.images] == [
        "first/a.jpg",
        "second/a.jpg",
        "second/b.jpg",
        "third/a.jpg",
    ]
    assert merged.negatives == 1
    assert first.merge(second, name="both").name == "both"
    assert first.merge().label_map == first.label_map


def test_merge_takes_no_picture_twice():
    first = dataset_named("first", ("egg",), a=("egg",))
    with pytest.raises(DatasetError) as caught:
        first.merge(ObjectDetectionDataset("more", first.images, first.label_map))
    assert caught.value.message == (
        "A picture would be in the merged dataset twice: first/a.jpg (got in first and in more)"
    )


def test_filter_keeps_the_objects_of_some_classes():
    boxes = [[1, 1, 2, 2], [2, 2, 3, 3], [3, 3, 4, 4]]
    marks = {"difficult": [1, 0, 1], "truncated": [0, 0, 1], "crowd": [0, 1, 0]}
    image = AnnotatedImage("a.jpg", "a.jpg", (9, 9), boxes, ("egg", "water", "egg"), **marks)
    images = [image, image_of("b.jpg", "water"), image_of("c.jpg")]
    dataset = ObjectDetectionDataset("set", images, LabelMap(("water", "egg", "soap")))
    eggs = dataset.filter([Label("soap"), "egg"])
    assert eggs.label_map.class_map == {"soap": 1, "egg": 2}
    assert [image.name for image in eggs.images] == ["a.jpg", "b.jpg", "c.jpg"]
    assert eggs.negatives == 2
    kept = eggs.images[0]
    assert kept.label_names == ("egg", "egg")
    assert kept.boxes_xyxy.tolist() == [boxes[0], boxes[2]]
    assert (kept.difficult.tolist(), kept.truncated.tolist()) == ([True, True], [False, True])
    assert not kept.crowd.any()
    assert len(dataset.filter(["egg"], keep_empty=False, name="eggs")) == 1
    assert dataset.filter(["egg"], keep_empty=False, name="eggs").name == "eggs"
    assert len(dataset) == 3
    assert len(dataset.images[0]) == 3
    with pytest.raises(LabelError, match="Unknown label: yak"):
        dataset.filter(["yak"])
    with pytest.raises(DatasetError, match="no pictures"):
        dataset.filter(["soap"], keep_empty=False)


def test_digest_knows_crowds():
    plain = dataset_of(("egg",))
    crowd = ObjectDetectionDataset("set", [replace(plain.images[0], crowd=[True])], plain.label_map)
    assert crowd.digest() != plain.digest()


def test_digest_changes_with_content_and_not_with_place(tmp_path):
    add(tmp_path / "a", "a.jpg", ("egg", (1, 2, 3, 4)))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    original = load(tmp_path / "a")
    assert len(original.digest()) == 64
    assert original.digest() == load(tmp_path / "b").digest()
    assert original.digest() != load(tmp_path / "a", labels=["egg", "water"]).digest()
    add(tmp_path / "b", "a.jpg", ("egg", (1, 2, 3, 5)))
    assert original.digest() != load(tmp_path / "b").digest()


def test_visualize_bounding_boxes(tmp_path):
    add(tmp_path, "a.jpg", ("egg", (10, 20, 60, 50)))
    axes = load(tmp_path).images[0].visualize_bounding_boxes(image_size=(5, 4))
    assert axes.get_figure().get_size_inches().tolist() == [5, 4]
    assert axes.get_title() == "a.jpg"
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape == (64, 96, 3)
    assert shown[35, 10].tolist() == [230, 159, 0]


def test_a_class_has_one_colour_in_the_whole_dataset(tmp_path):
    add(tmp_path, "a.png", ("water", (10, 20, 60, 50)))
    add(tmp_path, "b.png", ("egg", (10, 20, 60, 50)))
    add(tmp_path, "c.png")
    water, _, empty = (
        np.asarray(image.visualize_bounding_boxes().images[0].get_array())
        for image in load(tmp_path).images
    )
    assert water[35, 10].tolist() == [86, 180, 233]  # the second colour: egg comes first
    assert empty.shape == (64, 96, 3)


def test_fridge_pictures(shared_dir):
    dataset = ObjectDetectionDataset.create_from_dir("fridge", shared_dir / "data/fridge/train")
    counts = dict.fromkeys(dataset.label_map.names, 20)
    assert dataset.statistics().object_counts == {**counts, "squash": 40}
    train, test = dataset.split(0.75)
    assert (len(train), len(test)) == (15, 5)
