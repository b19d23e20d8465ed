"""Pictures named in Lance tables, or lying in them."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from bulk_jobs import begin_here, score_here, score_parts
from factories import jpeg_bytes
from input_reading import names_of, read_all, refs_of
from object_stores import _S3_SERVER, BUCKET, served

from appliance import storage
from appliance.bulk.inputs import lance_tables
from appliance.bulk.inputs.lance_tables import LanceTable, list_lance
from appliance.bulk.inputs.listing import PictureRef
from appliance.bulk.inputs.opening import InputOptions, list_input
from appliance.bulk.scores.manifest import read_records
from appliance.errors import ConfigError, ImageError, StorageError
from appliance.images.decoding import ImageLimits
from appliance.storage.storage_options import storage_options

lance = pytest.importorskip("lance", reason="needs the extra lance")
PICTURES = [jpeg_bytes(seed=seed) for seed in range(5)]
FORMATS = ("legacy", "2.0", "2.1", "2.2")


def write(uri, columns, **options) -> str:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    place, settings = storage_options(uri) if storage.is_remote(uri) else (str(uri), None)
    lance.write_dataset(table, place, storage_options=settings, **options)
    return str(uri)


def data_file(uri) -> Path:
    (path,) = (Path(uri) / "data").iterdir()
    return path


def blobs(pictures, kind: str) -> pa.Table:
    """A table whose pictures lie outside of its rows: in the way of Lance's first, or its second blobs."""
    if kind == "second":
        return pa.table([lance.blob_array(pictures)], schema=pa.schema([lance.blob_field("image")]))
    field = pa.field("bytes", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    if kind == "first":
        field = field.with_name("image")
        return pa.table([pa.array(pictures, field.type)], schema=pa.schema([field]))
    rows = [None if data is None else {"bytes": data} for data in pictures]
    return pa.table({"image": pa.array(rows, pa.struct([field]))})


@pytest.mark.parametrize("version", FORMATS)
@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.struct([("bytes", pa.binary()), ("p", pa.int8())])]
)
def test_rows_hold_the_bytes_of_pictures(tmp_path, kind, version):
    rows = PICTURES if not pa.types.is_struct(kind) else [{"bytes": data} for data in PICTURES]
    columns = {"path": list("abcde"), "My photo": pa.array(rows, kind)}
    path = write(tmp_path / "a b#1.lance", columns, data_storage_version=version)
    listing = list_lance(path)
    refs = refs_of(listing)
    assert listing.kind == "lance"
    assert refs[1] == PictureRef(f"{path}#row=1", f"{path}#version=1", "My photo", 1)
    assert read_all("lance", refs) == PICTURES


@pytest.mark.parametrize(
    ("kind", "version"), [("first", "2.0"), ("nested", "2.1"), ("nested", "2.2"), ("second", "2.2")]
)
def test_blobs_are_pictures_as_well(tmp_path, kind, version):
    pictures = [PICTURES[0], None, b"", os.urandom(100_000), PICTURES[1]]
    path = write(tmp_path / "t.lance", blobs(pictures, kind), data_storage_version=version)
    refs = refs_of(list_lance(path))
    expected = [PICTURES[0], "missing", b"", "too_large", PICTURES[1]]
    assert read_all("lance", refs, ImageLimits(max_bytes=99_999), threads=3) == expected
    assert read_all("lance", refs[3:]) == pictures[3:]


def test_any_rows_are_found_in_any_order(tmp_path):
    rows = [f"{row}".encode() for row in range(100)]
    path = write(tmp_path / "t.lance", {"picture": rows}, max_rows_per_file=37)
    refs = refs_of(list_lance(path))
    with LanceTable(refs[0].container, ImageLimits()) as table:
        for wanted in (range(100), range(0, 100, 9), [99, 0, 36, 37, 37, 36, 80, 81], [5], []):
            fetches = list(table.read([refs[row] for row in wanted]))
            assert [fetch() for fetch in fetches] == [rows[row] for row in wanted]


def test_no_more_is_read_than_a_few_rows_at_a_time(tmp_path):
    path = write(tmp_path / "t.lance", {"picture": [os.urandom(20_000) for _ in range(200)]})
    refs = refs_of(list_lance(path))
    with LanceTable(refs[0].container, ImageLimits()) as table:
        fetches = table.read(refs)
        first = next(fetches)()
        assert len(first) == 20_000
        assert table._dataset.io_stats_incremental().read_bytes < 20 * 20_000
        assert [len(fetch()) for fetch in fetches] == [20_000] * 199
        assert table._dataset.io_stats_incremental().read_bytes < 210 * 20_000


