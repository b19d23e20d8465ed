"""What is wrong with the classes of a dataset: unknown, misspelt, rare or untested ones.

All of it follows from counts and from the first place of each label; no annotation is kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher, get_close_matches

from appliance.annotations.checks.findings import Finding, counted

_ALMOST_EQUAL = 0.8  # of difflib: one letter of five wrong, two of ten
_WORTH_PROPOSING = 0.6
_RARER_THAN_THE_RIGHT_ONE = 5


@dataclass
class LabelUse:
    """How often a part of the data uses a label.

    Attributes:
        file: Annotation that uses it first.
        picture: Picture of that annotation.
        object_number: Object of that annotation.
        objects: Objects with it.
        usable: Those of them that a model can be trained with.
    """

    file: str
    picture: str
    object_number: int
    objects: int = 0
    usable: int = 0


@dataclass
class PartLabels:
    """The labels of one part of the data.

    Attributes:
        folder: Where the part lies.
        used: Label -> its use.
        complete: False if the part could not be read, so that what is absent means nothing.
    """

    folder: str
    used: dict[str, LabelUse] = field(default_factory=dict)
    complete: bool = True

    def usable(self, label: str) -> int:
        """Objects of a label that a model can be trained with."""
        return self.used[label].usable if label in self.used else 0


def spelling_corrections(
    parts: Mapping[str, PartLabels], known: Sequence[str] | None = None
) -> dict[str, str]:
    """Labels that differ from another one only by case or spaces -> that other one.

    The right spelling is a known one, else the one that occurs most often in the first part.

    Args:
        parts: Part -> its labels, the part to learn from first.
        known: Classes that are certainly spelt right.
    """
    counts: Counter[str] = Counter()
    for index, part in enumerate(parts.values()):
        for label, use in part.used.items():
            counts[label] += use.objects * (1_000_000 if index == 0 else 1)
    right: dict[str, str] = {}
    for label in (*(known or ()), *sorted(counts, key=lambda label: (-counts[label], label))):
        right.setdefault(_without_case_and_spaces(label), label)
    wrong = (label for label in counts if label not in (known or ()))
    return {
        label: right[_without_case_and_spaces(label)]
        for label in wrong
        if right[_without_case_and_spaces(label)] != label
    }


def check_labels(
    parts: Mapping[str, PartLabels],
    *,
    min_examples: int,
    known: Sequence[str] | None = None,
    declared: Sequence[str] = (),
) -> Iterator[Finding]:
    """Looks at the classes of all parts.

    Args:
        parts: Part -> its labels, the part to learn from first.
        min_examples: Fewer usable objects of a class in the first part are worth a warning.
        known: The classes that there may be; None takes those of the first part.
        declared: Classes that the first part declares, whether it shows them or not.
    """
    first_name, first = next(iter(parts.items()))
    corrections = spelling_corrections(parts, known)
    allowed = tuple(known) if known is not None else (*first.used, *declared)
    doubtful = set(corrections)
    for name, part in parts.items():
        for label in sorted(part.used):
            finding = _check_label(label, name, parts, allowed, corrections, known is not None)
            if finding is not None:
                doubtful.add(label)
                yield finding
    classes = sorted(set(allowed) - doubtful)
    if first.complete:
        for label in classes:
            if (count := first.usable(label)) < min_examples:
                what = (
                    f"has {counted(count, 'usable example')}, at least {min_examples} are advisable"
                )
                yield _of_class("label-rare", first_name, first, label, what)
    for name, part in list(parts.items())[1:]:
        for label in classes:
            if part.complete and first.usable(label) and not part.usable(label):
                what = f"has no usable object in {name}, so nothing is measured of it there"
                yield _of_class("label-not-tested", name, part, label, what)


def nearest_label(label: str, others: Iterable[str]) -> str | None:
    """The most similar other label, None where none is similar enough to be proposed."""
    near = get_close_matches(
        label.casefold(), [other.casefold() for other in others], n=1, cutoff=_WORTH_PROPOSING
    )
    return next((other for other in others if [other.casefold()] == near), None)


def _check_label(
    label: str,
    name: str,
    parts: Mapping[str, PartLabels],
    allowed: Sequence[str],
    corrections: Mapping[str, str],
    closed: bool,
) -> Finding | None:
    use = parts[name].used[label]
    first_name, first = next(iter(parts.items()))

    def make(code: str, what: str) -> Finding:
        more = use.objects - 1
        what += f"; so does {counted(more, 'more object')}" if more == 1 else ""
        what += f"; so do {counted(more, 'more object')}" if more > 1 else ""
        return Finding(code, use.file, what, name, use.picture, use.object_number, label)

    right = corrections.get(label)
    if label not in allowed and (closed or first.complete):
        where = "among the given labels" if closed else f"in {first_name}"
        what = f"has the label {label!r}, which is not {where}"
        near = nearest_label(label, allowed)
        if right is not None:
            what += f" but for case or spaces: {right!r} is"
        elif near is not None:
            what += f" (did you mean {near!r}?)"
        return make("label-unknown", what)
    if right is not None:
        return make(
            "label-variant", f"has the label {label!r}, elsewhere {right!r}: one class becomes two"
        )
    if closed:
        return None
    total = sum(part.used[label].objects for part in parts.values() if label in part.used)
    rivals = {
        other: sum(part.used[other].objects for part in parts.values() if other in part.used)
        for other in first.used
        if other != label and other not in corrections
    }
    for other, count in sorted(rivals.items(), key=lambda item: -item[1]):
        if _looks_misspelt(label, total, other, count):
            what = f"has the label {label!r} (did you mean {other!r}, with {count:,} objects?)"
            return make("label-misspelt", what)
    return None


def _looks_misspelt(label: str, count: int, other: str, other_count: int) -> bool:
    plain, plain_other = _letters(label), _letters(other)
    if re.sub(r"\D", "", label) != re.sub(r"\D", "", other):
        return False  # "size 1" and "size 2" are two classes
    if plain == plain_other:
        return count < other_count or (count == other_count and label > other)
    ratio = SequenceMatcher(None, plain, plain_other, autojunk=False).ratio()
    alike = ratio >= _ALMOST_EQUAL or sorted(plain) == sorted(plain_other)  # letters interchanged
    return alike and count * _RARER_THAN_THE_RIGHT_ONE <= other_count


def _of_class(code: str, name: str, part: PartLabels, label: str, what: str) -> Finding:
    return Finding(code, part.folder, f"class {label!r} {what}", name, label=label)


def _without_case_and_spaces(label: str) -> str:
    return "".join(label.split()).casefold()


def _letters(label: str) -> str:
    return re.sub(r"[\W_]+", "", label).casefold()
