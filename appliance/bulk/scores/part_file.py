"""One part of the output: a Parquet file of records that tells in its footer what is in it.

The footer is what lets a job go on after a kill: whether a part is done, and what it adds to the summary, is
read from the part itself, so the two can never disagree. The file says nothing of time or place: written
twice, it is the same twice.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from appliance import storage
from appliance.errors import StorageError
from appliance.records import Record, records_to_table

_KEY = b"appliance.part"
EXAMPLES_PER_KIND = 3


@dataclass(frozen=True)
class PartCounts:
    """What is in a part.

    Attributes:
        index: Which part, from 0.
        rows: Records.
        size_bytes: Length of the file.
        model_version: Version of the model that made them.
        errors_by_kind: Word -> pictures that could not be read.
        objects_per_label: Label -> detections.
        error_examples: Word -> messages of the first few such pictures.
    """

    index: int
    rows: int
    size_bytes: int
    model_version: str
    errors_by_kind: Counter[str] = field(default_factory=Counter)
    objects_per_label: Counter[str] = field(default_factory=Counter)
    error_examples: dict[str, list[str]] = field(default_factory=dict)


def write_part(uri: str, index: int, records: Sequence[Record], model_version: str) -> PartCounts:
    """Writes a part so that it is there whole or not at all.

    Raises:
        StorageError: It cannot be written.
    """
    import pyarrow.parquet

    examples: dict[str, list[str]] = {}
    for record in records:
        if record.error_kind is not None:
            of_kind = examples.setdefault(record.error_kind, [])
            of_kind.extend([str(record.error)] if len(of_kind) < EXAMPLES_PER_KIND else [])
    counts = PartCounts(
        index,
        len(records),
        0,
        model_version,
        Counter(record.error_kind for record in records if record.error_kind is not None),
        Counter(found.label for record in records for found in record.detections),
        examples,
    )
    table = records_to_table(records)
    buffer = io.BytesIO()
    footer = {_KEY: json.dumps(vars(counts), sort_keys=True).encode()}
    pyarrow.parquet.write_table(table.replace_schema_metadata(footer), buffer, compression="zstd")
    data = buffer.getvalue()
    storage.write_bytes(uri, data)
    return PartCounts(**{**vars(counts), "size_bytes": len(data)})


def read_counts(uri: str, size_bytes: int) -> PartCounts | None:
    """What a part says of itself; None if the file is damaged or no part.

    Args:
        uri: The file.
        size_bytes: Its length.

    Raises:
        StorageError: It cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet

    with storage.open_input(uri) as stream:
        try:
            parquet = pyarrow.parquet.ParquetFile(stream)
            document = json.loads(parquet.schema_arrow.metadata[_KEY])
            if parquet.metadata.num_rows != document["rows"]:
                return None
            counters = ("errors_by_kind", "objects_per_label")
            return PartCounts(
                **{
                    **document,
                    **{name: Counter(document[name]) for name in counters},
                    "size_bytes": size_bytes,
                }
            )
        except StorageError:
            raise
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
            return None
