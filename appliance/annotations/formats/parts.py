"""The parts that data is divided into, and how files and folders are named after them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from appliance.errors import DatasetError

PARTS = ("train", "valid", "val", "validation", "test")
_SAME = ("valid", "val", "validation")
_PART_IN_NAME = re.compile(rf"(?:^|[_\-. ])(({'|'.join(PARTS)})(?:[_\-]?\d{{4}})?)(?:$|[_\-. ])")


def words_of(name: str) -> tuple[str, ...]:
    """How a folder of the part may be called that the name of a file speaks of, most precise first.

    `instances_train2017` speaks of `train2017` and `train`; `annotations` of none.
    """
    match = _PART_IN_NAME.search(name.lower())
    if match is None:
        return ()
    others = [part for part in _SAME if part != match[2]] if match[2] in _SAME else []
    return tuple(dict.fromkeys((match[1], match[2], *others)))


def part_of(name: str) -> str | None:
    """The part that the name of a file speaks of."""
    match = _PART_IN_NAME.search(name.lower())
    return None if match is None else match[2]


def in_order(found: Mapping[str, str]) -> dict[str, str]:
    """Part -> where, training first and test last."""
    return {part: found[part] for part in PARTS if part in found}


def pick(parts: Mapping[str, str], part: str, *, where: str) -> str:
    """Where a part lies; `val`, `valid` and `validation` are one word.

    Raises:
        DatasetError: There is no such part.
    """
    for name in (part, *(_SAME if part in _SAME else ())):
        if name in parts:
            return parts[name]
    raise DatasetError(
        "The dataset has no such part",
        where=where,
        got=part,
        expected=f"one of {', '.join(parts)}" if any(parts) else "none, for it is not divided",
    )