def test_rows_without_a_picture_are_told_one_by_one(tmp_path):
    pictures = [PICTURES[0], None, b"", PICTURES[1]]
    plain = write(tmp_path / "plain.lance", {"p": pa.array(pictures, pa.binary())})
    rows = [{"bytes": pictures[0]}, None, {"bytes": b""}, {"bytes": pictures[3]}]
    nested = write(tmp_path / "nested.lance", {"image": rows})
    for path in (plain, nested):
        assert read_all("lance", refs_of(list_lance(path))) == [
            *(PICTURES[0], "missing", b"", PICTURES[1])
        ]


def test_a_damaged_row_costs_no_other_row(tmp_path):
    rows = [os.urandom(3000) for _ in range(20)]
    path = write(tmp_path / "t.lance", {"p": rows}, data_storage_version="2.1")
    refs = refs_of(list_lance(path))
    data = data_file(path).read_bytes()
    # Before each row stands its length.
    begin = data.index(rows[4])
    data_file(path).write_bytes(data[: begin - 4] + b"\xff" * 4 + data[begin:])
    assert read_all("lance", refs) == [*rows[:4], "unreadable", *rows[5:]]
    data_file(path).unlink()
    assert read_all("lance", refs[:17]) == ["unreadable"] * 17
    with LanceTable(refs[0].container, ImageLimits()) as table:
        (fetch,) = table.read(refs[:1])
    with pytest.raises(ImageError, match=r"row of the table cannot be read: .*t\.lance#row=0 .got"):
        fetch()


def test_a_job_reads_the_version_that_it_listed(tmp_path, tiny_model_path):
    path = write(tmp_path / "t.lance", {"p": PICTURES})
    listing = list_lance(path)
    request, _, job = begin_here(tiny_model_path, listing, tmp_path / "scores")
    score_parts(job, request, only=[1])
    # Meanwhile rows come and go.
    write(path, {"p": PICTURES[:2]}, mode="append")
    lance.dataset(path).delete(f"p = X'{PICTURES[0].hex()}'")
    assert len(list_lance(path)) == 5
    assert read_all("lance", refs_of(list_lance(path))) == [*PICTURES[1:], PICTURES[1]]
    score_here(tiny_model_path, list_lance(path), tmp_path / "scores")
    assert [(r.image_uri, r.content_sha256) for r in read_records(tmp_path / "scores")] == [
        (f"{path}#row={row}", hashlib.sha256(data).hexdigest()) for row, data in enumerate(PICTURES)
    ]
    assert read_all("lance", refs_of(listing)) == PICTURES


def test_a_version_that_was_cleaned_away_says_so(tmp_path):
    path = write(tmp_path / "t.lance", {"p": PICTURES})
    refs = refs_of(list_lance(path))
    write(path, {"p": PICTURES[:2]}, mode="overwrite")
    assert read_all("lance", refs) == PICTURES
    shutil.rmtree(path)
    write(path, {"p": PICTURES[:2]})
    assert read_all("lance", refs) == [*PICTURES[:2], *["missing"] * 3]
    shutil.rmtree(path)
    write(path, {"q": PICTURES})
    assert read_all("lance", refs) == ["missing"] * 5
    with pytest.raises(
        StorageError, match=r"version of the table .*not there any more: .*t\.lance .*version 7"
    ):
        LanceTable(f"{path}#version=7", ImageLimits())


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_rows_name_pictures(tmp_path, kind):
    names = pa.array(["a b.jpg", "../c.jpg", "s3://b/d.jpg", "a b.jpg"], kind)
    path = write(tmp_path / "x" / "t.lance", {"n": [1, 2, 3, 4], "URL": names})
    listing = list_lance(path)
    assert (listing.kind, listing.repeated) == ("files", 1)
    assert names_of(listing) == [f"{tmp_path}/x/a b.jpg", f"{tmp_path}/c.jpg", "s3://b/d.jpg"]
    assert names_of(list_lance(path, "URL")) == names_of(listing)


@pytest.mark.parametrize(
    ("columns", "wanted", "what"),
    [
        ({"a": [1], "b": ["x"]}, None, r"Which column .*columns a \(int64\), b \(string\)"),
        ({"a": [b"x"], "b": [b"y"]}, None, r"Which column .*a \(binary\), b \(binary\).*--column"),
        ({"a": [b"x"]}, "b", r"no column 'b' of pictures: .*t\.lance .*a \(binary\).*--column"),
    ],
)
def test_it_must_be_clear_which_column(tmp_path, columns, wanted, what):
    path = write(tmp_path / "t.lance", columns)
    with pytest.raises(ConfigError, match=what):
        list_lance(path, wanted)


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"p": pa.array([], pa.binary())}, "No pictures in the table: .*t.lance$"),
        ({"url": ["a.jpg", None]}, "A row of the table names no picture: .*t.lance, row 1"),
    ],
)
def test_a_table_without_pictures_says_so(tmp_path, columns, what):
    path = write(tmp_path / "t.lance", columns)
    with pytest.raises(StorageError, match=what):
        list_lance(path)


