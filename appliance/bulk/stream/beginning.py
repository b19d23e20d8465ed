"""What a stream finds at its output when it begins: nothing, itself, or another one; and what a kill has left."""

from __future__ import annotations

import logging
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from appliance import storage
from appliance.bulk.job_start import JobRequest
from appliance.bulk.scores.manifest import Run
from appliance.bulk.stream.ledger import Ledger
from appliance.bulk.stream.output import StreamOutput
from appliance.errors import ConfigError, StorageError

logger = logging.getLogger(__name__)


def open_ledger(output: StreamOutput, request: JobRequest, path: str | None = None) -> Ledger:
    """The ledger of an output, made if this is its first stream.

    Args:
        output: Which this process holds; it is told its `run`.
        request: What is to be scored, with what.
        path: Where the ledger lies; by default as `StreamOutput.default_ledger_path` says.

    Raises:
        ConfigError: The path is remote.
        StorageError: It cannot be used, or the output is of another model, source or setting.
    """
    if path is not None and storage.is_remote(path):
        raise ConfigError(
            "The ledger must lie on a disk", got=path, hint="Name a local path with --ledger"
        )
    place = output.default_ledger_path() if path is None else Path(storage.absolute(path))
    if not place.exists() and output.holds_parts():
        raise _without_ledger(output, place)
    ledger = Ledger(place)
    try:
        about = ledger.about()
        if about is None:
            if output.holds_parts():
                raise _without_ledger(output, place)
            output.run = uuid.uuid4().hex[:12]
            ledger.begin({"output": output.uri, "run": output.run, **asdict(request)})
        else:
            _check_same(output, request, about, place)
            output.run = about["run"]
    except BaseException:
        ledger.close()
        raise
    return ledger


def recover(output: StreamOutput, ledger: Ledger, *, to_post: bool, remember: bool) -> None:
    """Finishes or forgets what was under way when the last stream died.

    Args:
        output: Where the parts lie.
        ledger: Its ledger.
        to_post: Whether batches have to be posted.
        remember: Whether their pictures may come again.

    Raises:
        StorageError: One of them cannot be used.
    """
    output.clear()
    for batch in ledger.unfinished():
        if output.has_part(batch, ledger.reserved_rows(batch.number)):
            logger.info("finishing batch %d, which was scored when the last run died", batch.number)
            ledger.finish(batch.number, to_post=to_post, remember=remember)
        else:
            ledger.forget(batch.number)


def _check_same(
    output: StreamOutput, request: JobRequest, about: dict[str, Any], place: Path
) -> None:
    differences = []
    if about["output"] != output.uri:
        differences.append(f"output {about['output']}")
    before = Run(about["run"], "", 0, (), about["model"], about["input"], about["settings"])
    differences += request.differences(before)
    if differences:
        raise StorageError(
            "The output belongs to another stream",
            where=output.uri,
            got=", ".join(differences),
            hint=f"{request.way_on(before)}Name another output; the ledger is {place}",
        )


def _without_ledger(output: StreamOutput, place: Path) -> StorageError:
    return StorageError(
        "The output holds scores, but their ledger is not there",
        where=output.uri,
        got=f"no {place}",
        hint="Name the ledger with --ledger, or another output",
    )
