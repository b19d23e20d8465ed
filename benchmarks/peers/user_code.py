"""How many lines of code a user writes for a peer."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable
from pathlib import Path

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def lines_of(files: Iterable[Path]) -> int:
    """Lines with code on them; of files other than Python's, lines that are not blank."""
    return sum(
        _python_lines(file.read_text()) if file.suffix == ".py" else _written(file.read_text())
        for file in files
    )


def _written(text: str) -> int:
    return sum(bool(line.strip()) for line in text.splitlines())


def _python_lines(source: str) -> int:
    coded: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            coded |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        # A text that stands alone is a docstring.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            coded -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(coded)
