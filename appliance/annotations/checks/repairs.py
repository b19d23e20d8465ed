"""A repaired copy of a dataset, and the list of what is different in it.

Only what is certain is repaired; the rest is left out where it is an error, else left as it is:

- boxes over the edge are clipped; degenerate ones, ones outside or mostly outside, and doubled ones are
  dropped, and so are objects that cannot be read;
- pictures that cannot be read and loners are left out, and so is a picture whose every object had to be
  dropped: without them it would teach that there is nothing;
- a size that disagrees is corrected where the boxes tell what happened, see `boxes_for_the_picture`;
- labels are corrected where only case or spaces differ, misspellings are never guessed. A picture with
  an unknown label is left out: without that object it would teach that the object is background;
- of doubled pictures the first stays; a picture that is also in a later part stays there alone;
- a part without any object is left out, and so is one whose boxes are certainly shares of the picture, or
  corners in COCO: whoever wrote them should write them anew.

The source is never touched.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial

from appliance import storage
from appliance.annotations.checks.changes import ACTIONS_ON_FAULTS, Change
from appliance.annotations.checks.entries import finding_of
from appliance.annotations.checks.findings import DEFECTS, counted
from appliance.annotations.checks.repairs_entry import RepairRules, repair_entry
from appliance.annotations.checks.survey import WHOLE, CheckConfig, FolderPath, Survey
from appliance.annotations.convert import write_sources
from appliance.annotations.new_folder import check_new_folder
from appliance.annotations.reading import read_in_order, with_bar
from appliance.annotations.source import AnnotationSource, Entry, FormatName, PictureAnnotation
from appliance.errors import DatasetError

# What keeps a whole part out of the copy although its objects may be sound.
CODES_OF_LOST_PARTS = ("part-unreadable", "boxes-as-corners", "boxes-as-shares")
CHANGES_FILE = "changes.jsonl"  # a .json would be taken for the annotations of a COCO folder


@dataclass(frozen=True)
class Repair:
    """What was written.

    Attributes:
        out: The folder of the copy.
        format: How it is written: like the source.
        changes: What is different from the source, in the order of parts and pictures.
        pictures: Part -> pictures written.
    """

    out: str
    format: FormatName
    changes: tuple[Change, ...]
    pictures: dict[str, int]


def write_repaired(
    survey: Survey,
    data: FolderPath,
    out: FolderPath,
    *,
    config: CheckConfig = CheckConfig(),
) -> Repair:
    """Writes a repaired copy of checked data, and `changes.jsonl` beside it.

    Args:
        survey: What the check found; with the same `config`.
        data: The source.
        out: A new or empty folder, not inside the source. Gets a folder for each part, or the data
            itself where it is not divided.
        config: What the data was held against.

    Raises:
        StorageError: `out` cannot be used or written.
        DatasetError: Nothing that can be learnt from is left.
    """
    root = os.fspath(out)
    check_new_folder(root, not_inside=data)
    sources, changes, labels = _repair_parts(survey, config)
    if not sources:
        reasons = (f"{item.part}: {DEFECTS[item.code].meaning} [{item.code}]" for item in changes)
        raise DatasetError(
            "Nothing that can be learnt from is left of the data",
            where=os.fspath(data),
            got="; ".join(reasons),
        )
    kind = next(iter(sources.values())).format
    parts = {None if name == WHOLE else name: source for name, source in sources.items()}
    write_sources(parts, root, kind, labels)
    lines = [json.dumps(change.to_json(), ensure_ascii=False) + "\n" for change in changes]
    storage.write_bytes(storage.join(root, CHANGES_FILE), "".join(lines).encode())
    pictures = {name: len(source.entries) for name, source in sources.items()}
    return Repair(root, kind, tuple(changes), pictures)


def _repair_parts(
    survey: Survey, config: CheckConfig
) -> tuple[dict[str, AnnotationSource], list[Change], tuple[str, ...]]:
    """Part -> the data as it should be; what was changed; and the classes in their order."""
    sources: dict[str, AnnotationSource] = {}
    changes: list[Change] = []
    shown: set[str] = set()
    declared: dict[str, None] = {}
    allowed: Collection[str] | None = config.labels
    for name, summary in survey.parts.items():
        lost_by = _lost_by(name, survey)
        if summary.source is None or lost_by is not None:
            changes.append(_without(name, summary.folder, lost_by or "part-unreadable"))
            continue
        rules = RepairRules.of(
            name,
            survey.findings,
            corrections=survey.corrections,
            allowed=allowed,
            doubled=summary.source.doubled,
        )
        source, changes_here, labels = repaired_source(summary.source, rules)
        if not labels:
            changes.append(_without(name, summary.folder, "no-objects"))
            continue
        declared |= dict.fromkeys(summary.source.labels or ())
        shown |= labels
        if allowed is None:  # the first part decides what a model can know
            allowed = labels | set(declared)
        changes += _changes_of_list(summary.source, summary.folder, name)
        changes += changes_here
        sources[name] = source
    ordered = [label for label in declared if label not in survey.corrections]
    return sources, changes, (*ordered, *sorted(shown - set(ordered)))


def repaired_source(
    source: AnnotationSource, rules: RepairRules
) -> tuple[AnnotationSource, list[Change], set[str]]:
    """The data as it should be, what was changed, and the labels that are left. Writes nothing."""
    repair = partial(repair_entry, rules=rules)
    results = read_in_order(repair, source.entries, root=source.root)
    changes: list[Change] = []
    entries: list[Entry] = []
    labels: set[str] = set()
    for entry, result in zip(
        source.entries,
        with_bar(results, total=len(source.entries), what=f"repairing {rules.part}"),
        strict=True,
    ):
        changes += result.changes
        if result.picture_path is not None:
            labels.update(item.label for item in result.annotation.objects)
            examine = partial(_repaired_annotation, entry, rules)
            entries.append(replace(entry, picture_path=result.picture_path, examine=examine))
    repaired = replace(source, entries=tuple(entries), doubled=(), faults=(), unlabelled=())
    return repaired, changes, labels


def _repaired_annotation(entry: Entry, rules: RepairRules) -> PictureAnnotation:
    return repair_entry(entry, rules).annotation


def _lost_by(part: str, survey: Survey) -> str | None:
    """The code of what keeps a part out of the copy, None if nothing does."""
    codes = {finding.code for finding in survey.findings if finding.part == part}
    return next((code for code in CODES_OF_LOST_PARTS if code in codes), None)


def _changes_of_list(source: AnnotationSource, folder: str, part: str) -> list[Change]:
    changes: list[Change] = []
    for fault in source.faults:
        action = ACTIONS_ON_FAULTS.get(fault.code, "dropped")
        finding = finding_of(fault, folder, part)
        changes.append(
            Change(fault.code, action, finding.file, finding.what, part, label=fault.label)
        )
    if source.unlabelled:
        what = f"{counted(len(source.unlabelled), 'picture')} got an empty label file"
        changes.append(Change("label-file-missing", "written", folder, what, part))
    return changes


def _without(part: str, folder: str, code: str) -> Change:
    return Change(code, "left out", folder, f"part {part} is not in the copy", part)
