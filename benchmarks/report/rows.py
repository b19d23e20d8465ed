"""What a result says in figures, as rows and tables of its page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_ABSENT = "–"
_LONGEST_LIST = 12
_DEEPEST = 4


def headlines(document: Mapping[str, Any], left_out: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Names and values of the single figures of a document, those further down by their path.

    Lists of whole tables are raw data, for programs.

    Args:
        document: A result.
        left_out: What of its top level has a place of its own.
    """
    for name, value in document.items():
        if name not in left_out:
            yield from _rows((name,), value)


def _rows(path: tuple[str, ...], value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        if "median" in value and "rounds" in value:
            yield ": ".join(path), f"{text(value['median'])} of {text(value['rounds'])}"
        elif len(path) < _DEEPEST:
            for name, below in value.items():
                yield from _rows((*path, str(name)), below)
    elif not (isinstance(value, list) and any(isinstance(one, Mapping | list) for one in value)):
        yield ": ".join(path), text(value)


@dataclass(frozen=True)
class SidesTable:
    """What was measured of sides that compete, beside each other.

    Attributes:
        columns: Names of figures.
        rows: Name of the side, and its figures in the order of the columns.
        failed: Name of the side -> why there are none.
    """

    columns: list[str]
    rows: list[tuple[str, list[str]]]
    failed: dict[str, str]


def sides_table(document: Mapping[str, Any]) -> SidesTable | None:
    """That of a document of `benchmarks.peers`; None of another."""
    sides = document.get("sides")
    if not isinstance(sides, Mapping):
        return None
    figures = {
        name: {": ".join(path): value for path, value in _flat((), side.get("figures", {}))}
        for name, side in sides.items()
    }
    columns = list(dict.fromkeys(column for found in figures.values() for column in found))
    return SidesTable(
        columns,
        [
            (name, [text(found.get(column)) for column in columns])
            for name, found in figures.items()
            if found
        ],
        {name: str(side["failed"]) for name, side in sides.items() if side.get("failed")},
    )


def _flat(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from _flat((*path, str(name)), below)
    else:
        yield path, value


def missed_because(step: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Why requests of a step of a load were missed, with their numbers, the most frequent first."""
    late = step["right"] - sum(window["in_time"] for window in step["windows"])
    reasons = {**step["failures"], f"later than {step['objective_ms']:g} ms": late}
    return [one for one in Counter(reasons).most_common() if one[1]]


def text(value: Any) -> str:
    """A figure, or a few of them, for people."""
    if value is None:
        return _ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        more = ", ..." if len(value) > _LONGEST_LIST else ""
        return ", ".join(text(one) for one in value[:_LONGEST_LIST]) + more or "none"
    return str(value) if value != {} else "none"
