"""Captions in the languages of those who write them."""

from __future__ import annotations

import base64
import warnings
from pathlib import Path

import numpy as np
import pytest
from factories import picture
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import ImageFont

from appliance.evaluation.report.chart import Chart
from appliance.images import fonts
from appliance.images.drawing import draw_detections
from appliance.images.fonts import font_for


def captioned(caption: str) -> np.ndarray:
    return np.asarray(draw_detections(picture((200, 160)), [[40, 60, 150, 120]], [caption], [1]))


def test_plain_english_keeps_the_font_it_had() -> None:
    assert font_for(["egg box 0.93"], 15).getname() == ImageFont.load_default(15).getname()
    assert font_for([], 15).size == 15


@pytest.mark.parametrize("text", ["Käse", "söß", "Сыр", "τυρί"])
def test_letters_beyond_ascii_are_found(text) -> None:
    font = font_for(["milk", text], 15)
    assert (font.getname()[0], font.size) == ("DejaVu Sans", 15)
    missing = bytes(font.getmask("\U0010ffff"))
    assert missing not in [bytes(font.getmask(letter)) for letter in text]


def test_a_text_that_no_font_has_is_drawn_all_the_same() -> None:
    assert font_for(["\U0010fffe"], 12).size == 12


def test_captions_that_differ_look_different() -> None:
    assert not np.array_equal(captioned("ä"), captioned("я"))
    assert np.array_equal(captioned("ä"), captioned("ä"))


def chart_png(letters: str) -> bytes:
    """A chart with these letters, drawn with warnings as errors."""
    chart = Chart("c", letters, "", "", lambda ax, _: ax.set_xlabel(letters) and None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert letters in base64.b64decode(chart.svg_uri("light").partition(",")[2]).decode()
        return chart.png


@pytest.fixture
def fonts_anew():
    """The fonts of the machine are looked for again, before and after the test."""
    fonts.font_paths.cache_clear()
    yield
    fonts.font_paths.cache_clear()


def write_font(path: Path, letters: str) -> None:
    """A font in which each of the letters is a full square."""
    pen = TTGlyphPen(None)
    for draw, corner in ((pen.moveTo, (0, 0)), *((pen.lineTo, c) for c in ((0, 900), (900, 900)))):
        draw(corner)
    pen.lineTo((900, 0))
    pen.closePath()
    names = [".notdef", *(f"uni{ord(letter):04X}" for letter in letters)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(a): name for a, name in zip(letters, names[1:], strict=True)})
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), **dict.fromkeys(names[1:], pen.glyph())})
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": "Squares Of The Test", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    path.parent.mkdir(parents=True)
    font.save(path)


def test_letters_that_no_font_has_are_no_warning_in_a_chart(fonts_anew) -> None:
    assert chart_png("\U000f0000\U000f0001").startswith(b"\x89PNG")


def test_a_chart_takes_letters_from_a_font_of_the_machine(
    fonts_anew, monkeypatch, tmp_path
) -> None:
    letters = "\U000f0000\U000f0001"
    without = chart_png(letters)
    write_font(tmp_path / "fonts" / "DroidSansFallback.ttf", letters)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    fonts.font_paths.cache_clear()
    assert font_for([letters], 12).getname()[0] == "Squares Of The Test"
    assert chart_png(letters) != without