def test_what_is_no_table_says_so_in_one_sentence(tmp_path):
    path = write(tmp_path / "t.lance", {"a`b": ["x"]})
    with pytest.raises(StorageError, match=r"The table cannot be read: .*t\.lance .got .*Invalid"):
        list_lance(path, "a`b")  # where Lance panics
    manifest = next((tmp_path / "t.lance" / "_versions").glob("*.manifest"))
    whole = manifest.read_bytes()
    for data in (b"", whole[:-9], whole[: len(whole) // 2], b"x" * 5000):
        manifest.write_bytes(data)
        with pytest.raises(
            StorageError, match=r"The table cannot be read: .*t\.lance .got"
        ) as told:
            list_lance(path)
        assert "\n" not in str(told.value)
        assert ".rs:" not in str(told.value)
    (tmp_path / "empty.lance").mkdir()
    (tmp_path / "file.lance").write_bytes(b"x")
    for name, got in (("empty", "nothing"), ("no", "nothing"), ("file", ".*Not a directory")):
        with pytest.raises(StorageError, match=rf"cannot be read: .*{name}\.lance .got {got}"):
            list_input(f"{tmp_path}/{name}.lance")


def test_who_stops_it_is_not_told_of_the_table():
    with pytest.raises(KeyboardInterrupt), lance_tables._explained("t.lance"):
        raise KeyboardInterrupt


def test_it_is_told_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "T.LANCE", {"image": PICTURES, "url": list("abcde")})
    for text in (path, "T.LANCE", "T.LANCE/", f"file://{path}"):
        assert list_input(text).kind == "lance"
    assert names_of(list_input("T.LANCE", InputOptions(column="url")))[0] == f"{tmp_path}/a"
    for flag, options in (
        ("--include", InputOptions(include=("*",))),
        ("--exclude", InputOptions(exclude=("*",))),
        ("--every", InputOptions(frame_every=2)),
    ):
        with pytest.raises(ConfigError, match=f"{flag} does not apply to a table"):
            list_input("T.LANCE", options)


def test_without_lance_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(ConfigError, match=r"pip install 'detection-appliance\[lance\]'"):
        list_input(f"{tmp_path}/t.lance")


@pytest.fixture(params=["s3_uri", "az_uri"])
def store_uri(request) -> str:
    return request.getfixturevalue(request.param)


def test_tables_may_lie_in_a_bucket(store_uri):
    path = write(f"{store_uri}/a%20b%25/t.lance", {"image": PICTURES})
    for uri in (path, f"{path}/"):
        refs = refs_of(list_input(uri))
        assert refs[4].image_uri == f"{path}#row=4"
        assert read_all("lance", refs[1:], threads=3) == PICTURES[1:]
    write(f"{store_uri}/names.lance", {"path": ["x/a b.jpg"]})
    assert names_of(list_input(f"{store_uri}/names.lance")) == [f"{store_uri}/x/a%20b.jpg"]
    with pytest.raises(StorageError, match=r"cannot be read: .*no\.lance .got nothing"):
        list_input(f"{store_uri}/no.lance")


def test_an_address_in_s3_may_say_more(s3_uri, monkeypatch):
    path = write(f"{s3_uri}/t.lance", {"image": PICTURES})
    host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    options = f"?scheme=http&endpoint_override={host}&region=eu-west-1"
    refs = refs_of(list_input(f"{path}/{options}"))
    assert refs[0].image_uri == f"{path}{options}#row=0"
    assert read_all("lance", refs) == PICTURES
    # A server that wants a signature, and none is sent, whatever the environment has.
    with pytest.raises(StorageError, match=r"cannot be read: .*got permission denied"):
        list_input(path.replace("s3://", "s3://anonymous@") + options)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
    with pytest.raises(StorageError, match=r"cannot be read: .*got no such bucket"):
        list_input("s3://nowhere/t.lance")


def test_a_store_that_does_not_answer_may_do_so_later(s3_uri, monkeypatch):
    monkeypatch.setattr("appliance.storage.storage_options.MAX_ATTEMPTS", 0)
    with served(_S3_SERVER) as host:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
        refs = refs_of(list_input(write(f"s3://{BUCKET}/t.lance", {"image": PICTURES})))
        table = LanceTable(refs[0].container, ImageLimits())
    for read in (lambda: list(table.read(refs)), lambda: list_lance("s3://pictures/t.lance")):
        with pytest.raises(
            StorageError, match=r"t\.lance .got the store cannot be reached"
        ) as told:
            read()
        assert told.value.transient


@pytest.mark.parametrize("uri", ["gs://b/t.lance", "https://h/t.lance", "memory://t.lance"])
def test_other_stores_are_refused(uri):
    with pytest.raises(
        StorageError, match=rf"A Lance table cannot be read from there: {uri} .*s3:// or az://"
    ):
        list_input(uri)
