import json

import pytest
from factories import encoded, picture
from pycocotools.coco import COCO

from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.annotations.formats.coco_json import CocoWriter, open_coco
from appliance.annotations.formats.named_pictures import PictureFinder
from appliance.annotations.source import ObjectAnnotation, PictureAnnotation
from appliance.errors import DatasetError, LabelError, StorageError


def image(number, file_name, **more):
    return {"id": number, "file_name": file_name, "width": 96, "height": 64, **more}


def box(number, image_id, category_id, bbox=(1, 2, 30, 40), **more):
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(bbox),
        **more,
    }


def document(**changes):
    return {
        "info": {"year": 2017},
        "images": [image(7, "b.jpg"), image(3, "a.jpg")],
        "annotations": [
            box(1, 7, 18, (1.5, 2.25, 10, 20), iscrowd=0, segmentation=[[1, 2, 3, 4, 5, 6]]),
            box(2, 7, 2, iscrowd=1, segmentation={"counts": [1, 2], "size": [64, 96]}),
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 2, "name": " car "}],
        **changes,
    }


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def put_pictures(folder, *names):
    for name in names:
        put(folder / name, encoded(picture()))


def refusal(path):
    with pytest.raises(DatasetError) as caught:
        ObjectDetectionDataset.read(path)
    return caught.value.message.replace(str(path), "F")


def test_reads_boxes_crowds_and_the_order_of_the_ids(tmp_path):
    path = put(tmp_path / "set.json", document())
    put_pictures(tmp_path, "a.jpg", "b.jpg")
    source = open_coco(path)
    assert (source.format, source.labels) == ("coco", ("car", "dog"))
    first, second = source.entries
    assert (first.name, first.picture_path) == ("a", str(tmp_path / "a.jpg"))
    assert first.annotation_path == second.annotation_path == str(path)
    assert first.read() == PictureAnnotation((), (64, 96), "a.jpg")
    assert second.read() == PictureAnnotation(
        (
            ObjectAnnotation("dog", (1.5, 2.25, 11.5, 22.25)),
            ObjectAnnotation("car", (1, 2, 31, 42), crowd=True),
        ),
        (64, 96),
        "b.jpg",
    )


def test_extra_keys_are_read(tmp_path):
    annotations = [
        box(1, 3, 2, difficult=1, truncated=True),
        box(2, 3, 2, ignore=1, iscrowd=None),
    ]
    path = put(tmp_path / "set.json", document(annotations=annotations))
    first, second = open_coco(path).entries[0].read().objects
    assert (first.difficult, first.truncated, first.crowd) == (True, True, False)
    assert (second.difficult, second.truncated, second.crowd) == (True, False, False)


@pytest.mark.parametrize(
    ("json_file", "file_name", "where"),
    [
        ("set.json", "a.jpg", "a.jpg"),
        ("set.json", "a.jpg", "images/a.jpg"),
        ("result.json", "images/a.jpg", "images/a.jpg"),  # Label Studio
        ("train/_annotations.coco.json", "a.jpg", "train/a.jpg"),  # Roboflow
        ("annotations/instances_train2017.json", "a.jpg", "train2017/a.jpg"),
        ("annotations/instances_train2017.json", "a.jpg", "images/train2017/a.jpg"),
        ("annotations/instances_default.json", "b/a.jpg", "images/b/a.jpg"),  # CVAT
        ("annotations/instances_valid.json", "a.jpg", "images/val/a.jpg"),
        ("annotations/set.json", "a.jpg", "JPEGImages/a.jpg"),
        ("annotations/set.json", "../images/a.jpg", "images/a.jpg"),
        ("annotations/set.json", "a.jpg", "a.jpg"),
        ("set.json", "C:\\data\\photos\\a.jpg", "photos/a.jpg"),
        ("set.json", "/data/upload/1/a.jpg", "images/a.jpg"),
    ],
)
def test_usual_places_of_pictures(tmp_path, json_file, file_name, where):
    images = [image(3, file_name)]
    path = put(tmp_path / json_file, document(images=images, annotations=[box(1, 3, 2)]))
    put_pictures(tmp_path, where, "elsewhere/a.jpg")
    (entry,) = open_coco(path).entries
    assert entry.picture_path == str(tmp_path / where)


