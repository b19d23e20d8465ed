import json

import pytest
from factories import encoded, picture

from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.annotations.formats import pascal_voc
from appliance.annotations.formats.opening import detect_format, open_source, parts_of
from appliance.annotations.source import ObjectAnnotation, PictureAnnotation
from appliance.errors import ConfigError, DatasetError, InputError, StorageError

EGG = ObjectAnnotation("egg", (24, 16, 72, 48))
CSV = "image,label,xmin,ymin,xmax,ymax\n1.jpg,egg,24,16,72,48\n"
COCO = json.dumps(
    {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 96, "height": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [24, 16, 48, 32]}],
        "categories": [{"id": 1, "name": "egg"}],
    }
)
YOLO = "0 0.5 0.5 0.5 0.5\n"


@pytest.fixture
def put(tmp_path):
    """Makes files, each with the content that its ending asks for."""

    def write(*names, **contents):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("jpg"):
                path.write_bytes(encoded(picture()))
            elif name.endswith("xml"):
                pascal_voc.write(path, PictureAnnotation((EGG,)))
            else:
                default = {"json": COCO, "csv": CSV, "txt": YOLO, "yaml": "names: [egg]\n"}
                path.write_text(contents.get(path.stem, default[path.suffix[1:]]))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["Annotations/1.xml", "JPEGImages/1.jpg"], "voc"),
        (["1.xml", "1.jpg"], "voc"),
        (["annotations/instances_default.json", "images/1.jpg"], "coco"),
        (["_annotations.coco.json", "1.jpg"], "coco"),
        (["data.yaml", "images/1.jpg", "labels/1.txt"], "yolo"),
        (["classes.txt", "1.jpg", "1.txt"], "yolo"),
        (["labels.csv", "1.jpg"], "csv"),
    ],
)
def test_detection_and_one_dataset_whatever_the_format(put, files, expected):
    folder = put(*files, classes="egg")
    assert detect_format(folder) == detect_format(f"{folder}/") == expected
    assert parts_of(folder) == {}
    for kind in ("auto", expected):
        dataset = ObjectDetectionDataset.read(folder, format=kind)
        assert dataset.name == folder.name
        (image,) = dataset.images
        assert (image.name, image.label_names) == ("1.jpg", ("egg",))
        assert image.boxes_xyxy.tolist() == [[24, 16, 72, 48]]


@pytest.mark.parametrize(
    ("file", "expected"),
    [("a.JSON", "coco"), ("a.csv", "csv"), ("a.tsv", "csv"), ("a.yml", "yolo"), ("a.txt", "yolo")],
)
def test_a_file_says_its_format_by_its_ending(file, expected):
    assert detect_format(file) == expected
    assert detect_format(f"s3://bucket/set/{file}?region=eu-west-1") == expected


def test_files_that_only_look_like_annotations_do_not_confuse(put):
    folder = put(
        "Annotations/1.xml",
        "JPEGImages/1.jpg",
        "detections.json",
        "scores.csv",
        "conda.yaml",
        "classes.txt",
        "notes.txt",
        detections='[{"image_id": 1}]',
        scores="image,score\n1.jpg,0.5\n",
        conda="name: names\n",
    )
    assert detect_format(folder) == "voc"
    assert len(open_source(folder).entries) == 1


def test_two_formats_fit(put):
    folder = put("1.xml", "1.jpg", "set.json", "set.csv", "1.txt", "classes.txt", classes="egg")
    with pytest.raises(DatasetError) as caught:
        open_source(folder)
    assert str(caught.value) == (
        f"The data fits several formats: {folder} (got voc (1.xml) and coco (set.json) and yolo "
        "(1.txt) and csv (set.csv), expected one). Name the format."
    )
    for kind in ("voc", "coco", "yolo", "csv"):
        source = open_source(folder, kind)
        assert source.format == kind
        assert [o.box_xyxy for e in source.entries for o in e.read().objects] == [EGG.box_xyxy]


