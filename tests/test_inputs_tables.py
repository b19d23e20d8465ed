"""Pictures named in Parquet tables, or lying in them."""

from __future__ import annotations

import io
import os
import re

import pyarrow as pa
import pyarrow.parquet
import pytest
from factories import jpeg_bytes
from input_reading import names_of, read_all, refs_of

from appliance import storage
from appliance.bulk.inputs.listing import PictureRef
from appliance.bulk.inputs.opening import InputOptions, list_input
from appliance.bulk.inputs.tables import Table, list_tables
from appliance.errors import ConfigError, ImageError, StorageError

PLAIN = {"compression": "none", "use_dictionary": False}
PICTURES = [jpeg_bytes(seed=seed) for seed in range(5)]


def write(uri, columns, **options) -> str:
    buffer = io.BytesIO()
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pyarrow.parquet.write_table(table, buffer, **options)
    storage.write_bytes(uri, buffer.getvalue())
    return str(uri)


def hugging_face(pictures) -> pa.Array:
    """As the image feature of Hugging Face's data sets is stored."""
    rows = [None if data is None else {"bytes": data, "path": "a.jpg"} for data in pictures]
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.struct([("bytes", pa.large_binary())])]
)
def test_rows_hold_the_bytes_of_pictures(tmp_path, kind):
    rows = PICTURES if not pa.types.is_struct(kind) else [{"bytes": data} for data in PICTURES]
    path = write(tmp_path / "t.parquet", {"path": list("abcde"), "photo": pa.array(rows, kind)})
    listing = list_tables([path])
    refs = refs_of(listing)
    assert listing.kind == "table"
    assert refs[1] == PictureRef(f"{path}#row=1", path, "photo", 1)
    assert read_all("table", refs) == PICTURES


def test_any_rows_are_found_in_any_order(tmp_path):
    rows = [f"{row}".encode() for row in range(100)]
    path = write(tmp_path / "t.parquet", {"picture": rows}, row_group_size=37)
    refs = refs_of(list_tables([path]))
    with Table(path) as table:
        for wanted in (range(100), range(0, 100, 9), [99, 0, 36, 37, 37, 36, 80, 81], [5]):
            fetches = list(table.read([refs[row] for row in wanted]))
            assert [fetch() for fetch in fetches] == [rows[row] for row in wanted]


def test_groups_of_rows_without_a_wanted_row_are_not_read(tmp_path):
    big = [os.urandom(100_000) for _ in range(6)]
    path = write(tmp_path / "t.parquet", {"picture": big}, row_group_size=1, **PLAIN)
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    # Whoever reads the third of six meets nonsense.
    begin = pyarrow.parquet.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    data[begin : begin + 200] = bytes(200)
    (tmp_path / "t.parquet").write_bytes(data)
    refs = refs_of(list_tables([path]))
    assert read_all("table", [refs[1], refs[3]]) == [big[1], big[3]]
    assert read_all("table", refs) == [big[0], big[1], "unreadable", *big[3:]]


def test_memory_stays_bounded(tmp_path):
    rows = [bytes([row]) * 2**18 for row in range(200)]
    path = write(tmp_path / "t.parquet", {"picture": rows}, write_batch_size=1, **PLAIN)
    refs = refs_of(list_tables([path]))
    before, most = pa.total_allocated_bytes(), 0
    with Table(path) as table:
        for row, fetch in zip(rows, table.read(refs), strict=True):
            assert fetch() == row
            most = max(most, pa.total_allocated_bytes() - before)
    assert most < sum(map(len, rows)) / 4


def test_rows_without_a_picture_are_told_one_by_one(tmp_path):
    pictures = [PICTURES[0], None, b"", PICTURES[1]]
    plain = write(tmp_path / "plain.parquet", {"p": pa.array(pictures, pa.binary())})
    nested = write(tmp_path / "nested.parquet", {"image": hugging_face(pictures)})
    for path in (plain, nested):
        refs = refs_of(list_tables([path]))
        assert read_all("table", refs) == [PICTURES[0], "missing", b"", PICTURES[1]]


def test_a_table_that_has_changed_since_it_was_listed(tmp_path):
    path = write(tmp_path / "t.parquet", {"p": PICTURES})
    refs = refs_of(list_tables([path]))
    write(path, {"p": PICTURES[:2]})
    assert read_all("table", refs) == [*PICTURES[:2], *["missing"] * 3]
    write(path, {"q": PICTURES})
    with Table(path) as table:
        (fetch,) = table.read(refs[:1])
    with pytest.raises(ImageError, match=r"The table has no such row: .*t\.parquet#row=0"):
        fetch()


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_rows_name_pictures(tmp_path, kind):
    names = pa.array(["a b.jpg", "../c.jpg", "s3://b/d.jpg", "a b.jpg"], kind)
    path = write(tmp_path / "x" / "t.parquet", {"n": [1, 2, 3, 4], "URL": names})
    listing = list_tables([path])
    assert (listing.kind, listing.repeated) == ("files", 1)
    assert names_of(listing) == [f"{tmp_path}/x/a b.jpg", f"{tmp_path}/c.jpg", "s3://b/d.jpg"]
    assert names_of(list_tables([path], "URL")) == names_of(listing)


