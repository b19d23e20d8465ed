"""Captions in the languages of those who write them."""

from __future__ import annotations

import numpy as np
import pytest
from factories import picture
from PIL import ImageFont

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
