"""Results as people read them: small tables on standard output, and JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

_BORDER = 3  # between two columns
_NARROWEST = 20


def print_table(
    columns: Sequence[str],
    rows: Iterable[Iterable[Any]],
    title: str = "",
    *,
    dispensable: Sequence[str] = (),
) -> None:
    """Prints a table; the first column is text, the others are numbers.

    Args:
        columns: Their headings.
        rows: Of values.
        title: Above it.
        dispensable: Columns to leave out, one after the other, where the terminal is too narrow for all. Then
            the first is never cut: what is longer than the room beside the others goes on in the next line.
    """
    console = Console()
    lines = [[cell(value) for value in row] for row in rows]
    widths = {
        name: max(len(line[index]) for line in [list(columns), *lines])
        for index, name in enumerate(columns)
    }
    first, *others = columns
    needed = sum(widths[name] + _BORDER for name in others if name not in dispensable)
    widths[first] = min(widths[first], max(_NARROWEST, console.width - needed - _BORDER - 1))
    left_out: list[str] = []
    for name in dispensable:
        shown = [width for column, width in widths.items() if column not in left_out]
        if sum(shown) + _BORDER * len(shown) + 1 <= console.width:
            break
        left_out.append(name)
    table = Table(title=title or None, title_justify="left")
    for index, name in enumerate(columns):
        if name not in left_out:
            whole = bool(dispensable) and index == 0
            table.add_column(
                name,
                justify="right" if index else "left",
                overflow="fold" if whole else "ellipsis",
                min_width=widths[name] if whole else None,
            )
    for line in lines:
        table.add_row(
            *(text for name, text in zip(columns, line, strict=True) if name not in left_out)
        )
    console.print(table)
    if left_out:
        print(f"Left out for want of room: {', '.join(left_out)} (--json shows all).")


def print_json(document: Mapping[str, Any]) -> None:
    """Prints one JSON document on one line."""
    print(json.dumps(document, default=str))


def cell(value: Any) -> str:
    """A value as text: three decimals, thousands separated, nothing for None."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