def test_no_format_fits(put):
    folder = put("photos/1.jpg", "photos/2.jpg", "notes.txt")
    with pytest.raises(DatasetError) as caught:
        open_source(folder)
    assert caught.value.message == (
        f"No annotations found: {folder} (got 2 pictures without annotations, expected Pascal VOC "
        "(XML files in Annotations/ or beside the pictures), COCO (a .json in the folder, in "
        "annotations/ or in train/), YOLO (data.yaml, or text files in labels/ or beside the "
        "pictures) or CSV (a .csv in the folder or in train/))"
    )


def test_nothing_is_there(tmp_path):
    with pytest.raises(DatasetError, match="No annotations found.*got no pictures either"):
        open_source(tmp_path)
    with pytest.raises(StorageError, match="No such dataset folder"):
        open_source(tmp_path / "nowhere")
    for file in ("nothing.json", "nothing.csv", "nothing.txt"):
        with pytest.raises(StorageError, match="No such file"):
            open_source(tmp_path / file)
    with pytest.raises(ConfigError, match=r"Unknown format \(got xml, expected auto, voc, coco"):
        open_source(tmp_path, "xml")


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        (
            ["test/Annotations/1.xml", "test/JPEGImages/1.jpg", "train/1.xml", "train/1.jpg"],
            {"train": "train", "test": "test"},
        ),
        (
            ["train/_annotations.coco.json", "train/1.jpg", "valid/x.json", "valid/1.jpg"],
            {"train": "train/_annotations.coco.json", "valid": "valid/x.json"},
        ),
        (
            [
                "annotations/instances_val2017.json",
                "annotations/instances_train2017.json",
                "annotations/captions_train2017.json",
                "annotations/person_keypoints_val2017.json",
                "train2017/1.jpg",
                "val2017/1.jpg",
            ],
            {
                "train": "annotations/instances_train2017.json",
                "val": "annotations/instances_val2017.json",
            },
        ),
        (
            ["train.csv", "Test.csv", "train/1.jpg", "test/1.jpg"],
            {"train": "train.csv", "test": "Test.csv"},
        ),
        (
            ["train/_annotations.csv", "train/1.jpg", "test/_annotations.csv", "test/1.jpg"],
            {"train": "train/_annotations.csv", "test": "test/_annotations.csv"},
        ),
        (
            ["train/images/1.jpg", "train/labels/1.txt", "test/images/1.jpg", "test/labels/1.txt"],
            {"train": "train", "test": "test"},
        ),
    ],
)
def test_parts(put, files, parts):
    folder = put(*files)
    put("classes.txt", classes="egg")
    assert parts_of(folder) == {part: f"{folder}/{place}" for part, place in parts.items()}
    for part, place in parts_of(folder).items():
        by_address = open_source(f"{folder}#{part}")
        assert by_address.root == place
        for source in (by_address, open_source(place), open_source(folder, part=part)):
            source.refuse_faults()
            assert [o.box_xyxy for e in source.entries for o in e.read().objects] == [EGG.box_xyxy]
    with pytest.raises(DatasetError) as caught:
        open_source(folder)
    names = ", ".join(parts)
    assert str(caught.value) == (
        f"The data is divided into parts: {folder} (got {names}, expected one of them). "
        f"Give {folder}#train."
    )
    with pytest.raises(DatasetError, match=f"no such part: .* [(]got dev, expected one of {names}"):
        open_source(folder, part="dev")


def test_one_part_alone_need_not_be_named(put):
    folder = put("annotations/instances_train2017.json", "train2017/1.jpg")
    assert list(parts_of(folder)) == ["train"]
    assert len(open_source(folder).entries) == 1
    assert parts_of(f"{folder}#train") == {}


def test_val_valid_and_validation_are_one_word(put):
    folder = put("train/1.xml", "train/1.jpg", "valid/1.xml", "valid/1.jpg")
    for word in ("val", "valid", "validation"):
        assert open_source(folder, part=word).root == f"{folder}/valid"


def test_part_of_data_that_is_not_divided(put):
    folder = put("1.xml", "1.jpg")
    with pytest.raises(DatasetError, match="no such part.*expected none, for it is not divided"):
        open_source(folder, part="train")
    folder = put("set/set.json", "set/1.jpg") / "set"
    with pytest.raises(DatasetError, match="no such part.*expected none, for it is not divided"):
        open_source(f"{folder}#train")


