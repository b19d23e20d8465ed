"""All mistakes of a dataset at once, without stopping at the first.

Training refuses the first mistake it meets; this finds the others too, and those that harm silently:
doubled objects, the same picture in training and test, misspelt labels. Every picture is read and
decoded once, in a few threads; what stays in memory is a hash for each picture, counts for each label,
and the findings.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from appliance.annotations.checks.entries import CheckedEntry, check_entry, faults_of_list
from appliance.annotations.checks.findings import Finding, counted, in_order
from appliance.annotations.checks.labels import (
    LabelUse,
    PartLabels,
    check_labels,
    spelling_corrections,
)
from appliance.annotations.checks.near_duplicates import SeenLooks
from appliance.annotations.checks.objects import InputSize
from appliance.annotations.checks.other_forms import CODES_OF_BOXES, OtherForms
from appliance.annotations.checks.pictures import PictureDigest, text_of_error
from appliance.annotations.formats.opening import open_source, parts_of
from appliance.annotations.formats.voc_folder import ANNOTATIONS_DIR, IMAGE_SUBDIRECTORY
from appliance.annotations.reading import read_in_order, with_bar
from appliance.annotations.source import AnnotationSource, Entry, FormatName
from appliance.errors import ApplianceError, DatasetError

logger = logging.getLogger(__name__)

FolderPath = str | os.PathLike[str]

MIN_EXAMPLES = 5
_MOST_WARNINGS = 10
WHOLE = "dataset"


@dataclass(frozen=True)
class CheckConfig:
    """What to hold a dataset against.

    Attributes:
        format: How it is written; "auto" finds out.
        labels: The classes that there may be; None takes those of the first part.
        min_examples: Fewer objects of a class than this in the first part are worth a warning.
        input_side_px: Shorter side of the model's input, which decides what is too small to be seen;
            None takes the default model's.
        annotations_dir: Pascal VOC: subfolder with XML files.
        image_subdirectory: Pascal VOC: subfolder with pictures.
        images_root: A folder elsewhere that holds the pictures; see `open_source`.
    """

    format: FormatName | Literal["auto"] = "auto"
    labels: tuple[str, ...] | None = None
    min_examples: int = MIN_EXAMPLES
    input_side_px: int | None = None
    annotations_dir: str = ANNOTATIONS_DIR
    image_subdirectory: str = IMAGE_SUBDIRECTORY
    images_root: FolderPath | None = None


@dataclass
class PartSummary:
    """What one part of a dataset holds.

    Attributes:
        folder: Where it lies.
        source: What was listed there, None if that failed.
        pictures: Pictures that a model can be trained with as they are. Of each picture alone: one that is
            there twice, or in another part too, counts. None where all boxes are of another form.
        negatives: Those of them that are annotated to show no object.
        objects: Usable objects on them.
    """

    folder: str
    source: AnnotationSource | None = None
    pictures: int = 0
    negatives: int = 0
    objects: int = 0


@dataclass(frozen=True)
class Survey:
    """Everything that was found.

    Attributes:
        parts: Part -> what it holds.
        findings: Errors before warnings, then in the order of parts, files and objects.
        corrections: Label -> its right spelling, for those that are wrong only in case or spaces.
    """

    parts: dict[str, PartSummary]
    findings: tuple[Finding, ...]
    corrections: dict[str, str]


def check_dataset(
    parts: FolderPath | Mapping[str, FolderPath],
    *,
    config: CheckConfig = CheckConfig(),
) -> list[Finding]:
    """Looks for everything that is wrong with annotated pictures.

    Args:
        parts: Part name -> folder, for example `{"train": ..., "test": ...}`, the one to learn from first;
            or one folder or file, which may hold such parts.
        config: What to hold them against.

    Returns:
        Errors before warnings, else in the order of parts and files. Empty when all is well.
    """
    return list(survey_dataset(parts, config=config).findings)


def refuse_errors(
    parts: FolderPath | Mapping[str, FolderPath], *, config: CheckConfig = CheckConfig()
) -> None:
    """Checks data before hours are spent on it; warnings are logged.

    Raises:
        DatasetError: Something keeps the data from being used; the message has the first such finding.
    """
    findings = check_dataset(parts, config=config)
    errors = [finding for finding in findings if finding.severity == "error"]
    warnings = findings[len(errors) :]
    for finding in warnings[:_MOST_WARNINGS]:
        logger.warning("%s", finding)
    if len(warnings) > _MOST_WARNINGS:
        more = counted(len(warnings) - _MOST_WARNINGS, "more warning")
        logger.warning("and %s, which `appliance data check` lists", more)
    if errors:
        raise DatasetError(
            "The data cannot be used",
            where=errors[0].where,
            got=errors[0].what,
            hint=f"`appliance data check` lists {counted(len(errors), 'error')}",
        )


def survey_dataset(
    parts: FolderPath | Mapping[str, FolderPath], *, config: CheckConfig = CheckConfig()
) -> Survey:
    """The same as `check_dataset`, with what the data holds beside what is wrong with it."""
    input_size = InputSize.of(config.input_side_px)
    summaries, findings = _open(parts, config)
    labels = {name: PartLabels(summary.folder) for name, summary in summaries.items()}
    pictures, looks = _SeenPictures(), SeenLooks()
    for name, summary in summaries.items():
        if summary.source is None:
            labels[name].complete = False
            continue
        findings += faults_of_list(summary.source, summary.folder, name)
        forms, of_boxes = OtherForms(), list[Finding]()
        for checked in _inspect(name, summary.source, input_size):
            inspected = checked.inspected
            for finding in inspected.findings:
                (of_boxes if finding.code in CODES_OF_BOXES else findings).append(finding)
            if inspected.digest is not None:
                findings += pictures.add(name, inspected.entry, inspected.digest)
                digest, entry = inspected.digest, inspected.entry
                looks.add(name, str(entry.picture_path), entry.name, digest.pixels, digest.look)
            _count(checked, summary, labels[name])
            forms += checked.forms
        if forms.verdict is not None:  # what is wrong with each box follows from that
            code, what = forms.verdict
            findings.append(Finding(code, summary.folder, what, name))
            summary.pictures = summary.negatives = summary.objects = 0
            for use in labels[name].used.values():
                use.usable = use.objects  # nothing is wrong with the classes
            continue
        findings += of_boxes
        if not summary.objects:
            what = f"has no usable object on {counted(summary.pictures, 'usable picture')}"
            findings.append(Finding("no-objects", summary.folder, what, name))
            labels[name].complete = False
    findings += looks.findings()
    declared = next(iter(summaries.values())).source
    findings += check_labels(
        labels,
        min_examples=config.min_examples,
        known=config.labels,
        declared=(declared.labels or ()) if declared is not None else (),
    )
    corrections = spelling_corrections(labels, config.labels)
    return Survey(summaries, tuple(in_order(findings, tuple(summaries))), corrections)


def open_parts(
    parts: FolderPath | Mapping[str, FolderPath], config: CheckConfig
) -> Iterator[tuple[str, str, AnnotationSource | ApplianceError]]:
    """Lists every part: (name, folder, what was listed or why it could not be)."""
    if isinstance(parts, Mapping):
        named: Mapping[str, FolderPath] = parts
    else:
        named = parts_of(parts, config.format) or {WHOLE: parts}
    for name, folder in named.items():
        try:
            source: AnnotationSource | ApplianceError = open_source(
                folder,
                config.format,
                annotations_dir=config.annotations_dir,
                image_subdirectory=config.image_subdirectory,
                images_root=config.images_root,
            )
        except ApplianceError as error:
            source = error
        yield name, os.fspath(folder), source


def _open(
    parts: FolderPath | Mapping[str, FolderPath], config: CheckConfig
) -> tuple[dict[str, PartSummary], list[Finding]]:
    summaries: dict[str, PartSummary] = {}
    findings: list[Finding] = []
    for name, folder, source in open_parts(parts, config):
        summaries[name] = PartSummary(folder)
        if isinstance(source, AnnotationSource):
            summaries[name].source = source
        else:
            file = source.where or folder
            findings.append(Finding("part-unreadable", file, text_of_error(source), name))
    return summaries, findings


def _inspect(part: str, source: AnnotationSource, input_size: InputSize) -> Iterator[CheckedEntry]:
    check = partial(check_entry, part=part, input_size=input_size, format=source.format)
    checked = read_in_order(check, source.entries, root=source.root)
    return with_bar(checked, total=len(source.entries), what=f"checking {part}")


def _count(checked: CheckedEntry, summary: PartSummary, labels: PartLabels) -> None:
    inspected, entry = checked.inspected, checked.inspected.entry
    summary.pictures += checked.usable
    summary.negatives += checked.usable and not inspected.usable
    summary.objects += sum(inspected.usable)
    for number, label, usable in zip(
        checked.numbers, inspected.labels, inspected.usable, strict=True
    ):
        use = labels.used.setdefault(
            label, LabelUse(str(entry.annotation_path), entry.name, number)
        )
        use.objects += 1
        use.usable += usable


@dataclass
class _SeenPictures:
    """Pictures by their pixels, to meet them again."""

    last_with: dict[bytes, tuple[tuple[str, Entry, PictureDigest], ...]] = field(
        default_factory=dict
    )

    def add(self, part: str, entry: Entry, digest: PictureDigest) -> Iterator[Finding]:
        """Remembers a picture; says where it was before."""
        earlier: Sequence[tuple[str, Entry, PictureDigest]] = self.last_with.get(digest.pixels, ())
        path = str(entry.picture_path)
        here = [item for item in earlier if item[0] == part]
        for other_part, other, other_digest in earlier:
            if other_part != part:
                what = (
                    f"{_same(digest, other_digest)} {path} of {part}, so what {part} measures "
                    f"is too good"
                )
                yield Finding(
                    "picture-leaked", str(other.picture_path), what, other_part, other.name
                )
        if here:
            _, other, other_digest = here[0]
            alike = digest.objects == other_digest.objects
            yield Finding(
                "picture-doubled" if alike else "picture-contradicted",
                path,
                f"{_same(digest, other_digest)} {other.picture_path}, annotated "
                f"{'alike' if alike else 'differently'}",
                part,
                entry.name,
            )
        self.last_with[digest.pixels] = (*here, (part, entry, digest))


def _same(digest: PictureDigest, other: PictureDigest) -> str:
    return "same file as" if digest.content == other.content else "same pixels as"
