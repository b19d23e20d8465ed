"""Results as people read them: small tables on standard output, and JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_table(columns: Iterable[str], rows: Iterable[Iterable[Any]], title: str = "") -> None:
    """Prints a table; the first column is text, the others are numbers."""
    table = Table(title=title or None, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*(cell(value) for value in row))
    Console().print(table)


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
