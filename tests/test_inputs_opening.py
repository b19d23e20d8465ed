"""What an input is by its name, and which options apply to it."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.parquet
import pytest
import test_inputs_tar
import test_inputs_zip
from factories import jpeg_bytes
from input_reading import names_of, read_all, refs_of

from appliance import storage
from appliance.bulk.inputs.opening import InputOptions, list_input, open_container
from appliance.errors import ConfigError, ImageError, StorageError
from appliance.images.decoding import ImageLimits

JPEG = jpeg_bytes()


@pytest.fixture
def folder(tmp_path):
    """A folder with pictures."""
    for name in ("a.jpg", "b c.PNG", "sub/d.jpg", "sub/deep/e.gif", ".hidden/f.jpg", "notes.txt"):
        storage.write_bytes(tmp_path / "in" / name, JPEG)
    return tmp_path / "in"


def names_below(folder, listing):
    return [os.path.relpath(name, folder) for name in names_of(listing)]


def test_a_folder(folder, monkeypatch):
    expected = ["a.jpg", "b c.PNG", "sub/d.jpg", "sub/deep/e.gif"]
    monkeypatch.chdir(folder.parent)
    for uri in (str(folder), f"{folder}/", "in", "./in/", folder.as_uri()):
        listing = list_input(uri)
        assert listing.kind == "files"
        assert names_below(folder, listing) == expected
    assert all(map(os.path.isabs, names_of(listing)))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.jpg", ["a.jpg"]),
        ("**/*.jpg", ["a.jpg", "sub/d.jpg"]),
        ("s*/", ["sub/d.jpg", "sub/deep/e.gif"]),
        ("sub/**", ["sub/d.jpg", "sub/deep/e.gif"]),
        ("[!a]*", ["b c.PNG"]),
    ],
)
def test_a_pattern(folder, pattern, names, monkeypatch):
    monkeypatch.chdir(folder)
    assert names_below(folder, list_input(pattern)) == names
    assert names_below(folder, list_input(f"{folder}/{pattern}")) == names
    assert names_below(folder, list_input(f"{folder.as_uri()}/{pattern}")) == names


def test_names_are_chosen_and_left_out(folder):
    options = InputOptions(include=("*.jpg", "*.gif"), exclude=("deep/",))
    assert names_below(folder, list_input(str(folder), options)) == ["a.jpg", "sub/d.jpg"]
    assert names_below(folder, list_input(f"{folder}/sub/**", options)) == ["sub/d.jpg"]
    with pytest.raises(StorageError, match=r"have a wanted name: .*/in .got 4 pictures with other"):
        list_input(str(folder), InputOptions(include=("*.tif",)))
    with pytest.raises(StorageError, match=r"have a wanted name: .*/in .got 4 pictures with other"):
        list_input(f"{folder}/*.tif")


def test_a_picture(folder):
    for uri in (str(folder / "b c.PNG"), (folder / "b c.PNG").as_uri()):
        listing = list_input(uri)
        assert names_of(listing) == [str(folder / "b c.PNG")]
    (row,) = refs_of(listing)
    with open_container("files", row.container, ImageLimits()) as files:
        assert [fetch() for fetch in files.read([row])] == [JPEG]
    with open_container("files", row.container, ImageLimits(max_bytes=100)) as files:
        (fetch,) = files.read([row])
        with pytest.raises(ImageError, match="too large"):
            fetch()


def test_archives_lists_and_tables(tmp_path):
    archives = {"p.zip": ("zip", test_inputs_zip.write(tmp_path / "p.zip", [("x/a.jpg", JPEG)]))}
    for ending in (".tar", ".tar.gz", ".TGZ", ".tar.bz2", ".tar.xz"):
        member = test_inputs_tar.member("x/a.jpg", JPEG)
        path = test_inputs_tar.write(tmp_path / f"q{ending.lower()}", [member])
        (tmp_path / f"q{ending.lower()}").rename(tmp_path / f"p{ending}")
        archives[f"p{ending}"] = ("tar", path)
    for name, (kind, _) in archives.items():
        options = InputOptions(include=("x/*",), exclude=("b.jpg",))
        listing = list_input(str(tmp_path / name), options)
        assert listing.kind == kind
        assert names_of(listing) == [f"{kind}://x/a.jpg::{tmp_path}/{name}"]
        assert read_all(kind, refs_of(listing)) == [JPEG]
    (tmp_path / "l.txt").write_text("a.jpg\n")
    (tmp_path / "l.CSV").write_text("x,path\nb.jpg,a.jpg\n")
    pyarrow.parquet.write_table(
        pa.table({"x": ["b.jpg"], "path": ["a.jpg"]}), tmp_path / "l.parquet"
    )
    for name in ("l.txt", "l.CSV", "l.parquet"):
        assert names_of(list_input(str(tmp_path / name))) == [f"{tmp_path}/a.jpg"]
    for name in ("l.CSV", "l.parquet"):
        listing = list_input(str(tmp_path / name), InputOptions(column="x"))
        assert names_of(listing) == [f"{tmp_path}/b.jpg"]


def test_what_is_there_goes_before_its_name(tmp_path):
    for name in ("p.zip/a.jpg", "v.mp4/b.jpg", "c.jpg/d.jpg"):
        storage.write_bytes(tmp_path / name, JPEG)
        uri = str((tmp_path / name).parent)
        assert names_of(list_input(uri)) == [str(tmp_path / name)]
    (tmp_path / "spark.parquet").mkdir()
    pyarrow.parquet.write_table(pa.table({"image": [JPEG]}), tmp_path / "spark.parquet/0.parquet")
    assert list_input(str(tmp_path / "spark.parquet")).kind == "table"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("nowhere", r"No such folder: .*/nowhere .got nothing"),
        ("nowhere/*.jpg", r"No such folder: .*/nowhere .got nothing"),
        *(
            (f"nowhere{ending}", "No such file")
            for ending in (".jpg", ".zip", ".tgz", ".txt", ".csv")
        ),
        *((f"nowhere{ending}", "No such file") for ending in (".parquet", ".mp4")),
        ("empty", "No pictures in the folder: .*/empty$"),
        (
            "notes.doc",
            r"Not a file that pictures .*notes\.doc .got a name that ends in \.doc, expected ",
        ),
        (
            "notes",
            "got a name without ending, expected a folder, or a file that ends in .jpg, .*.mpeg",
        ),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, name, what):
    (tmp_path / "empty").mkdir()
    for file in ("notes.doc", "notes"):
        storage.write_bytes(tmp_path / file, b"x")
    if name.endswith(".mp4"):
        pytest.importorskip("av", reason="needs the extra video")
    with pytest.raises(StorageError, match=what):
        list_input(str(tmp_path / name))


INCLUDE, COLUMN, EVERY = (
    ("--include", InputOptions(include=("*",))),
    ("--column", InputOptions(column="x")),
    ("--every", InputOptions(frame_every=2)),
)
EXCLUDE = ("--exclude", InputOptions(exclude=("x",)))


@pytest.mark.parametrize(
    ("name", "unfit"),
    [
        ("in", [COLUMN, EVERY]),
        ("in/*.jpg", [COLUMN, EVERY]),
        ("in/a.jpg", [INCLUDE, EXCLUDE, COLUMN, EVERY]),
        ("p.zip", [COLUMN, EVERY]),
        ("p.tar.gz", [COLUMN, EVERY]),
        ("l.txt", [INCLUDE, EXCLUDE, COLUMN, EVERY]),
        ("l.csv", [INCLUDE, EXCLUDE, EVERY]),
        ("l.parquet", [INCLUDE, EXCLUDE, EVERY]),
        ("tables", [INCLUDE, EXCLUDE, EVERY]),
        ("v.mp4", [INCLUDE, EXCLUDE, COLUMN]),
        ("s3://bucket/p.zip?region=r", [COLUMN, EVERY]),
    ],
)
def test_an_option_that_does_not_apply_is_a_mistake(folder, name, unfit):
    (folder.parent / "tables").mkdir()
    pyarrow.parquet.write_table(pa.table({"x": ["y"]}), folder.parent / "tables/0.parquet")
    for flag, options in unfit:
        with pytest.raises(ConfigError, match=f"{flag} does not apply to an? .*Leave out {flag}"):
            list_input(name if "://" in name else f"{folder.parent}/{name}", options)


def test_what_lies_in_a_bucket(s3_uri):
    storage.write_bytes(f"{s3_uri}/in/a%20b.jpg", JPEG)
    storage.write_bytes(f"{s3_uri}/in/p.zip/c.jpg", JPEG)
    test_inputs_zip.write(f"{s3_uri}/p.zip", [("d.jpg", JPEG)])
    options = "?scheme=http"
    assert names_of(list_input(f"{s3_uri}/in/a%20b.jpg{options}")) == [
        f"{s3_uri}/in/a%20b.jpg{options}"
    ]
    for uri in (f"{s3_uri}/in", f"{s3_uri}/in/", f"{s3_uri}/in/**/*.j[p]g"):
        expected = [f"{s3_uri}/in/a%20b.jpg{options}", f"{s3_uri}/in/p.zip/c.jpg{options}"]
        assert names_of(list_input(uri + options)) == expected
    assert names_of(list_input(f"{s3_uri}/in/p.zip/")) == [f"{s3_uri}/in/p.zip/c.jpg"]
    assert names_of(list_input(f"{s3_uri}/p.zip")) == [f"zip://d.jpg::{s3_uri}/p.zip"]
    with pytest.raises(StorageError, match=r"Cannot read the file: .*no\.jpg .got nothing"):
        list_input(f"{s3_uri}/no.jpg")
    with pytest.raises(StorageError, match=r"Cannot list the folder: .*nowhere .got nothing"):
        list_input(f"{s3_uri}/nowhere")


def test_a_name_that_is_no_text_is_told(folder):
    (folder / os.fsdecode(b"\xe9.jpg")).write_bytes(JPEG)
    with pytest.raises(
        StorageError, match=r"The name of a picture is not UTF-8: .*udce9.*Rename it"
    ):
        list_input(str(folder))