@pytest.mark.parametrize(
    ("columns", "wanted", "what"),
    [
        (
            {"a": [1], "b": ["x"]},
            None,
            r"Which column .*columns a \(int64\), b \(string\).*--column",
        ),
        ({"a": [b"x"], "b": [b"y"]}, None, r"Which column .*a \(binary\), b \(binary\)"),
        ({"url": ["x"], "path": ["y"]}, None, "Which column"),
        ({"a": [b"x"]}, "b", r"no column 'b' of pictures: .*a \(binary\).*--column"),
        ({"a": [1]}, "a", r"no column 'a' of pictures: .*a \(int64\)"),
        ({"a": [[b"x"]]}, "a", r"no column 'a' of pictures: .*a \(list<"),
        ({"a": [{"path": "x"}]}, "a", r"no column 'a' of pictures: .*struct<path: string>"),
        ({"a": [{"bytes": "x"}]}, None, r"Which column .*struct<bytes: string>"),
    ],
)
def test_it_must_be_clear_which_column(tmp_path, columns, wanted, what):
    path = write(tmp_path / "t.parquet", columns)
    with pytest.raises(ConfigError, match=what):
        list_tables([path], wanted)


def test_a_column_of_bytes_goes_before_one_of_names_and_may_be_chosen(tmp_path):
    columns = {"path": ["a"], "image": [b"x"], "mask": [b"y"], "a.b": [b"z"]}
    path = write(tmp_path / "t.parquet", columns)
    assert names_of(list_tables([path])) == [f"{tmp_path}/a"]  # of two with bytes, neither
    for column in ("mask", "a.b"):
        refs = refs_of(list_tables([path], column))
        assert read_all("table", refs) == columns[column]


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"p": pa.array([], pa.binary())}, "No pictures in the table: .*t.parquet"),
        ({"url": pa.array([], pa.string())}, "No pictures in the table"),
        ({"url": ["a.jpg", None]}, "A row of the table names no picture: .*t.parquet, row 1"),
        ({"url": ["", "a.jpg"]}, "A row of the table names no picture: .*row 0"),
    ],
)
def test_a_table_without_pictures_says_so(tmp_path, columns, what):
    path = write(tmp_path / "t.parquet", columns)
    with pytest.raises(StorageError, match=what):
        list_tables([path])


def test_what_is_no_table_says_so(tmp_path):
    write(tmp_path / "t.parquet", {"p": PICTURES})
    whole = (tmp_path / "t.parquet").read_bytes()
    for data in (b"", b"PAR1", whole[:-9], whole[: len(whole) // 2], os.urandom(5000)):
        (tmp_path / "t.parquet").write_bytes(data)
        for read in (Table, lambda path: list_tables([path])):
            with pytest.raises(StorageError, match=r"The table cannot be read: .*a Parquet file"):
                read(str(tmp_path / "t.parquet"))


def test_a_table_that_claims_more_rows_than_it_has(tmp_path):
    path = write(tmp_path / "t.parquet", {"p": [b"first", b"second"]}, **PLAIN)
    data = (tmp_path / "t.parquet").read_bytes()
    # The number 2 as Thrift writes it, wherever it stands.
    for found in re.finditer(rb"\x16\x04", data):
        (tmp_path / "t.parquet").write_bytes(
            data[: found.start()] + b"\x16\x20" + data[found.end() :]
        )
        if pyarrow.parquet.ParquetFile(path).metadata.row_group(0).num_rows == 16:
            break
    refs = [PictureRef(f"{path}#row={row}", path, "p", row) for row in (0, 1, 2, 3, 15)]
    assert read_all("table", refs) == [b"first", b"second", *["unreadable"] * 3]


def test_a_folder_of_tables_is_one_table(tmp_path):
    for name, pictures in (("b/0.parquet", PICTURES[:2]), ("a.parquet", PICTURES[2:])):
        write(
            tmp_path / name,
            {"image": hugging_face(pictures), "label": list("xyz")[: len(pictures)]},
        )
    (tmp_path / "README.md").write_text("x")
    listing = list_input(str(tmp_path))
    refs = refs_of(listing)
    assert [ref.image_uri for ref in refs] == [
        *(f"{tmp_path}/a.parquet#row={row}" for row in range(3)),
        *(f"{tmp_path}/b/0.parquet#row={row}" for row in range(2)),
    ]
    assert read_all("table", refs[:3]) + read_all("table", refs[3:]) == PICTURES[2:] + PICTURES[:2]
    assert refs_of(list_input(f"{tmp_path}/b/*.parquet")) == refs[3:]


def test_tables_of_a_folder_must_agree(tmp_path):
    write(tmp_path / "a.parquet", {"image": PICTURES[:1], "url": ["a.jpg"]})
    write(tmp_path / "b.parquet", {"photo": PICTURES[:1], "url": ["b.jpg"]})
    with pytest.raises(
        ConfigError, match=r"not in the same column .*b\.parquet .*'photo'.*'image'"
    ):
        list_input(str(tmp_path))
    listing = list_input(str(tmp_path), InputOptions(column="url"))
    assert names_of(listing) == [f"{tmp_path}/a.jpg", f"{tmp_path}/b.jpg"]


def test_tables_may_lie_in_a_bucket(s3_uri):
    write(f"{s3_uri}/t/0.parquet", {"image": PICTURES}, row_group_size=2)
    write(f"{s3_uri}/t/1.parquet", {"image": PICTURES[:1]})
    refs = refs_of(list_input(f"{s3_uri}/t?scheme=http"))
    assert refs[5].image_uri == f"{s3_uri}/t/1.parquet?scheme=http#row=0"
    assert read_all("table", refs[1:5]) == PICTURES[1:]
    write(f"{s3_uri}/names.parquet", {"path": ["x/a b.jpg"]})
    assert names_of(list_input(f"{s3_uri}/names.parquet")) == [f"{s3_uri}/x/a%20b.jpg"]
