import pytest
from factories import encoded, picture

from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.annotations.formats.csv_table import CsvWriter, open_csv
from appliance.annotations.source import ObjectAnnotation, PictureAnnotation
from appliance.errors import DatasetError, StorageError

HEADER = "image,label,xmin,ymin,xmax,ymax"


@pytest.fixture
def table(tmp_path):
    """Writes the table; its pictures `a.jpg` and `b.jpg` are there."""
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(encoded(picture()))

    def write(content, name="set.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def annotations(path):
    return {entry.name: entry.read() for entry in open_csv(path).entries}


def refusal(path):
    with pytest.raises(DatasetError) as caught:
        ObjectDetectionDataset.read(path)
    return caught.value.message.replace(str(path), "F")


def test_one_row_for_each_object_in_any_order(table):
    path = table(f"{HEADER}\nb.jpg,egg,1,2,30.5,40\na.jpg,,,,,\nb.jpg,water, 5,6 ,7,8\n\n")
    source = open_csv(path)
    assert (source.format, source.labels) == ("csv", None)
    assert [entry.picture_path for entry in source.entries] == [
        str(path.with_name(name)) for name in ("a.jpg", "b.jpg")
    ]
    assert annotations(path) == {
        "a": PictureAnnotation((), None, "a.jpg"),
        "b": PictureAnnotation(
            (ObjectAnnotation("egg", (1, 2, 30.5, 40)), ObjectAnnotation("water", (5, 6, 7, 8))),
            None,
            "b.jpg",
        ),
    }
    assert ObjectDetectionDataset.read(path).negatives == 1


def test_all_columns_in_any_order_and_unknown_ones(table):
    path = table(
        "Height,WIDTH,crowd,note,truncated,difficult,ymax,xmax,ymin,xmin,label,image\n"
        '64,96,0,"a, b",True,1,40,30,2,1,"egg, ""raw""",a.jpg\n'
        "64,96,yes,,no,,40,30,2,1,egg,a.jpg\n"
    )
    assert annotations(path)["a"] == PictureAnnotation(
        (
            ObjectAnnotation('egg, "raw"', (1, 2, 30, 40), difficult=True, truncated=True),
            ObjectAnnotation("egg", (1, 2, 30, 40), crowd=True),
        ),
        (64, 96),
        "a.jpg",
    )


@pytest.mark.parametrize(
    "content",
    [
        f"\ufeff{HEADER}\r\na.jpg,Kätzchen,1.5,2,30,40\r\n".encode(),
        f"{HEADER}\na.jpg,Kätzchen,1.5,2,30,40".encode("utf-16"),
        b"image;label;xmin;ymin;xmax;ymax\na.jpg;K\xc3\xa4tzchen;1,5;2;30;40\n",
        b'"image"\t"label"\t"xmin"\t"ymin"\t"xmax"\t"ymax"\na.jpg\t"K\xc3\xa4tzchen"\t1.5\t2\t30\t40',
        # As Roboflow and TensorFlow name the columns.
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,,,Kätzchen,1.5,2,30,40".encode(),
    ],
)
def test_dialects(table, content):
    assert annotations(table(content)) == {
        "a": PictureAnnotation((ObjectAnnotation("Kätzchen", (1.5, 2, 30, 40)),), None, "a.jpg")
    }


def test_short_rows_are_filled_up(table):
    path = table(f"{HEADER},width,height\na.jpg\nb.jpg,egg,1,2,3,4\n")
    assert [len(annotation.objects) for annotation in annotations(path).values()] == [0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "",
            "The table lacks columns: F (got the first line '', expected the columns image, label,",
        ),
        (
            "image;label;xmin;ymin\n",
            (
                "The table lacks columns: F (got the first line 'image;label;xmin;ymin', expected the "
                "columns image, label, xmin, ymin, xmax, ymax; missing xmax, ymax)"
            ),
        ),
        (f"{HEADER}\n", "The dataset is empty: F"),
        (f"{HEADER}\n,egg,1,2,3,4", "Line 2 names no picture: F (got '')"),
        (f"{HEADER}\na.jpg,,1,2,3,4", "Line 2 has a box but no label: F"),
        (
            f"{HEADER}\n\na.jpg,egg,1,2,3,",
            "Line 3 has no usable ymax: F (got '', expected a number",
        ),
        (
            f'{HEADER}\na.jpg,"e\ng",1,2,3,4\na.jpg,egg,x,2,3,4',
            "Line 4 has no usable xmin: F (got 'x'",
        ),
        (f"{HEADER}\na.jpg,egg,nan,2,3,4", "Line 2 has no usable xmin: F (got 'nan'"),
        (f"{HEADER},difficult\na.jpg,egg,1,2,3,4,2", "Line 2: difficult is wrong: F (got '2'"),
        (f"{HEADER},width,height\na.jpg,egg,1,2,3,4,x,2", "Line 2 has no usable width: F (got 'x'"),
        (
            f"{HEADER},width,height\na.jpg,,,,,,96,64\na.jpg,egg,1,2,3,4,64,96",
            ("Line 3 gives another size of a.jpg than line 2: F (got 64x96, expected 96x64)"),
        ),
        (f"{HEADER}\na.jpg,{'x' * 200_000},1,2,3,4", "Line 2 cannot be read: F (got field larger"),
        (
            f"{HEADER}\nb.jpg,".encode() + b"\xe4",
            "The table is not in UTF-8: F (got byte 0xe4 in line 2)",
        ),
    ],
)
def test_mistakes_name_their_line(table, content, message):
    assert refusal(table(content)).startswith(message)


def test_size_of_zero_is_unknown(table):
    path = table(f"{HEADER},width,height\na.jpg,egg,1,2,3,4,0,0\n")
    assert annotations(path)["a"].size_hw is None


def test_missing_file(tmp_path):
    with pytest.raises(StorageError, match="nothing.csv"):
        open_csv(tmp_path / "nothing.csv")


def test_what_is_written(tmp_path):
    writer = CsvWriter(("egg",))
    egg = ObjectAnnotation('egg, "raw"', (0, 1.25, 30, 1 / 3), difficult=True, crowd=True)
    writer.add("train", "m/1.jpg", PictureAnnotation((egg,), (64, 96)))
    writer.add("test", "2.jpg", PictureAnnotation((), (64, 96)))
    files = dict(writer.last_files())
    header = f"{HEADER},difficult,truncated,crowd,width,height"
    assert files["train.csv"].decode().splitlines() == [
        header,
        'images/train/m/1.jpg,"egg, ""raw""",0,1.25,30,0.3333333333333333,1,0,1,96,64',
    ]
    assert files["test.csv"].decode().splitlines() == [
        header,
        "images/test/2.jpg,,,,,,,,,96,64",
    ]
    (tmp_path / "train.csv").write_bytes(files["train.csv"])
    assert annotations(tmp_path / "train.csv")["m/1"].objects == (egg,)