def test_folders_named_after_parts_below_annotations_are_no_parts(put):
    folder = put("Annotations/train/1.xml", "JPEGImages/train/1.jpg")
    assert parts_of(folder) == {}
    assert [entry.name for entry in open_source(folder).entries] == ["train/1"]


@pytest.mark.parametrize(
    "files",
    [
        ["1.xml", "1.jpg", "train/2.xml", "train/2.jpg"],
        ["1.txt", "1.jpg", "images/train/2.jpg", "labels/train/2.txt", "classes.txt"],
        ["labels/1.txt", "images/1.jpg", "images/train/2.jpg", "labels/train/2.txt", "classes.txt"],
    ],
)
def test_nothing_at_the_top_is_left_out(put, files):
    folder = put(*files, classes="egg")
    assert parts_of(folder) == {}
    assert [len(entry.read().objects) for entry in open_source(folder).entries] == [1, 1]


def test_path_that_holds_the_mark_of_a_part(put):
    folder = put("set#train/1.xml", "set#train/1.jpg") / "set#train"
    assert len(open_source(folder).entries) == 1
    folder = put("a#b/1.xml", "a#b/1.jpg") / "a#b"
    assert len(open_source(folder).entries) == 1


def test_a_format_that_the_data_is_not_in(put):
    folder = put("Annotations/1.xml", "JPEGImages/1.jpg")
    voc = "Pascal VOC (XML files in Annotations/ or beside the pictures)"
    for kind, expected in {
        "coco": "COCO (a .json in the folder, in annotations/ or in train/)",
        "csv": "CSV (a .csv in the folder or in train/)",
        "yolo": "YOLO (data.yaml, or text files in labels/ or beside the pictures)",
    }.items():
        with pytest.raises(DatasetError) as caught:
            open_source(folder, kind)
        assert str(caught.value) == (
            f"No {kind.upper()} annotations found: {folder} (got {voc}, expected {expected}). Name "
            "the right format, or none to have it found out."
        )
    with pytest.raises(
        DatasetError, match=r"No CSV annotations found: .*JPEGImages [(]expected CSV"
    ):
        open_source(folder / "JPEGImages", "csv")


def test_paths_that_are_no_data(put):
    folder = put("1.xml", "1.jpg")
    for path, message in {
        "": "The path of the data is empty. Give a folder or file; . is the present folder.",
        f"{folder}#bogus": (
            f"No such part: {folder} (got bogus, expected one of train, valid, val, validation, test)"
        ),
        f"{folder}/1.jpg": (
            f"Not a folder of annotated pictures: {folder}/1.jpg (got a picture, expected a folder, or "
            "a file of annotations (.json, .csv, .tsv, .yaml, .txt)). Give the folder that holds the "
            "pictures with their annotations."
        ),
        f"{folder}/1.xml": f"Not a folder of annotated pictures: {folder}/1.xml (got a file,",
        f"{folder}/nowhere#bogus": f"No such dataset folder: {folder}/nowhere#bogus. Check the path",
    }.items():
        for read in (open_source, parts_of, detect_format):
            with pytest.raises(InputError) as caught:
                read(path)
            assert str(caught.value).startswith(message)


def test_a_misspelt_part_is_answered_with_the_nearest_that_is_there(put):
    folder = put("train/1.xml", "train/1.jpg", "test/1.xml", "test/1.jpg")
    for given, near in (("trian", "train"), ("tset", "test")):
        with pytest.raises(DatasetError) as caught:
            open_source(f"{folder}#{given}")
        assert str(caught.value) == (
            f"No such part: {folder} (got {given}, expected one of train, test). Did you mean "
            f"{folder}#{near}."
        )


@pytest.mark.parametrize("names", [("a.json", "b.json"), ("train.csv", "more.csv")])
def test_several_files_of_which_one_must_be_named(put, names):
    folder = put(*names, "1.jpg")
    with pytest.raises(
        DatasetError, match=r"Several files hold annotations.*expected one, or one for"
    ):
        open_source(folder)
    assert len(open_source(folder / names[1]).entries) == 1


def test_other_names_of_pascal_voc_folders(put):
    folder = put("xml/1.xml", "photos/1.jpg")
    source = open_source(folder, annotations_dir="xml", image_subdirectory="photos")
    assert [entry.name for entry in source.entries] == ["1"]
