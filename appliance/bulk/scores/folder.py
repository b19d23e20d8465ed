"""Where a batch job writes: a folder that shows all of a job or nothing of it, and outlives any kill.

    OUTPUT/
      parts/RUN/part-00000-RUN.parquet ...   the records, in the order of the input listing
      _manifest.json                         which parts count, of which model and which input
      _summary.json                          counts and speed
      _job-RUN/                              while the job is unfinished:
        job.json                               what it is, written when all below is in place
        listing.parquet                        its pictures
        parts/                                 the parts that are done
        commit.json                            written when all are: from then on the job is decided

A part appears under its name in one step and is the same on every attempt to write it, so whatever dies,
the same command goes on with the parts that are missing. On a disk the commit renames the folder of parts
and then writes the manifest: `pandas.read_parquet(OUTPUT)`, pyarrow datasets (both skip names that begin
with an underscore) and DuckDB on `OUTPUT/parts/**/*.parquet` never see half a job, and `open_dataset` checks
the manifest besides. A commit that is interrupted is finished by the next start.

Object stores cannot rename a folder: there the commit copies parts one by one, for which a store needs
seconds, and only readers that obey the manifest see all or nothing during that time. This module knows
nothing of Ray.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from appliance import storage
from appliance.bulk.inputs.listing import InputKind, Listing, write_listing
from appliance.bulk.scores.exports import EXPORT_NAMES
from appliance.bulk.scores.manifest import (
    MANIFEST,
    SUMMARY,
    Manifest,
    Part,
    Run,
    read_manifest,
    to_bytes,
)
from appliance.bulk.scores.part_file import PartCounts, read_counts
from appliance.errors import StorageError
from appliance.storage import folders
from appliance.storage.failures import reason
from appliance.storage.ownership import LEASE, LOCK

PARTS = "parts"
_JOB = "_job-"
_PLAN, _LISTING, _COMMIT, _REPLACED = "job.json", "listing.parquet", "commit.json", "replaced"
_THREADS = 16

Mode = Literal["new", "overwrite", "append"]


@dataclass(frozen=True)
class JobPlan:
    """What a job set out to do; it does not change while the job is unfinished.

    Attributes:
        run_id: Unique to the job; stands in the names of its parts.
        created_at: UTC, ISO 8601.
        mode: What becomes of an output that was there before.
        model: As in `Run`.
        input: As in `Run`.
        settings: As in `Run`.
        kind: How the containers of its pictures are read.
        images: Pictures.
        parts: Parts they are cut into.
        images_per_part: Pictures of each but the last.
    """

    run_id: str
    created_at: str
    mode: Mode
    model: Mapping[str, Any]
    input: Mapping[str, Any]
    settings: Mapping[str, Any]
    kind: InputKind
    images: int
    parts: int
    images_per_part: int

    def rows_of(self, index: int) -> int:
        """Pictures of a part."""
        return min(self.images_per_part, self.images - index * self.images_per_part)


class ScoresFolder:
    """An output. Whoever changes it must hold it by `ownership.owned`.

    Args:
        uri: A folder, which need not exist, or a prefix of an object store.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/") or uri

    def prepare(self) -> None:
        """Makes a local folder, and refuses one that holds what is not ours.

        Raises:
            StorageError: There is something else, or the folder cannot be written.
        """
        if not storage.is_remote(self.uri):
            path = storage.local_path(self.uri)
            if path.exists() and not path.is_dir():
                raise StorageError(
                    "The output is no folder", where=path, got="a file", hint="Name a new folder"
                )
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(
                    "Cannot write to the output folder",
                    where=path,
                    got=reason(error),
                    hint="Check the permissions, or choose another folder",
                ) from None
        foreign = self._foreign()
        if foreign:
            raise StorageError(
                "The output folder holds other files",
                where=self.uri,
                got=", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else ""),
                hint="Name a new folder",
            )

    def finished(self) -> Manifest | None:
        """What lies in it; None before the first job has finished.

        Raises:
            StorageError: It cannot be looked into.
        """
        if not folders.exists(storage.join(self.uri, MANIFEST)):
            return None
        return read_manifest(self.uri)

    def holds_parts(self) -> bool:
        """Whether scores lie in it, with or without a manifest.

        Raises:
            StorageError: It cannot be looked into.
        """
        return bool(folders.entries(storage.join(self.uri, PARTS)))

    def unfinished(self) -> UnfinishedJob | None:
        """The job that was begun here and has not been finished.

        Raises:
            StorageError: It cannot be looked into.
        """
        for name in folders.entries(self.uri):
            if not name.startswith(_JOB):
                continue
            if folders.exists(storage.join(self.uri, name, _PLAN)):
                document = storage.read_bytes(storage.join(self.uri, name, _PLAN))
                return UnfinishedJob(self.uri, JobPlan(**json.loads(document)))
            # What a job left that was killed before it had begun, or a worker that outlived its job.
            folders.remove_folder(storage.join(self.uri, name))
        return None

    def begin(self, listing: Listing, images_per_part: int, **facts: Any) -> UnfinishedJob:
        """Begins a job.

        Args:
            listing: Its pictures.
            images_per_part: How many of them make a part.
            facts: The other attributes of `JobPlan`.

        Raises:
            StorageError: The folder cannot be written.
        """
        # So that readers who go by names find the runs of an output in their order.
        run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        folder = storage.join(self.uri, _JOB + run_id)
        parts = write_listing(storage.join(folder, _LISTING), listing, images_per_part)
        plan = JobPlan(
            run_id=run_id,
            kind=listing.kind,
            images=len(listing),
            parts=parts,
            images_per_part=images_per_part,
            **facts,
        )
        storage.write_bytes(storage.join(folder, _PLAN), to_bytes(asdict(plan)))
        return UnfinishedJob(self.uri, plan)

    def remove_if_empty(self) -> None:
        """Removes a local folder in which nothing lies. Never raises."""
        if not storage.is_remote(self.uri):
            path = storage.local_path(self.uri)
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    def _foreign(self) -> Sequence[str]:
        ours = {PARTS, MANIFEST, SUMMARY, LOCK, *EXPORT_NAMES.values()}
        found = [
            name
            for name in folders.entries(self.uri)
            if name not in ours and not name.startswith((_JOB, LEASE)) and name
        ]
        parts = storage.join(self.uri, PARTS)
        if not storage.is_remote(parts) and storage.local_path(parts).is_file():
            return [*found, PARTS]
        # Outputs of earlier versions hold parts, later ones a folder for each job.
        return found + [
            f"{PARTS}/{name}"
            for name in folders.entries(parts)
            if "." in name and not (name.startswith("part-") and name.endswith(".parquet"))
        ]


