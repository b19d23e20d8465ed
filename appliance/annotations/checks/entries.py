"""One entry of a dataset with everything that is wrong with it: what its file says and does not say
(`faults`), and how that fits the picture (`pictures`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from appliance.annotations.checks.corners import CornerCounts
from appliance.annotations.checks.findings import Finding, counted
from appliance.annotations.checks.objects import InputSize
from appliance.annotations.checks.pictures import Inspected, inspect_entry, text_of_error
from appliance.annotations.source import (
    AnnotationSource,
    Entry,
    Fault,
    PictureAnnotation,
    numbers_of,
)
from appliance.images.header import PictureHeader

_MOST_NAMED = 5


@dataclass(frozen=True)
class CheckedEntry:
    """What one entry showed.

    Attributes:
        inspected: Picture and objects, with all findings.
        numbers: Which object of the file each of the objects is, from 1.
        corners: How its boxes lie if they were meant otherwise; only of COCO.
    """

    inspected: Inspected
    numbers: tuple[int, ...]
    corners: CornerCounts


def check_entry(
    entry: Entry, *, part: str, input_size: InputSize, count_corners: bool
) -> CheckedEntry:
    """Reads and checks one picture with its annotation, or either of them alone.

    Args:
        entry: The picture.
        part: Of the data, for the findings.
        input_size: Decides what is too small.
        count_corners: Whether to look if the boxes may be corners, as COCO's should not be.
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
    corners = CornerCounts()
    if count_corners and inspected.digest is not None and entry.picture_path is not None:
        size_hw = PictureHeader.read(entry.picture_path).size_hw
        corners = CornerCounts.of(annotation.objects, size_hw)
    return CheckedEntry(inspected, tuple(numbers_of(annotation.objects)), corners)


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
