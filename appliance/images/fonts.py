"""A font that has the letters of a text, for captions in any language.

Pillow's own font knows ASCII only. Beyond that come DejaVu Sans, which matplotlib brings along (Latin, Greek,
Cyrillic and more), and what the machine has for Chinese, Japanese and Korean.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_EAST_ASIAN = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "DroidSansFallback.ttf",
)
_NOBODYS = "\U0010ffff"  # drawn as the sign for a missing letter


def font_for(texts: Iterable[str], size_px: int) -> Font:
    """The first font that has all letters, else the one that lacks fewest.

    Args:
        texts: What is to be written.
        size_px: Height of the font in pixels.
    """
    letters = frozenset("".join(texts))
    if all(letter.isascii() for letter in letters):
        return ImageFont.load_default(size_px)
    lacking = {path: _lacking(path, letters) for path in font_paths()}
    best = min(lacking, key=lambda path: lacking[path], default=None)
    return ImageFont.load_default(size_px) if best is None else ImageFont.truetype(best, size_px)


@cache
def _lacking(path: str, letters: frozenset[str]) -> int:
    """How many of the letters a font does not have."""
    font = ImageFont.truetype(path, 16)
    missing = _shape(font, _NOBODYS)
    return sum(_shape(font, letter) == missing for letter in letters if not letter.isspace())


def _shape(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@cache
def font_paths() -> tuple[str, ...]:
    """Files of the fonts that captions may use, the best known first; empty without any."""
    return tuple(_find())


def _find() -> Iterator[str]:
    try:
        matplotlib = importlib.util.find_spec("matplotlib")
    except ImportError:
        matplotlib = None
    if matplotlib is not None and matplotlib.origin is not None:
        path = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            yield str(path)
    for name in _EAST_ASIAN:
        try:
            yield str(ImageFont.truetype(name, 16).path)
        except OSError:
            continue
