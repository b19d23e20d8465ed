"""What a scoring command finds at its output, and what it makes of it: begin, go on, add, or leave it be."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from appliance import storage
from appliance.bulk.config import BatchScoringConfig
from appliance.bulk.inputs.listing import Listing
from appliance.bulk.scores.folder import JobPlan, Mode, ScoresFolder, UnfinishedJob
from appliance.bulk.scores.manifest import SUMMARY, Manifest, Run, open_dataset
from appliance.bulk.summary import BatchSummary, summarize
from appliance.errors import LabelError, StorageError
from appliance.model import model_file
from appliance.model.address import ModelAddress

logger = logging.getLogger(__name__)

Existing = Literal["refuse", "overwrite", "append"]


@dataclass(frozen=True)
class JobRequest:
    """What a command asks for.

    Attributes:
        model: `uri`, `name`, `version`, `sha256` and `labels` of the model file; name and version are those of
            the registry, where the URI is an address of one.
        input: `uri` and options, as asked for.
        settings: What decides what the records say.
    """

    model: Mapping[str, Any]
    input: Mapping[str, Any]
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, model_uri: str, asked: Mapping[str, Any], config: BatchScoringConfig) -> JobRequest:
        """Reads the model file; also the proof that workers will be able to use it.

        Raises:
            StorageError, ModelFileError: It cannot be used.
            ConfigError, LabelError: A setting does not fit it.
        """
        loaded = model_file.load(model_uri)
        loaded.spec.with_settings(
            score_threshold=config.score_threshold, max_detections=config.max_detections
        )
        names = loaded.spec.label_map.names
        for label in config.labels or ():
            if label not in names:
                raise LabelError(
                    "The model does not know this label",
                    got=repr(label),
                    expected=f"one of {', '.join(names)}",
                )
        model = {
            "uri": model_uri,
            "name": loaded.name,
            "version": loaded.version,
            "sha256": loaded.sha256,
            "labels": list(names),
        }
        return cls(model, asked, config.deciding())

    def way_on(self, other: JobPlan | Run) -> str:
        """How the model of a job at the output is named in a command, if it is another one of a registry.

        An alias may have moved since; empty where that is not what keeps the job from going on.
        """
        reference = ModelAddress.parse(other.model["uri"]).reference
        if reference is None or other.model["sha256"] == self.model["sha256"]:
            return ""
        return f"Name the model as {reference} to go on; an alias may have moved since. Or: "

    def differences(self, other: JobPlan | Run) -> list[str]:
        """How a job at the output differs from this one, for people; empty if it is the same."""
        found = []
        # The same file under another name would give rows that say so.
        if any(other.model[key] != self.model[key] for key in ("sha256", "name", "version")):
            found.append(f"model {_called(other.model)} rather than {_called(self.model)}")
        for name, value in self.input.items():
            if name in other.input and _plain(other.input[name]) != _plain(value):
                found.append(f"input {name} {other.input[name]}")
        for name, value in self.settings.items():
            if name in other.settings and _plain(other.settings[name]) != _plain(value):
                found.append(f"{name} {other.settings[name]}")
        return found


@dataclass(frozen=True)
class Begin:
    """A new job.

    Attributes:
        listing: Its pictures.
        listing_sha256: Digest of all that the input has, also of what is at the output already.
        mode: What becomes of what lies there.
        before: What lies there, if it stays.
    """

    listing: Listing
    listing_sha256: str
    mode: Mode = "new"
    before: Manifest | None = None

    def facts(self, request: JobRequest) -> dict[str, Any]:
        """What `ScoresFolder.begin` is told."""
        found = {
            "kind": self.listing.kind,
            "images": len(self.listing),
            "repeated": self.listing.repeated,
            "listing_sha256": self.listing_sha256,
        }
        return {
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "mode": self.mode,
            "model": request.model,
            "input": {**request.input, **found},
            "settings": request.settings,
        }


@dataclass(frozen=True)
class GoOn:
    """An unfinished job that is the same.

    Attributes:
        job: It.
        before: What lies at the output, if it stays.
    """

    job: UnfinishedJob
    before: Manifest | None = None


@dataclass(frozen=True)
class Nothing:
    """All is done.

    Attributes:
        summary: Of the job that did it.
    """

    summary: BatchSummary


def start_job(
    folder: ScoresFolder,
    request: JobRequest,
    list_pictures: Callable[[], Listing],
    existing: Existing,
) -> Begin | GoOn | Nothing:
    """Looks at the output and decides.

    An unfinished job that is the same goes on, with the pictures it was begun with. One that is finished and
    the same, of the same pictures, is left as it is. Otherwise `existing` decides: "refuse" raises an error,
    "overwrite" replaces what is there once the new job is done, "append" scores those pictures that this
    model has not scored there yet, and adds them.

    Raises:
        StorageError: The output holds another job, or there are no pictures.
    """
    job = folder.unfinished()
    if job is not None:
        differences = request.differences(job.plan)
        if not differences:
            return _go_on(folder, job)
        if existing != "overwrite":
            raise StorageError(
                "The output holds an unfinished job that is another one",
                where=folder.uri,
                got=", ".join(differences),
                hint=f"{request.way_on(job.plan)}Repeat the command that began it, name another folder, "
                "or give it up with `--overwrite`",
            )
        job.discard()
    before = folder.finished()
    listing = list_pictures()
    digest = listing.sha256()
    if listing.repeated:
        logger.warning(
            "%d pictures are named more than once; each is scored once", listing.repeated
        )
    if before is None and not folder.holds_parts():
        return Begin(listing, digest)
    if existing == "overwrite":
        return Begin(listing, digest, "overwrite")
    if before is not None and existing == "append":
        return _append(folder, before, request, listing, digest)
    differences = ["scores without a manifest"]
    if before is not None:
        differences = request.differences(before.runs[-1])
        of_pictures = before.runs[-1].input.get("listing_sha256")
        if not differences and of_pictures == digest:
            logger.info("%s holds the scores of these pictures already", folder.uri)
            document = json.loads(storage.read_bytes(storage.join(folder.uri, SUMMARY)))
            return Nothing(BatchSummary.from_json(document))
        differences = differences or [f"{before.runs[-1].input['images']} other pictures"]
    raise StorageError(
        "The output exists already",
        where=folder.uri,
        got=", ".join(differences),
        hint="Name a new folder, replace it with `--overwrite`, or add new pictures with `--append`",
    )


def _go_on(folder: ScoresFolder, job: UnfinishedJob) -> GoOn | Nothing:
    summary = job.decided()
    if summary is not None:
        job.publish()
        return Nothing(BatchSummary.from_json(summary))
    return GoOn(job, folder.finished() if job.plan.mode == "append" else None)


def _append(
    folder: ScoresFolder, before: Manifest, request: JobRequest, listing: Listing, digest: str
) -> Begin | Nothing:
    import pyarrow.compute as pc

    # The same file may have been called otherwise: by its path, or in another registry.
    names = {
        (run.model["name"], run.model["version"])
        for run in before.runs
        if run.model["sha256"] == request.model["sha256"]
    }
    by_this_model = pc.scalar(False)
    for name, version in sorted(names):
        by_this_model |= (pc.field("model_name") == name) & (pc.field("model_version") == version)
    table = open_dataset(folder.uri).to_table(columns=["image_uri"], filter=by_this_model)
    fresh = listing.without(table["image_uri"])
    if not len(fresh):
        logger.info("every picture has been scored by this model already")
        nothing = summarize(
            (),
            (),
            output_uri=folder.uri,
            images=0,
            repeated=listing.repeated,
            model_name=request.model["name"],
            model_version=request.model["version"],
            workers=0,
            wall_s=0.0,
            start_up_s=0.0,
        )
        return Nothing(nothing)
    return Begin(fresh, digest, "append", before)


def _called(model: Mapping[str, Any]) -> str:
    return f"{model['name']} {model['version']}"


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value))
