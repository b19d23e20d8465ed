"""Records: from detections, through Parquet and through JSON, without loss."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import factories
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import ImageError, LabelError, StorageError
from appliance.labels import LabelMap
from appliance.records import (
    DetectedObject,
    Record,
    arrow_schema,
    read_detections,
    records_agree,
    records_to_table,
    table_to_records,
)

LABELS = LabelMap(("circle", "square"))
SHA256 = hashlib.sha256(b"picture").hexdigest()
MODEL = {"content_sha256": SHA256, "model_name": "shelf", "model_version": "7"}


def record_of(count: int, seed: int = 0) -> Record:
    found = factories.detections(count, (64, 96), seed)
    return Record.of_detections(found, LABELS, image_uri=f"file:///{seed}.jpg", **MODEL)


def error_record() -> Record:
    error = ImageError("The picture is empty", kind="empty", where="b.jpg")
    return Record.of_error(error, image_uri="b.jpg", **{**MODEL, "content_sha256": None})


def all_records() -> list[Record]:
    return [record_of(3), error_record(), record_of(0, seed=1)]


def test_a_record_says_what_the_detections_say():
    found = factories.detections(3)
    record = Record.of_detections(found, LABELS, image_uri="a.jpg", **MODEL)
    assert (record.width_px, record.height_px) == (96, 64)
    assert (record.model_name, record.model_version) == ("shelf", "7")
    assert (record.error, record.error_kind) == (None, None)
    for index, detected in enumerate(record.detections):
        assert (detected.x1, detected.y1, detected.x2, detected.y2) == tuple(
            found.boxes_xyxy[index]
        )
        assert detected.score == found.scores[index]
        assert detected.label == LABELS.name_of(found.class_ids[index])


def test_detections_come_back_from_a_table_picture_by_picture():
    table = records_to_table(all_records())
    batch, empty = table.to_batches()[0], records_to_table([]).to_batches()
    found = read_detections(batch)
    expected = factories.detections(3, (64, 96), 0)
    assert np.array_equal(found[0].boxes_xyxy, expected.boxes_xyxy)
    assert np.array_equal(found[0].scores, expected.scores)
    assert np.array_equal(found[0].class_ids, expected.class_ids)
    assert [(len(one), one.size_hw) for one in found] == [(3, (64, 96)), (0, (1, 1)), (0, (64, 96))]
    assert [len(one) for one in read_detections(batch.slice(1))] == [0, 0]
    assert [one for part in empty for one in read_detections(part)] == []


def test_a_class_that_the_labels_do_not_know_is_refused():
    with pytest.raises(LabelError, match="Unknown class id"):
        Record.of_detections(
            factories.detections(9), LabelMap(("circle",)), image_uri="a.jpg", **MODEL
        )


def test_an_error_makes_a_record_too():
    record = error_record()
    assert record.error == "The picture is empty: b.jpg"
    assert record.error_kind == "empty"
    assert record.detections == ()
    assert record.width_px is record.height_px is record.content_sha256 is None
    missing = Record.of_error(StorageError("Gone"), image_uri="c.jpg", **MODEL)
    assert missing.error_kind == "StorageError"


def test_parquet_and_back_is_equal(tmp_path):
    path = tmp_path / "records.parquet"
    pq.write_table(records_to_table(all_records()), path)
    table = pq.read_table(path)
    assert table.schema.equals(arrow_schema())
    assert table_to_records(table) == all_records()


def test_json_and_back_is_equal():
    text = json.dumps([record.to_row() for record in all_records()])
    assert [Record.from_row(row) for row in json.loads(text)] == all_records()


def test_parquet_and_json_have_the_same_keys_in_the_same_order():
    row = record_of(1).to_row()
    assert list(row) == arrow_schema().names
    fields = arrow_schema().field("detections").type.value_type
    assert list(row["detections"][0]) == [field.name for field in fields]


def test_no_records_make_an_empty_table():
    table = records_to_table([])
    assert table.schema.equals(arrow_schema())
    assert table_to_records(table) == []


def test_a_row_without_its_picture_is_refused():
    row = {**record_of(1).to_row(), "image_uri": None}
    table = pa.Table.from_pylist([row], schema=arrow_schema())
    with pytest.raises(pa.ArrowInvalid, match="non-nullable"):
        pq.write_table(table, pa.BufferOutputStream())


def changed(record: Record, **fields) -> Record:
    """The record with its best detection changed."""
    first, *others = record.detections
    detections = (dataclasses.replace(first, **fields), *others)
    return dataclasses.replace(record, detections=detections)


def test_records_agree_within_the_tolerances_and_in_any_order():
    record = record_of(4)
    best = record.detections[0]
    assert records_agree(record, record)
    assert records_agree(error_record(), error_record())
    assert records_agree(record, dataclasses.replace(record, detections=record.detections[::-1]))
    assert records_agree(record, changed(record, x2=best.x2 + 0.49, score=best.score - 0.0009))
    assert records_agree(record, changed(record, y1=best.y1 + 3), box_tolerance_px=3.01)


def test_records_disagree_beyond_the_tolerances():
    record = record_of(4)
    best = record.detections[0]
    others = [
        changed(record, x1=best.x1 - 0.51),
        changed(record, y2=best.y2 + 0.51),
        changed(record, score=best.score - 0.0011),
        changed(record, class_id=best.class_id + 1),
        dataclasses.replace(record, detections=record.detections[1:]),
        dataclasses.replace(record, detections=(record.detections[1], *record.detections[1:])),
        error_record(),
    ]
    assert [other for other in others if records_agree(record, other)] == []


float32 = st.floats(0, 1e6, width=32)
objects = st.builds(
    DetectedObject,
    x1=float32,
    y1=float32,
    x2=float32,
    y2=float32,
    score=st.floats(0, 1, width=32),
    class_id=st.integers(1, 2**31 - 1),
    label=st.text(st.characters(codec="utf-8"), min_size=1),
)
pixels = st.none() | st.integers(1, 2**31 - 1)
text = st.text(st.characters(codec="utf-8"))
records = st.builds(
    Record,
    image_uri=text,
    content_sha256=st.none() | text,
    width_px=pixels,
    height_px=pixels,
    model_name=text,
    model_version=text,
    detections=st.lists(objects, max_size=3).map(tuple),
    error=st.none() | text,
    error_kind=st.none() | text,
)


@settings(deadline=None, max_examples=50)
@given(st.lists(records, max_size=4))
def test_any_records_survive_arrow_and_json(written):
    assert table_to_records(records_to_table(written)) == written
    assert [
        Record.from_row(json.loads(json.dumps(record.to_row()))) for record in written
    ] == written
