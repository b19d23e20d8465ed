"""What becomes of one picture in a repaired copy, and what was changed; see `repairs` for the rules."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath

import numpy as np

from appliance.annotations.checks.changes import ACTIONS_ON_FAULTS, Change
from appliance.annotations.checks.entries import finding_of
from appliance.annotations.checks.findings import Finding
from appliance.annotations.checks.objects import (
    Boxes,
    clipped,
    fault_of,
    over_edge,
    same_boxes,
    usable_objects,
)
from appliance.annotations.placing import boxes_in_picture, format_box
from appliance.annotations.source import (
    Entry,
    ObjectAnnotation,
    PictureAnnotation,
    numbers_of,
)
from appliance.errors import DatasetError
from appliance.images.header import PictureHeader

_LEFT_OUT = (
    "picture-empty",
    "picture-unreadable",
    "picture-damaged",
    "picture-too-large",
    "picture-without-annotation",
    "annotation-without-picture",
    "annotation-unreadable",
    "picture-doubled",
    "picture-leaked",
)


@dataclass(frozen=True)
class RepairedEntry:
    """What becomes of one entry.

    Attributes:
        picture_path: The picture to copy, None to leave the entry out.
        annotation: Its repaired annotation.
        changes: What is different.
    """

    picture_path: str | None
    annotation: PictureAnnotation
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class RepairRules:
    """What decides over the entries of one part.

    Attributes:
        part: Name of the part.
        corrections: Label -> its right spelling.
        allowed: Labels that a picture may show, None for any.
        left_out: Name of a picture -> why the check rejects it as a whole.
        doubled: Path without extension -> other pictures of that name.
    """

    part: str
    corrections: Mapping[str, str]
    allowed: Collection[str] | None
    left_out: Mapping[str, Change]
    doubled: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(
        cls,
        part: str,
        findings: Sequence[Finding],
        *,
        corrections: Mapping[str, str],
        allowed: Collection[str] | None,
        doubled: Sequence[str],
    ) -> RepairRules:
        """From what was found in a part."""
        left_out: dict[str, Change] = {}
        for found in findings:
            if found.part == part and found.picture is not None and found.code in _LEFT_OUT:
                change = Change(found.code, "left out", found.file, found.what, part, found.picture)
                left_out.setdefault(found.picture, change)
        rivals: dict[str, tuple[str, ...]] = {}
        for path in doubled:
            rivals[_stem(path)] = (*rivals.get(_stem(path), ()), path)
        return cls(part, corrections, allowed, left_out, rivals)


@dataclass
class _Log:
    """Notes changes of one entry."""

    part: str
    entry: Entry
    changes: list[Change] = field(default_factory=list)

    def note(
        self,
        code: str,
        action: str,
        what: str,
        number: int | None = None,
        label: str | None = None,
        file: str | None = None,
    ) -> None:
        file = file or str(self.entry.annotation_path)
        self.changes.append(
            Change(code, action, file, what, self.part, self.entry.name, number, label)
        )

    def leave_out(self, code: str, what: str) -> RepairedEntry:
        self.note(code, "left out", what)
        return RepairedEntry(None, PictureAnnotation(()), tuple(self.changes))


def repair_entry(entry: Entry, rules: RepairRules) -> RepairedEntry:
    """Repairs one picture's annotation, or says why it is left out. Writes nothing."""
    rejected = rules.left_out.get(entry.name)
    if rejected is not None:
        return RepairedEntry(None, PictureAnnotation(()), (rejected,))
    annotation = entry.examine()
    log = _Log(rules.part, entry)
    rivals = (str(entry.picture_path), *rules.doubled.get(_stem(str(entry.picture_path)), ()))
    picture_path = _annotated_picture(rivals, annotation)
    if picture_path is None:
        return log.leave_out("picture-name-shared", "nothing says which picture is annotated")
    for rival in rivals:
        if rival != picture_path:
            what = f"its annotation is of {PurePath(picture_path).name}"
            log.note("picture-name-shared", "left out", what, file=rival)
    header = PictureHeader.read(picture_path)
    boxes, done = boxes_for_the_picture(annotation, header, source=str(entry.annotation_path))
    if boxes is None:
        return log.leave_out("size-mismatch", done)
    if done:
        turned = annotation.size_hw == header.stored_hw
        log.note(*(("exif-ambiguous", "turned") if turned else ("size-mismatch", "resized")), done)
    for fault in annotation.faults:
        action = ACTIONS_ON_FAULTS.get(fault.code, "dropped")
        what = finding_of(fault, str(entry.annotation_path), rules.part).what
        log.note(fault.code, action, what, fault.object_number, fault.label)
    objects = _repair_objects(annotation.objects, boxes, header.size_hw, rules, log)
    for item in objects:
        if rules.allowed is not None and item.label not in rules.allowed:
            what = f"shows {item.label!r}, which is no class of the model"
            return log.leave_out("label-unknown", what)
    if (annotation.objects or annotation.faults) and not objects:
        return log.leave_out(log.changes[-1].code, "no object of it is left")
    repaired = PictureAnnotation(tuple(objects), header.size_hw, PurePath(picture_path).name)
    return RepairedEntry(picture_path, repaired, tuple(log.changes))


