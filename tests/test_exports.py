"""Exports: what pycocotools, pandas, json and csv read is what the records say; whole files or none."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import resource
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import factories
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_predictions import annotated
from test_records import LABELS, error_record, record_of
from test_records import records as any_records

from appliance import storage
from appliance.bulk.scores.exports import EXPORT_NAMES, export_scores
from appliance.errors import StorageError
from appliance.evaluation.predictions import read_predictions
from appliance.records import DetectedObject, Record, arrow_schema, records_to_table
from appliance.storage import streams

FORMS = tuple(EXPORT_NAMES)
HEADER = "image_uri,label,class_id,score,x1,y1,x2,y2,width_px,height_px,error_kind,error"
ODD_NAMES = [
    "日本/ü.jpg",
    'a,b "c".jpg',
    "two\nlines\r\n.jpg",
    "lone\rreturn.jpg",
    "tab\there\\n.jpg",
    " blank .jpg",
    "🙂.jpg",
]


def named(name: str, count: int = 2, seed: int = 0) -> Record:
    return dataclasses.replace(record_of(count, seed), image_uri=name)


def some_records() -> list[Record]:
    """Pictures with and without detections, and one that could not be read."""
    return [named("a.jpg", 3), error_record(), named("c.jpg", 0), named("d.jpg", 2, seed=1)]


def export(path: Path, form: str, records: list[Record], rows_per_batch: int = 3) -> Path:
    batches = records_to_table(records).to_batches(max_chunksize=rows_per_batch)
    export_scores(iter(batches), LABELS.names, str(path), form)
    return path


def coco_of(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def float32(text: str) -> float:
    return float(np.float32(text))


def shortest(value: float) -> float:
    return float(str(np.float32(value)))


def without_guard(text: str) -> str:
    return text.removeprefix("'")


def test_jsonl_is_a_record_a_line(tmp_path):
    text = export(tmp_path / "r.jsonl", "jsonl", some_records()).read_text("ascii")
    rows = [json.loads(line) for line in text.splitlines()]
    assert [list(row) for row in rows] == [arrow_schema().names] * 4
    assert rows == [json.loads(as_json(record)) for record in some_records()]
    frame = pd.read_json(io.StringIO(text), lines=True)
    assert frame["image_uri"].tolist() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert [len(found) for found in frame["detections"]] == [3, 0, 0, 2]


def as_json(record: Record) -> str:
    """A record as HTTP answers it, but with its floats as short as they can be."""
    text = json.dumps(record.to_row())
    return json.dumps(json.loads(text, parse_float=shortest))


@settings(deadline=None, max_examples=60)
@given(st.lists(any_records, max_size=4))
def test_any_records_come_back_from_jsonl_to_the_last_bit(records):
    with tempfile.TemporaryDirectory() as folder:
        lines = export(Path(folder, "r"), "jsonl", records, 2).read_text("ascii").splitlines()
    rows = [json.loads(line, parse_float=float32) for line in lines]
    assert [Record.from_row(row) for row in rows] == records
    # The same text but for exponents, which have many forms.
    assert [json.dumps(json.loads(line)) for line in lines] == [as_json(one) for one in records]


@settings(deadline=None, max_examples=60)
@given(st.lists(any_records, max_size=4))
def test_any_records_come_back_from_csv_to_the_last_bit(records):
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(export(Path(folder, "r"), "csv", records, 2))
    expected = [row for record in records for row in csv_rows(record)]
    assert [(*map(read_cell, row.items()),) for row in rows] == expected


def read_cell(item: tuple[str, str]) -> str | float:
    name, text = item
    if name in ("image_uri", "label", "error_kind", "error"):
        return without_guard(text)
    return float32(text) if text and name in ("score", "x1", "y1", "x2", "y2") else text


def csv_rows(record: Record) -> Iterator[tuple[str | float, ...]]:
    size = ["" if side is None else str(side) for side in (record.width_px, record.height_px)]
    end = (*size, record.error_kind or "", record.error or "")
    for one in record.detections:
        box = (one.x1, one.y1, one.x2, one.y2)
        yield (record.image_uri, one.label, str(one.class_id), one.score, *box, *end)
    if not record.detections:
        yield (record.image_uri, *[""] * 7, *end)


def test_csv_has_a_row_for_every_detection_and_every_picture_without(tmp_path):
    path = export(tmp_path / "d.csv", "csv", some_records())
    assert path.read_text("utf-8").splitlines()[0] == HEADER
    frame = pd.read_csv(path)
    assert frame["image_uri"].tolist() == ["a.jpg"] * 3 + ["b.jpg", "c.jpg"] + ["d.jpg"] * 2
    assert frame["class_id"].notna().tolist() == [True] * 3 + [False] * 2 + [True] * 2
    assert frame.loc[4, ["width_px", "height_px"]].tolist() == [96, 64]
    blank = frame.loc[3, "label":"height_px"]
    assert blank.isna().all()
    assert frame.loc[3, ["error_kind", "error"]].tolist() == [
        "empty",
        "The picture is empty: b.jpg",
    ]
    best = some_records()[0].detections[0]
    assert np.float32(frame.loc[0, ["score", "x1", "y1", "x2", "y2"]].to_numpy(float)).tolist() == [
        *(best.score, best.x1, best.y1, best.x2, best.y2)
    ]


@pytest.mark.parametrize("start", [*"=+-@\t\r\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_no_cell_of_csv_is_a_formula(tmp_path, start):
    name = f'{start}HYPERLINK("http://evil")'
    record = named(name, 1)
    (found,) = record.detections
    evil = dataclasses.replace(record, detections=(dataclasses.replace(found, label=name),))
    failed = dataclasses.replace(error_record(), image_uri="fine=1.jpg", error=name)
    first, second = rows_of(export(tmp_path / "d.csv", "csv", [evil, failed]))
    assert (first["image_uri"], first["label"]) == (f"'{name}", f"'{name}")
    assert (second["image_uri"], second["error"]) == ("fine=1.jpg", f"'{name}")


def test_an_apostrophe_of_the_name_is_told_from_that_of_the_guard(tmp_path):
    names = ["'=a.jpg", "=a.jpg", "'a.jpg", "a'.jpg"]
    rows = rows_of(export(tmp_path / "d.csv", "csv", [named(name, 0) for name in names]))
    assert [row["image_uri"] for row in rows] == ["''=a.jpg", "'=a.jpg", "''a.jpg", "a'.jpg"]
    assert [without_guard(row["image_uri"]) for row in rows] == names


def test_odd_names_survive_every_form(tmp_path):
    records = [named(name, 1) for name in ODD_NAMES]
    paths = {form: export(tmp_path / name, form, records) for form, name in EXPORT_NAMES.items()}
    coco = coco_of(paths["coco"])
    assert [image["file_name"] for image in coco.dataset["images"]] == ODD_NAMES
    assert [row["image_uri"] for row in rows_of(paths["csv"])] == ODD_NAMES
    assert pd.read_csv(paths["csv"])["image_uri"].tolist() == ODD_NAMES
    lines = paths["jsonl"].read_text("ascii").splitlines()
    assert [json.loads(line)["image_uri"] for line in lines] == ODD_NAMES


def test_pycocotools_reads_what_was_found(tmp_path):
    records = some_records()
    coco = coco_of(export(tmp_path / "d.json", "coco", records))
    assert coco.dataset["images"] == [
        {"id": number, "file_name": name, "width": 96, "height": 64}
        for number, name in ((1, "a.jpg"), (3, "c.jpg"), (4, "d.jpg"))
    ]
    assert coco.loadCats(coco.getCatIds()) == [
        {"id": 1, "name": "circle"},
        {"id": 2, "name": "square"},
    ]
    assert coco.dataset["errors"] == [
        {"file_name": "b.jpg", "kind": "empty", "error": "The picture is empty: b.jpg"}
    ]
    assert sorted(coco.anns) == [1, 2, 3, 4, 5]
    for number, record in enumerate(records, start=1):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
        assert [detected(item) for item in annotations] == list(record.detections)
        for item in annotations:
            assert item["area"] == pytest.approx(item["bbox"][2] * item["bbox"][3], rel=1e-6)
            assert item["iscrowd"] == 0


def detected(item: dict) -> DetectedObject:
    """A COCO annotation as records have it."""
    x, y, width, height = item["bbox"]
    sides = (np.float32([x, y, x + width, y + height])).tolist()
    label = LABELS.name_of(item["category_id"])
    return DetectedObject(*sides, float32(item["score"]), item["category_id"], label)


def test_numbers_are_as_short_as_float32_allows(tmp_path):
    box = np.float32([[0.1, 1e-7, 33.3, 60]])
    found = DetectedObject(*box[0].tolist(), float32("0.7"), 1, "circle")
    record = dataclasses.replace(record_of(0), image_uri="a.jpg", detections=(found,))
    paths = {form: export(tmp_path / form, form, [record]) for form in FORMS}
    assert rows_of(paths["csv"])[0]["x1"] == "0.1"
    assert '"x1": 0.1, "y1": 1e-7, "x2": 33.3, "y2": 60.0, "score": 0.7' in paths[
        "jsonl"
    ].read_text("ascii")
    (item,) = json.loads(paths["coco"].read_text("ascii"))["annotations"]
    assert (item["bbox"][:2], item["score"]) == ([0.1, 1e-7], 0.7)
    assert item["bbox"][2] == pytest.approx(33.2, abs=1e-5)


def test_what_was_found_is_all_right_as_truth_and_as_results(tmp_path):
    records = [named(f"{seed}.jpg", 6, seed) for seed in range(8)]
    path = export(tmp_path / "d.json", "coco", records)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        results = truth.loadRes(json.loads(path.read_text())["annotations"])
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == 1


def test_annotations_with_their_names_are_predictions(tmp_path):
    records = [named(f"{seed}.jpg", 4, seed) for seed in range(3)]
    document = json.loads(export(tmp_path / "d.json", "coco", records).read_text())
    names = {image["id"]: image["file_name"] for image in document["images"]}
    rows = [{**item, "file_name": names[item["image_id"]]} for item in document["annotations"]]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    images = [
        dataclasses.replace(image, size_hw=(64, 96))
        for image in annotated(*(record.image_uri for record in records))
    ]
    found = read_predictions(tmp_path / "rows.json", images, LABELS).detections
    for seed, one in enumerate(found):
        expected = factories.detections(4, (64, 96), seed)
        assert np.array_equal(one.boxes_xyxy, expected.boxes_xyxy)
        assert np.array_equal(one.scores, expected.scores)
        assert np.array_equal(one.class_ids, expected.class_ids)


@pytest.mark.parametrize("records", [[], [error_record()], [named("a.jpg", 0)]])
def test_nothing_found_makes_whole_documents(tmp_path, records):
    coco = coco_of(export(tmp_path / "d.json", "coco", records))
    unread = sum(record.error is not None for record in records)
    assert coco.dataset["annotations"] == []
    assert len(coco.dataset["errors"]) == unread
    assert len(coco.dataset["images"]) == len(records) - unread
    assert [category["name"] for category in coco.dataset["categories"]] == list(LABELS.names)
    assert len(pd.read_csv(export(tmp_path / "d.csv", "csv", records))) == len(records)
    lines = export(tmp_path / "d.jsonl", "jsonl", records).read_text().splitlines()
    assert len(lines) == len(records)


@pytest.mark.parametrize("rows_per_batch", [37, 700, 2500])
def test_how_records_come_in_batches_makes_no_difference(tmp_path, rows_per_batch):
    records = [named(f"{n}.jpg", n % 3, n) if n % 7 else error_record() for n in range(2500)]
    paths = {form: export(tmp_path / form, form, records, rows_per_batch) for form in FORMS}
    document = json.loads(paths["coco"].read_text())
    found = sum(len(record.detections) for record in records)
    assert [item["id"] for item in document["annotations"]] == [*range(1, found + 1)]
    names = {image["id"]: image["file_name"] for image in document["images"]}
    assert names == {n: f"{n - 1}.jpg" for n in range(1, 2501) if (n - 1) % 7}
    of_picture = [names[item["image_id"]] for item in document["annotations"]]
    expected = [record.image_uri for record in records for _ in record.detections]
    assert of_picture == expected
    rows = [row for row in rows_of(paths["csv"]) if row["label"]]
    assert [row["image_uri"] for row in rows] == expected
    lines = paths["jsonl"].read_text().splitlines()
    assert [json.loads(line)["image_uri"] for line in lines] == [one.image_uri for one in records]


def test_readers_of_the_folder_do_not_see_the_exports(tmp_path):
    table = records_to_table(some_records())
    pa.parquet.write_table(table, tmp_path / "part-00000.parquet")
    for form, name in EXPORT_NAMES.items():
        export(tmp_path / name, form, some_records())
    assert pa.dataset.dataset(tmp_path).to_table().equals(table)
    assert len(pd.read_parquet(tmp_path)) == 4
    assert all(name.startswith("_") for name in EXPORT_NAMES.values())


@pytest.mark.parametrize("form", FORMS)
def test_memory_does_not_grow_with_the_records(tmp_path, form):
    table = records_to_table([named("pictures/" + "a" * 100, 5)] * 1000)
    held = []

    def batches() -> Iterator[pa.RecordBatch]:
        for _ in range(20):
            held.append(tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes())
            yield table.take(pa.array(range(1000))).combine_chunks().to_batches()[0]

    tracemalloc.start()
    export_scores(batches(), LABELS.names, str(tmp_path / "out"), form)
    tracemalloc.stop()
    assert (tmp_path / "out").stat().st_size > 9 * 2**20
    assert max(held[2:]) - held[2] < 2**20


def broken_batches() -> Iterator[pa.RecordBatch]:
    yield from records_to_table(some_records()).to_batches()
    raise LookupError("the records are gone")


@pytest.fixture(params=["tmp_path", "s3_uri", "gs_uri"])
def folder_uri(request) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.mark.parametrize("form", FORMS)
def test_an_export_is_whole_or_absent_everywhere(folder_uri, form, tmp_path_factory):
    uri = storage.join(folder_uri, "new", EXPORT_NAMES[form])
    with pytest.raises(LookupError, match="the records are gone"):
        export_scores(broken_batches(), LABELS.names, uri, form)
    assert everything_in(folder_uri) == []
    storage.write_bytes(uri, b"old")
    with pytest.raises(LookupError):
        export_scores(broken_batches(), LABELS.names, uri, form)
    assert storage.read_bytes(uri) == b"old"
    batches = records_to_table(some_records()).to_batches()
    export_scores(batches, LABELS.names, uri, form)
    plain = export(tmp_path_factory.mktemp("plain") / "d", form, some_records())
    assert storage.read_bytes(uri) == plain.read_bytes()
    assert everything_in(folder_uri) == [uri]


def everything_in(folder_uri: str) -> list[str]:
    """All files, those with hidden names too."""
    if storage.is_remote(folder_uri):
        with contextlib.suppress(StorageError):  # a store has no empty folder
            return storage.list_files(folder_uri, ("",))
        return []
    return sorted(str(path) for path in Path(folder_uri).rglob("*") if path.is_file())


@contextlib.contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Writing beyond it fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, form):
    path = tmp_path / EXPORT_NAMES[form]
    records = [named(f"{n}.jpg", 2, n) for n in range(300)]
    with (
        files_of_at_most(10_000),
        pytest.raises(StorageError, match="^Cannot write the file: .*File too large") as caught,
    ):
        export(path, form, records)
    assert caught.value.where == str(path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_that_shows_at_the_end_is_told_too(tmp_path):
    # Less than a buffer: nothing is written before the block ends.
    with (
        files_of_at_most(1000),
        pytest.raises(StorageError, match="Cannot write the file: "),
        streams.open_output(tmp_path / "a") as output,
    ):
        output.write(b"x" * 2000)
    assert list(tmp_path.iterdir()) == []


def test_a_full_temporary_folder_is_named(tmp_path):
    uri = f"fsspec+memory://{tmp_path}/a"
    with (
        files_of_at_most(1000),
        pytest.raises(StorageError, match="Cannot use a temporary file: .*TMPDIR") as caught,
        streams.open_output(uri) as output,
    ):
        output.write(b"x" * 2000)
    assert caught.value.where == tempfile.gettempdir()
    with pytest.raises(StorageError, match="Cannot read the file"):
        storage.read_bytes(uri)


@pytest.mark.parametrize("name", ["", "file/below", "nul\0"])
def test_where_no_file_can_be_is_said_before_anything_is_asked(tmp_path, name):
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(StorageError, match="Cannot write the file: "):
        export(f"{tmp_path}/{name}", "jsonl", [])
    with (
        pytest.raises(StorageError, match="Cannot use a temporary file: "),
        contextlib.ExitStack() as s,
    ):
        s.enter_context(streams.open_spool(tmp_path / "file" / "below"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_store_is_one_sentence():
    with pytest.raises(StorageError, match="Cannot open the address: nosuch://bucket/a"):
        export("nosuch://bucket/a", "csv", some_records())


@pytest.mark.parametrize("folder_uri", ["s3_uri", "gs_uri"], indirect=True)
def test_a_large_upload_arrives_as_it_was_written(folder_uri):
    pieces = [bytes([number]) * 2**20 for number in range(40)]
    uri = f"{folder_uri}/large"
    with streams.open_output(uri) as output:
        for piece in pieces:
            output.write(piece)
    assert storage.read_bytes(uri) == b"".join(pieces)


class BreaksOff(MemoryFileSystem):
    """A store that takes one piece and fails at the next; what was sent shows, as with all of Arrow's."""

    protocol = "breaksoff"
    cachable = False
    store: ClassVar[dict] = {}
    failure: BaseException

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("breaksoff://"))

    def _open(self, path, mode="rb", **options):
        file = super()._open(path, mode, **options)
        write, left = file.write, [True]

        def write_once(data):
            if not left:
                raise self.failure
            left.pop()
            return write(data)

        file.write = write_once
        return file


@pytest.mark.parametrize(
    ("failure", "raised"),
    [(OSError("reset"), StorageError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_an_upload_that_breaks_off_is_removed(failure, raised):
    fsspec.register_implementation("breaksoff", BreaksOff, clobber=True)
    BreaksOff.failure = failure
    with pytest.raises(raised), streams.open_output("breaksoff://a/b") as output:
        output.write(b"x" * 9 * 2**20)
    assert [path for path in BreaksOff.store if path.endswith("b")] == []
    with streams.open_output("breaksoff://a/c") as output:
        output.write(b"x" * 2**20)
    assert BreaksOff.store["/a/c"].getvalue() == b"x" * 2**20