class UnfinishedJob:
    """A job between its beginning and its commit.

    Attributes:
        plan: What it set out to do.
    """

    def __init__(self, output_uri: str, plan: JobPlan) -> None:
        self.plan = plan
        self._output_uri = output_uri
        self._folder = storage.join(output_uri, _JOB + plan.run_id)

    @property
    def listing_uri(self) -> str:
        """Where its listing lies."""
        return storage.join(self._folder, _LISTING)

    def part_name(self, index: int) -> str:
        """The file name of a part, the same on every attempt to write it."""
        return f"part-{index:05d}-{self.plan.run_id}.parquet"

    def part_uri(self, index: int) -> str:
        """Where a worker writes a part."""
        return storage.join(self._folder, PARTS, self.part_name(index))

    def done(self) -> dict[int, PartCounts]:
        """The parts that are there, by their index; damaged ones count as missing.

        Raises:
            StorageError: They cannot be read.
        """
        wanted = {self.part_name(index): index for index in range(self.plan.parts)}
        sizes = folders.sizes_bytes(storage.join(self._folder, PARTS))
        there = [(wanted[name], size) for name, size in sizes.items() if name in wanted]
        with ThreadPoolExecutor(_THREADS) as pool:
            found = pool.map(lambda part: read_counts(self.part_uri(part[0]), part[1]), there)
            return {
                counts.index: counts
                for counts in found
                if counts is not None and counts.rows == self.plan.rows_of(counts.index)
            }

    def decided(self) -> Mapping[str, Any] | None:
        """The summary of a job all of whose parts were done when it was interrupted, else None.

        Raises:
            StorageError: It cannot be looked into.
        """
        uri = storage.join(self._folder, _COMMIT)
        if not folders.exists(uri):
            return None
        summary: Mapping[str, Any] = json.loads(storage.read_bytes(uri))["summary"]
        return summary

    def decide(
        self, parts: Sequence[PartCounts], summary: Mapping[str, Any], before: Manifest | None
    ) -> None:
        """Writes down that the job is done: from here on `publish` is all that is left.

        Args:
            parts: All of them, in order.
            summary: For people.
            before: What lies in the output already, if it stays.

        Raises:
            StorageError: It cannot be written.
        """
        plan = self.plan
        run = Run(
            run_id=plan.run_id,
            created_at=plan.created_at,
            rows=sum(part.rows for part in parts),
            parts=tuple(
                Part(
                    f"{PARTS}/{plan.run_id}/{self.part_name(part.index)}",
                    part.rows,
                    part.size_bytes,
                )
                for part in parts
            ),
            model=plan.model,
            input=plan.input,
            settings=plan.settings,
        )
        kept = before.runs if before is not None and plan.mode == "append" else ()
        document = {"manifest": Manifest((*kept, run)).to_json(), "summary": summary}
        storage.write_bytes(storage.join(self._folder, _COMMIT), to_bytes(document))

    def publish(self) -> None:
        """Makes a decided job visible: parts first, the manifest last. May be interrupted and repeated.

        Raises:
            StorageError: The disk or the store refuses.
        """
        document = json.loads(storage.read_bytes(storage.join(self._folder, _COMMIT)))
        manifest = Manifest.from_json(document["manifest"])
        if storage.is_remote(self._output_uri):
            self._copy_parts(manifest.runs[-1])
        else:
            self._rename_parts()
        for name in EXPORT_NAMES.values():
            # Of what lay there before; the command writes anew those that it was asked for.
            folders.remove_file(storage.join(self._output_uri, name))
        storage.write_bytes(storage.join(self._output_uri, SUMMARY), to_bytes(document["summary"]))
        storage.write_bytes(storage.join(self._output_uri, MANIFEST), to_bytes(manifest.to_json()))
        if self.plan.mode == "overwrite" and storage.is_remote(self._output_uri):
            self._remove_others()
        self.discard()

    def discard(self) -> None:
        """Removes all that the job has left outside of what is published.

        Raises:
            StorageError: It cannot be removed.
        """
        # The plan first: without it, what else may be left counts as nothing.
        folders.remove_file(storage.join(self._folder, _PLAN))
        folders.remove_folder(self._folder)

    def _rename_parts(self) -> None:
        parts = storage.local_path(storage.join(self._output_uri, PARTS))
        folder = storage.local_path(self._folder)
        target = parts / self.plan.run_id
        try:
            replaced = folder / _REPLACED
            if self.plan.mode == "overwrite" and not (target.exists() or replaced.exists()):
                storage.local_path(storage.join(self._output_uri, MANIFEST)).unlink(missing_ok=True)
                parts.mkdir(exist_ok=True)
                os.rename(parts, replaced)
            if not target.exists():
                wanted = {self.part_name(index) for index in range(self.plan.parts)}
                for path in (folder / PARTS).iterdir():
                    if path.name not in wanted:
                        path.unlink()  # half a part of a worker that was killed
                parts.mkdir(exist_ok=True)
                os.rename(folder / PARTS, target)
        except OSError as error:
            raise StorageError(
                "Cannot publish the scores",
                where=self._output_uri,
                got=reason(error),
                hint="Run the same command again when that is mended; nothing is lost",
            ) from None

    def _copy_parts(self, run: Run) -> None:
        def copy(part: Part) -> None:
            target = storage.join(self._output_uri, *part.path.split("/"))
            if not folders.exists(target):
                name = part.path.rpartition("/")[2]
                data = storage.read_bytes(storage.join(self._folder, PARTS, name))
                storage.write_bytes(target, data)

        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(copy, run.parts))

    def _remove_others(self) -> None:
        parts = storage.join(self._output_uri, PARTS)
        for name in folders.entries(parts):
            if name.endswith(".parquet"):
                folders.remove_file(storage.join(parts, name))
            elif name != self.plan.run_id:
                folders.remove_folder(storage.join(parts, name))
