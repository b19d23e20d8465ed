"""Where a batch job writes: a folder that shows all of a job or nothing of it.

    OUTPUT/
      parts/part-00000-RUN.parquet ...   the records, in the order of the input listing
      _manifest.json                     which parts count, of which model and which input
      _summary.json                      counts and speed
      _staging-RUN/                      while the job runs

Workers write parts into the staging folder; the commit renames that folder to `parts` in one step and
writes the manifest last. So `pandas.read_parquet(OUTPUT)`, pyarrow datasets (both skip names that begin
with an underscore) and DuckDB on `OUTPUT/parts/*.parquet` never see half a job, and `open_dataset` checks
the manifest besides. A part has the same name on every attempt to write it: a retry replaces it.

Object stores cannot rename a folder. There the parts are written to `parts` at once, and only readers
that obey the manifest see all or nothing. This module knows nothing of Ray.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance import storage
from appliance.errors import StorageError
from appliance.records import Record, table_to_records

if TYPE_CHECKING:
    import pyarrow.dataset

FORMAT_VERSION = 1
MANIFEST = "_manifest.json"
SUMMARY = "_summary.json"
PARTS = "parts"
_STAGING = "_staging-"
_REPLACED = "_replaced-"


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
class Manifest:
    """What a finished job says of its output.

    Attributes:
        run_id: Stands in the names of the parts.
        created_at: UTC, ISO 8601.
        rows: Records in all parts together.
        parts: In the order of the input listing.
        model: `uri`, `name`, `version`, `sha256` and `labels` of the model file.
        input: `uri`, number of `images` and `listing_sha256`.
        settings: What the job was asked to do.
        format_version: Of this document.
    """

    run_id: str
    created_at: str
    rows: int
    parts: tuple[Part, ...]
    model: Mapping[str, Any]
    input: Mapping[str, Any]
    settings: Mapping[str, Any]
    format_version: int = FORMAT_VERSION


class ScoresFolder:
    """An output that is being written; `create` it, let workers write parts, then `commit`.

    Attributes:
        uri: The folder.
        run_id: Unique to this job.
    """

    def __init__(self, uri: str, run_id: str, *, overwrite: bool = False) -> None:
        self.uri = uri.rstrip("/")
        self.run_id = run_id
        self._overwrite = overwrite
        self._committed = False

    @classmethod
    def create(cls, uri: str, *, overwrite: bool = False) -> ScoresFolder:
        """Makes sure that the output can be written, before any work is done.

        Args:
            uri: An empty or a new folder, or a prefix of an object store.
            overwrite: Whether an earlier job's output may be replaced when this one has succeeded.

        Raises:
            StorageError: There is something already, or the folder cannot be written.
        """
        folder = cls(uri, uuid.uuid4().hex[:8], overwrite=overwrite)
        if storage.is_remote(uri):
            folder._refuse_remote_output()
            return folder
        path = storage.local_path(uri)
        if path.exists() and not path.is_dir():
            raise StorageError(
                "The output is no folder", where=path, got="a file", hint="Name a new folder"
            )
        try:
            _refuse_contents(path, overwrite)
            path.joinpath(_STAGING + folder.run_id).mkdir(parents=True)
        except OSError as error:
            raise StorageError(
                "Cannot write to the output folder",
                where=path,
                got=error.strerror,
                hint="Check the permissions, or choose another folder",
            ) from None
        return folder

    def part_name(self, index: int) -> str:
        """The file name of a part, the same on every attempt to write it."""
        return f"part-{index:05d}-{self.run_id}.parquet"

    def part_uri(self, index: int) -> str:
        """Where a worker writes a part."""
        folder = PARTS if storage.is_remote(self.uri) else _STAGING + self.run_id
        return storage.join(self.uri, folder, self.part_name(index))

    def commit(self, manifest: Manifest, summary: Mapping[str, Any]) -> None:
        """Makes the job visible: parts first, the manifest last.

        Raises:
            StorageError: Another job was faster, or the disk refuses.
        """
        if not storage.is_remote(self.uri):
            self._publish_parts()
        storage.write_bytes(storage.join(self.uri, SUMMARY), _json(summary))
        storage.write_bytes(storage.join(self.uri, MANIFEST), _json(asdict(manifest)))
        self._committed = True
        if not storage.is_remote(self.uri):
            shutil.rmtree(self._path / (_REPLACED + self.run_id), ignore_errors=True)

    def discard(self) -> None:
        """Removes what an uncommitted job has left; nothing after a commit. Never raises."""
        if self._committed or storage.is_remote(self.uri):
            return
        shutil.rmtree(self._path / (_STAGING + self.run_id), ignore_errors=True)
        if self._path.is_dir() and not any(self._path.iterdir()):
            self._path.rmdir()

    @property
    def _path(self) -> Path:
        return storage.local_path(self.uri)

    def _publish_parts(self) -> None:
        parts = self._path / PARTS
        try:
            if self._overwrite and parts.exists():
                os.rename(parts, self._path / (_REPLACED + self.run_id))
            os.rename(self._path / (_STAGING + self.run_id), parts)
        except OSError as error:
            raise StorageError(
                "Cannot publish the scores",
                where=self._path,
                got=error.strerror,
                hint="See whether another job writes to the same folder",
            ) from None

    def _refuse_remote_output(self) -> None:
        try:
            storage.read_bytes(storage.join(self.uri, MANIFEST))
        except StorageError:
            return
        raise StorageError(
            "The output exists already",
            where=self.uri,
            hint="Choose another prefix; an object store cannot replace one in a single step"
            if self._overwrite
            else "Choose another prefix",
        )


def read_manifest(output_uri: str | os.PathLike[str]) -> Manifest:
    """The manifest of a finished job.

    Raises:
        StorageError: There is none, or it is not one that this version reads.
    """
    uri = storage.join(output_uri, MANIFEST)
    try:
        document = json.loads(storage.read_bytes(uri))
        if document["format_version"] > FORMAT_VERSION:
            raise ValueError(f"format {document['format_version']}")
        parts = tuple(Part(**part) for part in document["parts"])
        return Manifest(**{**document, "parts": parts})
    except StorageError as error:
        raise StorageError(
            "No scores of a finished job",
            where=output_uri,
            got=f"no {MANIFEST}",
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


def _refuse_contents(path: Path, overwrite: bool) -> None:
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    ours = {PARTS, MANIFEST, SUMMARY}
    found = {name for name in names if not name.startswith((_STAGING, _REPLACED))}
    if not found:
        return
    foreign = sorted(found - ours)
    if PARTS in found:
        foreign += _foreign_parts(path / PARTS)
    if foreign:
        raise StorageError(
            "The output folder holds other files",
            where=path,
            got=", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else ""),
            hint="Name a new folder",
        )
    if not overwrite:
        raise StorageError(
            "The output exists already",
            where=path,
            hint="Name a new folder, or overwrite it with `--overwrite`",
        )


def _foreign_parts(folder: Path) -> Sequence[str]:
    if not folder.is_dir():
        return [PARTS]
    names = sorted(entry.name for entry in folder.iterdir())
    return [name for name in names if not (name.startswith("part-") and name.endswith(".parquet"))]


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
