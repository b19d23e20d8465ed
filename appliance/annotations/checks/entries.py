"""One entry of a dataset with everything that is wrong with it: what its file says and does not say
(`faults`), and how that fits the picture (`pictures`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from appliance.annotations.checks.findings import Finding, counted
from appliance.annotations.checks.objects import InputSize
from appliance.annotations.checks.other_forms import OtherForms
from appliance.annotations.checks.pictures import Inspected, inspect_entry, text_of_error
from appliance.annotations.source import (
    AnnotationSource,
    Entry,
    Fault,
    FormatName,
    PictureAnnotation,
    numbers_of,
)

_MOST_NAMED = 5


@dataclass(frozen=True)
class CheckedEntry:
    """What one entry showed.

    Attributes:
        inspected: Picture and objects, with all findings.
        numbers: Which object of the file each of the objects is, from 1.
        usable: Whether a model can be trained with the picture as it is: it shows a usable object, or is
            annotated to show none.
        forms: How its boxes lie if they were meant otherwise.
    """

    inspected: Inspected
    numbers: tuple[int, ...]
    usable: bool
    forms: OtherForms


def check_entry(
    entry: Entry, *, part: str, input_size: InputSize, format: FormatName
) -> CheckedEntry:
    """Reads and checks one picture with its annotation, or either of them alone.

    Args:
        entry: The picture.
        part: Of the data, for the findings.
        input_size: Decides what is too small.
        format: Of the annotation, which decides what its boxes should not be.
    """
    readings: list[PictureAnnotation] = []

    def examine() -> PictureAnnotation:
        readings.append(entry.examine())
        return replace(readings[-1], faults=())

    inspected = inspect_entry(replace(entry, examine=examine), part=part, input_size=input_size)
    annotation = readings[0] if readings else PictureAnnotation(())
    file = str(entry.annotation_path)
    findings = [finding_of(fault, file, part, entry.name) for fault in annotation.faults]
    inspected = replace(inspected, entry=entry, findings=(*inspected.findings, *findings))
    forms = OtherForms()
    if inspected.size_hw is not None:
        forms = OtherForms.of(annotation.objects, inspected.size_hw, format)
    # An object that cannot be used, or not even read, makes a picture no negative.
    shows_nothing = not annotation.objects and not annotation.faults
    usable = (
        bool(readings)
        and inspected.digest is not None
        and all(finding.code != "size-mismatch" for finding in inspected.findings)
        and (shows_nothing or any(inspected.usable))
    )
    return CheckedEntry(inspected, tuple(numbers_of(annotation.objects)), usable, forms)


def finding_of(fault: Fault, file: str, part: str, picture: str | None = None) -> Finding:
    """What a reader could not use, as a finding."""
    what, number = text_of_error(fault.error), fault.object_number
    for name in (f"object {number} ({fault.label}) ", f"object {number} "):  # is said beside it
        what = what.removeprefix(name)
    where = fault.error.where or file
    return Finding(fault.code, where, what, part, picture, fault.object_number, fault.label)


def faults_of_list(source: AnnotationSource, folder: str, part: str) -> Iterator[Finding]:
    """What is wrong with a listed dataset before any of its pictures is read."""
    for path in source.doubled:
        what = "another picture has the same name, so the annotation is unclear"
        yield Finding("picture-name-shared", path, what, part)
    for fault in source.faults:
        yield finding_of(fault, folder, part)
    if source.unlabelled:
        pictures = sum(entry.picture_path is not None for entry in source.entries)
        names = ", ".join(source.unlabelled[:_MOST_NAMED])
        more = ", ..." if len(source.unlabelled) > _MOST_NAMED else ""
        have = "has" if len(source.unlabelled) == 1 else "have"
        what = (
            f"{len(source.unlabelled):,} of {counted(pictures, 'picture')} {have} no label file "
            f"and count as pictures without objects: {names}{more}"
        )
        yield Finding("label-file-missing", folder, what, part)
