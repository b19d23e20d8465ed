"""What can be wrong with a dataset: every kind of defect by its code, and one found defect as a value.

The codes are stable: programs that read `appliance data check --json` may rely on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any, Literal

Severity = Literal["error", "warning"]
NOTHING = "left as it is"


@dataclass(frozen=True)
class Defect:
    """A kind of defect.

    Attributes:
        severity: `error` keeps the data from being used, or makes what is measured with it wrong;
            `warning` makes a model worse.
        meaning: What it is, in a few words.
        repair: What a repaired copy does about it.
    """

    severity: Severity
    meaning: str
    repair: str = NOTHING


DEFECTS: dict[str, Defect] = {
    "part-unreadable": Defect("error", "a folder or list that cannot be read", "part left out"),
    "no-objects": Defect(
        "error", "a part of the data without a single usable object", "part left out"
    ),
    "picture-empty": Defect("error", "a picture file of 0 bytes", "picture left out"),
    "picture-unreadable": Defect("error", "a file that is no picture", "picture left out"),
    "picture-damaged": Defect("error", "a truncated or damaged picture", "picture left out"),
    "picture-too-large": Defect("error", "a picture beyond the limits", "picture left out"),
    "picture-name-shared": Defect(
        "error",
        "two pictures for one annotation",
        "kept is the picture that the annotation names, else neither",
    ),
    "picture-without-annotation": Defect(
        "error", "a picture that nobody annotated", "picture left out"
    ),
    "annotation-without-picture": Defect(
        "error", "an annotation whose picture is missing", "annotation left out"
    ),
    "annotation-unreadable": Defect(
        "error", "an annotation that cannot be understood", "picture left out with it"
    ),
    "picture-unnamed": Defect("error", "a picture without a file name", "picture left out"),
    "picture-outside": Defect(
        "error",
        "a picture that is named outside of the folder of the data; it is not opened",
        "picture left out",
    ),
    "object-unreadable": Defect(
        "error", "an object whose class or box cannot be understood", "object dropped"
    ),
    "object-of-no-picture": Defect(
        "error", "an object of a picture that is not listed", "object dropped"
    ),
    "annotation-id": Defect(
        "error", "an annotation whose id is taken or none", "annotations numbered anew"
    ),
    "size-mismatch": Defect(
        "error",
        "an annotation made for another picture size",
        "size corrected and boxes scaled where one can tell how, else picture left out",
    ),
    "box-inverted": Defect("error", "a box of negative width or height", "corners swapped"),
    "box-without-area": Defect("error", "a box of zero width or height", "object dropped"),
    "box-outside": Defect("error", "a box wholly outside its picture", "object dropped"),
    "box-mostly-outside": Defect(
        "error", "a box with more than half of its area outside its picture", "object dropped"
    ),
    "boxes-as-corners": Defect(
        "error", "COCO boxes written as corners instead of width and height", "part left out"
    ),
    "boxes-as-shares": Defect(
        "error", "boxes written as shares of the picture instead of pixels", "part left out"
    ),
    "box-over-edge": Defect("warning", "a box that reaches outside its picture", "box clipped"),
    "object-doubled": Defect("warning", "an object annotated twice", "second one dropped"),
    "object-contradicted": Defect("warning", "two labels for one box"),
    "object-tiny": Defect("warning", "an object smaller than a model can see at its input size"),
    "object-covers-picture": Defect("warning", "a box around the whole picture"),
    "object-elongated": Defect("warning", "a box of extreme aspect ratio"),
    "exif-ambiguous": Defect("warning", "boxes that may lie in the picture unturned or turned"),
    "picture-blank": Defect("warning", "a picture of a single colour"),
    "picture-doubled": Defect(
        "warning",
        "the same picture twice in one part, annotated alike",
        "second one left out",
    ),
    "picture-contradicted": Defect(
        "warning", "the same picture twice in one part, annotated differently"
    ),
    "picture-look-alike": Defect(
        "warning", "a picture that looks like another one, re-encoded or resized"
    ),
    "picture-leaked": Defect(
        "error",
        "a picture of training that is also in a later part",
        "left out of the earlier part",
    ),
    "label-unknown": Defect(
        "error",
        "a class that the model will not know",
        "corrected where only case or spaces differ, else picture left out",
    ),
    "label-file-missing": Defect(
        "warning",
        "pictures that count as pictures without objects for want of a text file (YOLO)",
        "empty text files written",
    ),
    "label-variant": Defect(
        "warning", "one class in two spellings of case or spaces", "label corrected"
    ),
    "label-misspelt": Defect("warning", "a rare label that is almost a frequent one"),
    "label-rare": Defect("warning", "a class with too few examples to learn from"),
    "label-not-tested": Defect("warning", "a class without an object to test on"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        code: Which kind, one of `DEFECTS`.
        file: The file or folder concerned.
        what: What was found there.
        part: Part of the data, such as `train`.
        picture: Name of the picture in its part, None where none is concerned.
        object_number: Which object of the annotation, from 1; None where none is concerned.
        label: Class of that object, or the class concerned.
    """

    code: str
    file: str
    what: str
    part: str = ""
    picture: str | None = None
    object_number: int | None = None
    label: str | None = None

    @property
    def severity(self) -> Severity:
        """`error` or `warning`, the same for every finding of a code."""
        return DEFECTS[self.code].severity

    @property
    def where(self) -> str:
        """File, and where several pictures share it the picture, and the object."""
        text = self.file
        if self.picture is not None and PurePath(self.picture).name != PurePath(self.file).stem:
            text += f": picture {self.picture}"
        if self.object_number is not None:
            text += f": object {self.object_number}"
            text += f" ({self.label})" if self.label is not None else ""
        return text

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.what} [{self.code}]"

    def to_json(self) -> dict[str, Any]:
        """All attributes and the severity as plain values."""
        return {"severity": self.severity, **asdict(self)}


def in_order(findings: Iterable[Finding], parts: Sequence[str]) -> list[Finding]:
    """Errors before warnings, then by part, file, picture and object; what follows from others last."""
    rank = {part: index for index, part in enumerate(parts)}
    return sorted(
        findings,
        key=lambda finding: (
            finding.severity,
            rank.get(finding.part, len(rank)),
            finding.code == "no-objects",
            finding.file,
            finding.picture or "",
            finding.object_number or 0,
            finding.code,
        ),
    )


def count_by_code(findings: Iterable[Finding]) -> dict[str, int]:
    """Code -> findings, in the order of `DEFECTS`, only codes that occur."""
    counts = Counter(finding.code for finding in findings)
    return {code: counts[code] for code in DEFECTS if counts[code]}


def count_by_severity(findings: Iterable[Finding]) -> dict[Severity, int]:
    """`error` and `warning` -> findings."""
    counts = Counter(finding.severity for finding in findings)
    return {"error": counts["error"], "warning": counts["warning"]}


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 error", "2 errors", "1,200 classes"."""
    plural = f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"