def test_places_are_relative_to_the_file_wherever_one_stands(tmp_path, monkeypatch):
    put(tmp_path / "annotations/set.json", document())
    put_pictures(tmp_path, "images/a.jpg", "images/b.jpg")
    monkeypatch.chdir(tmp_path / "annotations")
    assert [e.picture_path for e in open_coco("set.json").entries] == [
        "../images/a.jpg",
        "../images/b.jpg",
    ]
    monkeypatch.chdir(tmp_path)
    assert open_coco("annotations/set.json").entries[0].picture_path == "images/a.jpg"


def test_an_absolute_name_in_the_folder_of_the_data(tmp_path):
    put_pictures(tmp_path, "near/far/a.jpg", "near/a.jpg")
    images = [image(3, str(tmp_path / "near/far/a.jpg"))]
    path = put(tmp_path / "near/set.json", document(images=images, annotations=[]))
    (entry,) = open_coco(path).entries
    assert entry.picture_path == str(tmp_path / "near/far/a.jpg")


def test_folder_that_cannot_be_listed_holds_no_picture(tmp_path):
    finder = PictureFinder(f"memory://{tmp_path.name}/nowhere/set.json")
    assert finder.find("a.jpg") is None


def test_names_of_entries(tmp_path):
    names = ["images/train/m/1.jpg", "images/train/m/1.png", "images/train/m/2.jpg"]
    images = [image(number, name) for number, name in enumerate(names)]
    path = put(tmp_path / "set.json", document(images=images, annotations=[]))
    assert [entry.name for entry in open_coco(path).entries] == ["m/1.jpg", "m/1.png", "m/2"]


def test_a_picture_that_is_not_there(tmp_path):
    path = put(tmp_path / "set.json", document())
    put_pictures(tmp_path, "b.jpg")
    source = open_coco(path)
    assert [entry.picture_path for entry in source.entries] == [None, str(tmp_path / "b.jpg")]
    with pytest.raises(DatasetError, match=r"An annotation has no picture: .*set\.json .*a\.jpg"):
        source.refuse_faults()


def test_size_that_is_not_given(tmp_path):
    images = [image(3, "a.jpg", width=0), image(7, "b.jpg", height=None)]
    entries = open_coco(put(tmp_path / "s.json", document(images=images))).entries
    assert [entry.read().size_hw for entry in entries] == [None, None]


def test_heading_of_roboflow_is_no_class(tmp_path):
    categories = [
        {"id": 0, "name": "fridge", "supercategory": "none"},
        {"id": 1, "name": "egg", "supercategory": "fridge"},
    ]
    path = put(tmp_path / "s.json", document(categories=categories, annotations=[]))
    assert open_coco(path).labels == ("egg",)
    used = document(categories=categories, annotations=[box(1, 3, 0)])
    assert open_coco(put(tmp_path / "s.json", used)).labels == ("fridge", "egg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "The annotations are no JSON: F (got Expecting property name"),
        (b'{"images": "\xff"}', "The annotations are no JSON: F (got 'utf-8' codec"),
        (b"[" * 100_000, "The annotations are no JSON: F (got "),
        (
            [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}],
            "Not COCO annotations: F (got a list, as detections are written (COCO results)",
        ),
        ("text", "Not COCO annotations: F (got images is missing"),
        (document(images={"1": "a.jpg"}), "Not COCO annotations: F (got images is a dict"),
        (document(annotations=None), "Not COCO annotations: F (got annotations is missing"),
        (document(categories=["egg"]), "Not COCO annotations: F (got categories is a list of"),
        (document(images=[]), "The dataset is empty: F"),
        (document(images=[image(7, "a.jpg"), image(7, "b.jpg")]), "Two pictures have the same id"),
        (document(annotations=[box(1, 7, 2), box(1, 3, 2)]), "Two annotations have the same id"),
        (
            document(categories=[{"id": 2, "name": "a"}, {"id": 2, "name": "b"}]),
            "Two categories have the same id: F (got id 2 twice)",
        ),
        (
            document(categories=[{"id": 2, "name": "a"}, {"id": 3, "name": "a"}]),
            "A category stands twice: F (got a, expected one id for each name)",
        ),
        (
            document(categories=[{"id": 2.5, "name": "a"}]),
            "The id of a category is wrong: F (got 2.5, expected a number)",
        ),
        (document(categories=[{"id": 2}]), "A category has no name: F (got None for id 2)"),
        (
            document(images=[{"file_name": "a.jpg"}], annotations=[]),
            "The id of a picture is wrong: F (got None of a.jpg",
        ),
        (
            document(images=[image(True, "a.jpg")], annotations=[]),
            "The id of a picture is wrong: F (got True of a.jpg",
        ),
        (document(images=[image(3, "..")], annotations=[]), "A picture has no file name: F"),
        (
            document(images=[image(3, "a.jpg"), image(7, "./a.jpg")]),
            "A picture is listed twice: F (got ./a.jpg, expected one",
        ),
        (
            document(annotations=[box(1, 9, 2)]),
            (
                "An annotation belongs to no picture: F (got image_id 9 in annotation 1, expected "
                "the id of one of the images)"
            ),
        ),
        (document(annotations=[box(1, [], 2)]), "An annotation belongs to no picture: F"),
    ],
)
def test_documents_that_are_refused(tmp_path, content, message):
    put_pictures(tmp_path, "a.jpg", "b.jpg")
    assert refusal(put(tmp_path / "set.json", content)).startswith(message)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (box(1, 3, 99), "Annotation 1 of a.jpg has an unknown category: F (got category_id 99"),
        (box(1, 3, {}), "Annotation 1 of a.jpg has an unknown category: F (got category_id {}"),
        (
            box(1, 3, 2, (1, 2, 3)),
            "Annotation 1 of a.jpg (car) has no usable bbox: F (got [1, 2, 3]",
        ),
        (box(1, 3, 2, (1, 2, 3, "4")), "Annotation 1 of a.jpg (car) has no usable bbox"),
        (box(1, 3, 2, (1, 2, 3, True)), "Annotation 1 of a.jpg (car) has no usable bbox"),
        (box(1, 3, 2, (1, 2, 3, float("nan"))), "Annotation 1 of a.jpg (car) has no usable bbox"),
        (
            box(1, 3, 2, iscrowd=2),
            "Annotation 1 of a.jpg: iscrowd is wrong: F (got 2, expected 0 or 1)",
        ),
        (box(1, 3, 2, difficult="no"), "Annotation 1 of a.jpg: difficult is wrong"),
    ],
)
def test_objects_that_are_refused_when_their_picture_is_read(tmp_path, annotation, message):
    path = put(tmp_path / "set.json", document(annotations=[annotation]))
    entry = open_coco(path).entries[0]
    with pytest.raises(DatasetError) as caught:
        entry.read()
    assert caught.value.message.replace(str(path), "F").startswith(message)