def boxes_for_the_picture(
    annotation: PictureAnnotation, header: PictureHeader, *, source: str
) -> tuple[Boxes | None, str]:
    """Boxes in pixels of the upright picture, also where the annotation gives another size.

    If a box reaches beyond the size that is given and all lie inside the picture, that size is wrong. If
    all lie inside the size that is given and the picture has the same proportions, the picture was
    resized after it was annotated, and the boxes are scaled with it.

    Returns:
        The boxes, None where one cannot tell how they lie; and what was done, "" for nothing.
    """
    try:
        boxes = boxes_in_picture(annotation, header, source=source)
    except DatasetError:
        boxes = None
    height, width = header.size_hw
    if boxes is not None:
        if annotation.size_hw in (None, header.size_hw):
            return boxes, ""
        return (
            boxes,
            f"boxes of the stored picture are now boxes of the shown one, {width}x{height}",
        )
    given_height, given_width = annotation.size_hw or (height, width)
    sizes = f"{given_width}x{given_height} to {width}x{height}"
    boxes = np.array([item.box_xyxy for item in annotation.objects], np.float64).reshape(-1, 4)
    in_given = bool((boxes == clipped(boxes, (given_height, given_width))).all())
    in_picture = bool((boxes == clipped(boxes, header.size_hw)).all())
    if not len(boxes) or (in_picture and not in_given):
        return boxes, f"size corrected from {sizes}, boxes as they were"
    # Whole pixels: of a picture scaled by 0.3, one side may be half a pixel too long.
    proportional = abs(given_width * height - given_height * width) <= max(
        given_height, given_width
    )
    if in_given and proportional:
        scale = np.array([width / given_width, height / given_height] * 2)
        return boxes * scale, f"boxes scaled with the picture from {sizes}"
    return None, f"nothing tells how boxes for {given_width}x{given_height} lie in {width}x{height}"


def _repair_objects(
    objects: Sequence[ObjectAnnotation],
    boxes: Boxes,
    size_hw: tuple[int, int],
    rules: RepairRules,
    log: _Log,
) -> list[ObjectAnnotation]:
    """The objects to keep, with boxes inside the picture."""
    corrected = [
        replace(item, label=rules.corrections.get(item.label, item.label)) for item in objects
    ]
    given, boxes = boxes, with_corners_in_order(boxes)
    inside = clipped(boxes, size_hw)
    doubles = {
        second: first
        for first, second, _ in same_boxes(corrected, inside, usable_objects(boxes, size_hw))
        if corrected[first].label == corrected[second].label
    }
    kept: list[ObjectAnnotation] = []
    numbers = numbers_of(objects)
    for index, (item, box) in enumerate(zip(corrected, boxes, strict=True)):
        number, label = numbers[index], objects[index].label
        if fault_of(box, size_hw) is None and (box != given[index]).any():
            what = f"was {format_box(given[index])}, now {format_box(box)}"
            log.note("box-inverted", "swapped", what, number, label)
        fault = fault_of(box, size_hw)
        if fault is not None:
            log.note(fault[0], "dropped", f"{fault[1]}: {format_box(box)}", number, label)
            continue
        if index in doubles:
            what = f"doubles object {numbers[doubles[index]]}"
            log.note("object-doubled", "dropped", what, number, label)
            continue
        if item.label != label:
            log.note("label-variant", "relabelled", f"is {item.label!r} now", number, label)
        if reaches := over_edge(box, size_hw):
            what = f"reached {reaches} edge, now {format_box(inside[index])}"
            log.note("box-over-edge", "clipped", what, number, label)
            box = inside[index]  # noqa: PLW2901 - the box to keep
        x1, y1, x2, y2 = box.tolist()
        kept.append(replace(item, box_xyxy=(x1, y1, x2, y2), number=None))
    return kept


def with_corners_in_order(boxes: Boxes) -> Boxes:
    """The same boxes with the smaller coordinate first; a box keeps its area, or its lack of any."""
    return np.concatenate(
        [np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1
    )


def _annotated_picture(rivals: Sequence[str], annotation: PictureAnnotation) -> str | None:
    """The picture of an entry; where several have its name, the one that the annotation names."""
    if len(rivals) == 1:
        return rivals[0]
    named = [rival for rival in rivals if PurePath(rival).name == annotation.filename]
    return named[0] if named else None


def _stem(path: str) -> str:
    return path.rpartition(".")[0]
