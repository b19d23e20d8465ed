"""Pictures named in text files and CSV tables."""

from __future__ import annotations

import os

import pytest
from input_reading import names_of

from appliance import storage
from appliance.bulk.inputs.lists import list_csv, list_text
from appliance.errors import ConfigError, StorageError


@pytest.fixture
def write(tmp_path):
    """Writes a file and gives its path."""

    def write(name: str, content: str | bytes) -> str:
        data = content.encode() if isinstance(content, str) else content
        storage.write_bytes(tmp_path / name, data)
        return str(tmp_path / name)

    return write


def test_a_text_file_names_a_picture_a_line(write, tmp_path):
    lines = [
        "\ufeffa b.jpg",
        "",
        "sub/ü.png\r",
        "  ",
        "../c.jpg",
        "s3://bucket/d.jpg",
        "/e.jpg",
        "a b.jpg",
    ]
    listing = list_text(write("list.txt", "\n".join(lines)))
    assert names_of(listing) == [
        f"{tmp_path}/a b.jpg",
        f"{tmp_path}/sub/ü.png",
        f"{tmp_path.parent}/c.jpg",
        "s3://bucket/d.jpg",
        "/e.jpg",
    ]
    assert (listing.kind, listing.repeated) == ("files", 1)


def test_names_with_odd_line_separators_stay_whole(write, tmp_path):
    assert names_of(list_text(write("list.txt", "a\x0bb.jpg\nc\u2028d.jpg\n"))) == [
        f"{tmp_path}/a\x0bb.jpg",
        f"{tmp_path}/c\u2028d.jpg",
    ]


def test_a_list_may_be_named_relative_to_the_working_folder(write, tmp_path, monkeypatch):
    write("lists/list.txt", "a.jpg")
    monkeypatch.chdir(tmp_path)
    assert names_of(list_text(os.path.join("lists", "list.txt"))) == [f"{tmp_path}/lists/a.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("list.txt", " \n\n", "No pictures in the list"),
        ("list.txt", b"a.jpg\n\xff.jpg", "not UTF-8: .*byte 0xff at position 6.*Save it as UTF-8"),
        ("list.csv", "path,label\n", "No pictures in the list"),
        ("list.csv", "path,label\na.jpg,1\n,2\n", "names no picture: .*list.csv, line 3"),
        ("list.csv", "label,path\n1,a.jpg\n2\n", "names no picture: .*line 3"),
        ("list.csv", "path\n" + "x" * 200_000, "table cannot be read: .*line 2 .*field larger"),
    ],
)
def test_a_list_that_cannot_be_read_says_why(write, name, content, what):
    read = list_text if name.endswith(".txt") else list_csv
    with pytest.raises(StorageError, match=what):
        read(write(name, content))


def test_a_csv_has_a_column_of_names(write, tmp_path):
    path = write(
        "list.csv", '\ufeffid, File_Name ,note\r\n1,a.jpg,x\r\n\r\n2,"b,1.jpg",y\r\n,,\r\n'
    )
    assert names_of(list_csv(path)) == [f"{tmp_path}/a.jpg", f"{tmp_path}/b,1.jpg"]
    assert names_of(list_csv(path, "note")) == [f"{tmp_path}/x", f"{tmp_path}/y"]


@pytest.mark.parametrize(
    ("content", "column", "what"),
    [
        ("path,url\na,b\n", None, "Which column .*columns path, url.*--column"),
        ("a,b\n1,2\n", None, "Which column .*columns a, b.*--column"),
        ("", None, "Which column .*no columns"),
        ("path,b\n1,2\n", "Path", "no column 'Path' of pictures: .*columns path, b.*--column"),
        ("path,path\n1,2\n", "path", "no column 'path' of pictures: .*path, path"),
    ],
)
def test_it_must_be_clear_which_column(write, content, column, what):
    with pytest.raises(ConfigError, match=what):
        list_csv(write("list.csv", content), column)


def test_a_list_may_lie_in_a_bucket(s3_uri):
    storage.write_bytes(f"{s3_uri}/lists/list.txt", b"a b.jpg\n../c.jpg\n")
    storage.write_bytes(f"{s3_uri}/lists/list.csv", b"url\ns3://other/d.jpg\n100%.jpg\n")
    assert names_of(list_text(f"{s3_uri}/lists/list.txt?scheme=http")) == [
        f"{s3_uri}/lists/a%20b.jpg?scheme=http",
        f"{s3_uri}/c.jpg?scheme=http",
    ]
    assert names_of(list_csv(f"{s3_uri}/lists/list.csv")) == [
        "s3://other/d.jpg",
        f"{s3_uri}/lists/100%25.jpg",
    ]
