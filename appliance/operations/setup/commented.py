"""Settings as YAML in which every one stands with what it means: chosen ones as they are, the others commented out."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import yaml

_WIDTH = 110


def described(cls: type[Any]) -> dict[str, str]:
    """What the docstring of a class says of its attributes, by name.

    Raises:
        KeyError: It says nothing of them.
    """
    text = inspect.getdoc(cls) or ""
    section = re.split(r"(?m)^Attributes:\n", text)[1].split("\nRaises:")[0]
    entries = re.split(r"(?m)^ {4}(?=\w+: )", section)
    pairs = (entry.partition(": ") for entry in entries if entry.strip())
    return {name: " ".join(meaning.split()) for name, _, meaning in pairs}


def commented(
    values: Mapping[str, Any],
    meanings: Mapping[str, str],
    chosen: frozenset[str],
    *,
    indent: int = 0,
) -> str:
    """Lines of YAML, a comment before each.

    Args:
        values: Names and values.
        meanings: What each of them means.
        chosen: Names whose lines count; the others are comments, ready to be taken out.
        indent: Spaces before each line.
    """
    blocks = []
    for name, value in values.items():
        lines = textwrap.wrap(f"{name}: {meanings[name]}", _WIDTH - indent)
        entry = f"{name}: {in_yaml(value)}"
        blocks.append(
            "\n".join([*(f"## {line}" for line in lines), entry if name in chosen else f"#{entry}"])
        )
    return textwrap.indent("\n\n".join(blocks) + "\n", " " * indent)


def in_yaml(value: Any) -> str:
    """A value on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.strip().removesuffix("...").strip()