def test_missing_file(tmp_path):
    with pytest.raises(StorageError, match="nothing.json"):
        open_coco(tmp_path / "nothing.json")


def test_as_a_dataset(tmp_path):
    path = put(tmp_path / "set.json", document())
    put_pictures(tmp_path, "a.jpg", "b.jpg")
    dataset = ObjectDetectionDataset.read(path)
    assert repr(dataset) == "ObjectDetectionDataset('set.json', 2 images, 2 classes)"
    assert dataset.label_map.names == ("car", "dog")
    assert dataset.negatives == 1
    assert dataset.images[1].crowd.tolist() == [False, True]
    assert (
        ObjectDetectionDataset.read(path, "dogs", labels=["dog", "car"]).label_map.id_of("dog") == 1
    )
    with pytest.raises(LabelError, match="Unknown label 'dog'"):
        ObjectDetectionDataset.read(path, labels=["car"])


def test_what_is_written_is_read_by_the_reference(tmp_path, capsys):
    writer = CocoWriter(("dog", "Kätzchen"))
    objects = (
        ObjectAnnotation("Kätzchen", (1.5, 2, 11, 22), difficult=True, truncated=True),
        ObjectAnnotation("dog", (0, 0, 96, 64), crowd=True),
    )
    writer.add(None, "m/b.jpg", PictureAnnotation(objects, (64, 96)))
    writer.add(None, "a.jpg", PictureAnnotation((), (64, 96)))
    ((name, data),) = writer.last_files()
    assert name == "annotations/instances.json"
    path = put(tmp_path / name, data)
    reference = COCO(str(path))
    capsys.readouterr()
    assert [c["name"] for c in reference.loadCats(reference.getCatIds())] == ["dog", "Kätzchen"]
    assert reference.loadImgs([1, 2])[0] == image(1, "m/b.jpg")
    kitten, dogs = reference.loadAnns(reference.getAnnIds())
    assert kitten == box(
        1, 1, 2, (1.5, 2, 9.5, 20), area=190, iscrowd=0, difficult=1, ignore=1, truncated=1
    )
    assert dogs == box(2, 1, 1, (0, 0, 96, 64), area=6144, iscrowd=1)
    assert open_coco(path).entries[1].read().objects == objects
