"""What a finished output says of itself, and how its records are read back.

The manifest is what makes scores visible: it is written last, in one piece, and names every part that
counts. Who reads through it sees all of a job or nothing, in an object store as on a disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from appliance import storage
from appliance.errors import StorageError
from appliance.records import Record, table_to_records

if TYPE_CHECKING:
    import pyarrow.dataset

FORMAT_VERSION = 2
MANIFEST = "_manifest.json"
SUMMARY = "_summary.json"


@dataclass(frozen=True)
class Part:
    """One committed Parquet file.

    Attributes:
        path: Relative to the output folder.
        rows: Number of records in it.
        size_bytes: Its length.
    """

    path: str
    rows: int
    size_bytes: int


@dataclass(frozen=True)
class Run:
    """What one job has written.

    Attributes:
        run_id: Stands in the names of the parts.
        created_at: When it began, UTC, ISO 8601.
        rows: Records in all its parts together.
        parts: In the order of the input listing.
        model: `uri`, `name`, `version`, `sha256` and `labels` of the model file.
        input: `uri`, `kind`, options, number of `images` and `listing_sha256`.
        settings: What decides what the records say.
    """

    run_id: str
    created_at: str
    rows: int
    parts: tuple[Part, ...]
    model: Mapping[str, Any]
    input: Mapping[str, Any]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What lies in an output.

    Attributes:
        runs: The job that made it, then those that appended to it.
        format_version: Of this document.
    """

    runs: tuple[Run, ...]
    format_version: int = FORMAT_VERSION

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts, in the order of their rows."""
        return tuple(part for run in self.runs for part in run.parts)

    @property
    def rows(self) -> int:
        """All records."""
        return sum(run.rows for run in self.runs)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes of all models that scored, those of the first one first."""
        names = (label for run in self.runs for label in run.model["labels"])
        return tuple(dict.fromkeys(names))

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Manifest:
        """Reads this format and the one before it, which knew a single job.

        Raises:
            ValueError, KeyError, TypeError: It is neither.
        """
        version = document["format_version"]
        if version > FORMAT_VERSION:
            raise ValueError(f"format {version}")
        runs = [{**document}] if version == 1 else document["runs"]
        for run in runs:
            run.pop("format_version", None)
        return cls(
            tuple(
                Run(**{**run, "parts": tuple(Part(**part) for part in run["parts"])})
                for run in runs
            )
        )


def to_bytes(document: Mapping[str, Any]) -> bytes:
    """A document as it lies in the output."""
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def read_manifest(output_uri: str | os.PathLike[str]) -> Manifest:
    """The manifest of a finished job.

    Raises:
        StorageError: There is none, or it is not one that this version reads.
    """
    uri = storage.join(output_uri, MANIFEST)
    try:
        return Manifest.from_json(json.loads(storage.read_bytes(uri)))
    except StorageError as error:
        raise StorageError(
            "No scores of a finished job",
            where=output_uri,
            got=error.got if error.transient else f"no {MANIFEST}",
            hint="Run the scoring job, or wait for its end",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            "The manifest cannot be read",
            where=uri,
            got=str(error),
            expected=f"format {FORMAT_VERSION}",
        ) from None


def open_dataset(output_uri: str | os.PathLike[str]) -> pyarrow.dataset.Dataset:
    """The committed records as a pyarrow dataset, which reads lazily and filters while it reads.

    Raises:
        StorageError: No job has finished there, or parts of it are gone.
    """
    import pyarrow.dataset
    from pyarrow import fs

    from appliance.records import arrow_schema

    manifest = read_manifest(output_uri)
    text = str(output_uri)
    if storage.is_remote(text):
        filesystem, root = storage.open_store(text)
    else:
        filesystem, root = fs.LocalFileSystem(), os.path.abspath(storage.local_path(text))
    paths = [f"{root.rstrip('/')}/{part.path}" for part in manifest.parts]
    for part, info in zip(manifest.parts, filesystem.get_file_info(paths), strict=True):
        if info.type != fs.FileType.File or info.size != part.size_bytes:
            raise StorageError(
                "The scores are incomplete",
                where=info.path,
                got="no file" if info.type != fs.FileType.File else f"{info.size:,} bytes",
                expected=f"{part.size_bytes:,} bytes, by the manifest",
                hint="Run the scoring job again with overwrite",
            )
    return pyarrow.dataset.dataset(
        paths, schema=arrow_schema(), format="parquet", filesystem=filesystem
    )


def read_records(output_uri: str | os.PathLike[str]) -> list[Record]:
    """All committed records, in the order of the input listing.

    Raises:
        StorageError: No job has finished there, or parts of it are gone.
    """
    return table_to_records(open_dataset(output_uri).to_table())
