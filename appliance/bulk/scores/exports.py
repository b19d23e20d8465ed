"""Other forms of a finished job's records, for programs that read no Parquet; written beside the parts.

- `coco`: one COCO document, which pycocotools loads and annotation tools take as first proposals. The id of a
  picture is its place among the records, from 1; pictures that could not be read are in `errors` alone.
- `csv`: a row a detection, for spreadsheets. A picture without detections has one row with blank cells.
- `jsonl`: a record a line, with the keys and in the order of the service's answers over HTTP.

Numbers are float32 as in the records, in the fewest digits that read back to the same float32. A width or
height in COCO is a difference: its nine decimals lead back to the same edge of the box. JSON is plain ASCII,
for tools that open a file in the encoding of their machine; CSV is UTF-8.

In the CSV a text that a spreadsheet would run as a formula, such as a picture called `=1+1.jpg`, is written
with an apostrophe before it, and so is a text that begins with an apostrophe: whoever takes one apostrophe
off the beginning of every text has the exact names back. COCO and JSONL change no name.

Whatever the number of records, only a slice of one batch is in memory at a time.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from appliance.storage import streams

if TYPE_CHECKING:
    import pyarrow as pa

ExportFormat = Literal["coco", "csv", "jsonl"]

# Readers of Parquet folders skip names that begin with an underscore.
EXPORT_NAMES: dict[ExportFormat, str] = {
    "coco": "_detections.coco.json",
    "csv": "_detections.csv",
    "jsonl": "_records.jsonl",
}
_PICTURES_AT_ONCE = 1000
_SIDES = ("x1", "y1", "x2", "y2")
_CSV_OF_PICTURE = ("image_uri", "width_px", "height_px", "error_kind", "error")
_CSV_OF_DETECTION = ("label", "class_id", "score", *_SIDES)
_CSV_COLUMNS = (_CSV_OF_PICTURE[0], *_CSV_OF_DETECTION, *_CSV_OF_PICTURE[1:])
# What spreadsheets take for the beginning of a formula, in full width too, and the apostrophe itself.
_NOT_PLAIN = "^([=+\\-@\uff1d\uff0b\uff0d\uff20\t\r\n'])"


def export_scores(
    batches: Iterable[pa.RecordBatch], labels: Sequence[str], uri: str, form: ExportFormat
) -> None:
    """Writes the records of a job in another form. The file is there whole, or not at all.

    Args:
        batches: Of `arrow_schema()`, in the order of the input. What they raise goes through.
        labels: Of the model, from class id 1.
        uri: The file; one that is there is replaced.
        form: Which form.

    Raises:
        StorageError: It cannot be written.
    """
    slices = (
        batch.slice(first, _PICTURES_AT_ONCE)
        for batch in batches
        for first in range(0, batch.num_rows, _PICTURES_AT_ONCE)
    )
    with streams.open_output(uri) as output:
        if form == "coco":
            _write_coco(slices, labels, output, uri)
        elif form == "csv":
            _write_csv(slices, output)
        else:
            for records in slices:
                lines = _json(records.to_struct_array()).to_pylist()
                output.write("".join(f"{line}\n" for line in lines).encode())


def _counts(records: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """How many detections each picture has."""
    import pyarrow.compute as pc

    counts = pc.list_value_length(records.column("detections"))
    return np.asarray(counts.to_numpy(), np.int64)


def _write_csv(slices: Iterator[pa.RecordBatch], output: streams.Output) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv

    options = pyarrow.csv.WriteOptions(include_header=False)
    output.write((",".join(_CSV_COLUMNS) + "\n").encode())
    for records in slices:
        counts, found = _counts(records), records.column("detections").flatten()
        rows = np.maximum(counts, 1)
        picture = np.repeat(np.arange(len(counts)), rows)
        blank = np.repeat(counts == 0, rows)
        detection = pa.array(np.cumsum(~blank) - 1, mask=blank)
        columns = {name: records.column(name).take(pa.array(picture)) for name in _CSV_OF_PICTURE}
        columns |= {name: found.field(name).take(detection) for name in _CSV_OF_DETECTION}
        for name in ("image_uri", "label", "error_kind", "error"):
            columns[name] = pc.replace_substring_regex(columns[name], _NOT_PLAIN, r"'\1")
        buffer = io.BytesIO()
        table = pa.table({name: columns[name] for name in _CSV_COLUMNS})
        pyarrow.csv.write_csv(table, buffer, options)
        output.write(buffer.getvalue())


def _write_coco(
    slices: Iterator[pa.RecordBatch], labels: Sequence[str], output: streams.Output, uri: str
) -> None:
    import pyarrow.compute as pc

    categories = [{"id": index, "name": name} for index, name in enumerate(labels, start=1)]
    head = {"info": {"description": "Detections of a batch job"}, "categories": categories}
    output.write(json.dumps(head)[:-1].encode())
    pictures = detections = 0
    # Annotations are most of the document, so they are what is written at once.
    with streams.open_spool(uri) as image_spool, streams.open_spool(uri) as error_spool:
        annotations = _JsonList("annotations", output)
        images, errors = _JsonList("images", image_spool), _JsonList("errors", error_spool)
        for records in slices:
            image_ids = pictures + np.arange(1, len(records) + 1)
            annotations.add(_annotations(records, image_ids, detections))
            is_unread = pc.is_valid(records.column("error_kind"))
            images.add(_images(records, image_ids).filter(pc.invert(is_unread)))
            errors.add(_errors(records).filter(is_unread))
            pictures += len(records)
            detections += int(_counts(records).sum())
        for items in (annotations, images, errors):
            items.end()
        for spool in (image_spool, error_spool):
            for piece in spool.pieces():
                output.write(piece)
    output.write(b"}\n")


def _images(records: pa.RecordBatch, image_ids: npt.NDArray[np.int64]) -> pa.StructArray:
    uris, *size_wh = (records.column(name) for name in ("image_uri", "width_px", "height_px"))
    return _structs(id=image_ids, file_name=uris, width=size_wh[0], height=size_wh[1])


def _errors(records: pa.RecordBatch) -> pa.StructArray:
    uris, kinds, errors = (records.column(name) for name in ("image_uri", "error_kind", "error"))
    return _structs(file_name=uris, kind=kinds, error=errors)


def _annotations(
    records: pa.RecordBatch, image_ids: npt.NDArray[np.int64], before: int
) -> pa.StructArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    found = records.column("detections").flatten()
    x1, y1, x2, y2 = (found.field(side).to_numpy().astype(np.float64) for side in _SIDES)
    corner = [_short(found.field(side)).to_numpy() for side in ("x1", "y1")]
    size = [pc.round(pa.array(side), 9).to_numpy() for side in (x2 - x1, y2 - y1)]
    boxes_xywh = np.stack([*corner, *size], axis=1)
    return _structs(
        id=before + np.arange(1, len(found) + 1),
        image_id=np.repeat(image_ids, _counts(records)),
        category_id=found.field("class_id"),
        bbox=pa.FixedSizeListArray.from_arrays(pa.array(boxes_xywh.ravel()), 4),
        area=((x2 - x1) * (y2 - y1)).astype(np.float32),
        score=found.field("score"),
        iscrowd=np.zeros(len(found), np.int64),
    )


def _structs(**columns: Any) -> pa.StructArray:
    import pyarrow as pa

    return pa.StructArray.from_arrays(list(map(pa.array, columns.values())), names=list(columns))


class _JsonList:
    """A member of a JSON object that is a list, written as its items come; other members stand before it."""

    def __init__(self, key: str, output: streams.Output) -> None:
        output.write(f', "{key}": ['.encode())
        self._output = output
        self._before = "\n"

    def add(self, items: pa.StructArray) -> None:
        if len(items):
            text = ",\n".join(_json(items).to_pylist())
            self._output.write((self._before + text).encode())
            self._before = ",\n"

    def end(self) -> None:
        self._output.write(b"\n]")


def _json(values: pa.Array) -> pa.StringArray:
    """Each value as JSON; made column by column, for a Python object for each number would take minutes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_struct(kind):
        parts: list[Any] = []
        for index, (name, column) in enumerate(zip(kind.names, values.flatten(), strict=True)):
            parts += [f"{', ' if index else '{'}{json.dumps(name)}: ", _json(column)]
        return pc.binary_join_element_wise(*parts, "}", "")
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        ends = np.cumsum(pc.list_value_length(values).to_numpy(), dtype=np.int32)
        offsets = pa.array(np.concatenate([np.zeros(1, np.int32), ends]))
        lists = pa.ListArray.from_arrays(offsets, _json(values.flatten()))
        return pc.binary_join_element_wise("[", pc.binary_join(lists, ", "), "]", "")
    if pa.types.is_string(kind):
        encoded = values.dictionary_encode()
        texts = pa.array(map(json.dumps, encoded.dictionary.to_pylist()), pa.string())
        return pc.fill_null(texts.take(encoded.indices), "null")
    texts = pc.cast(values, pa.string())
    if pa.types.is_floating(kind):
        # Arrow writes 1 for 1.0, which some readers take for a whole number.
        texts = pc.replace_substring_regex(texts, "^(-?[0-9]+)$", r"\1.0")
    return pc.fill_null(texts, "null")


def _short(values: pa.FloatArray) -> pa.DoubleArray:
    """The float64 with the fewest digits that read back to the same float32."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.cast(pc.cast(values, pa.string()), pa.float64())
