"""The page of the service is for everybody: ears, weak eyes, small screens, quiet tastes."""

from __future__ import annotations

import re

import pytest
from page_steps import ANSWERED, FAILED, move_threshold, opened

from appliance.images.drawing import colour_of


@pytest.fixture
def url(service_url):  # pragma: no cover - where there is no Chromium
    return service_url


def test_a_screen_reader_is_told_everything(tab, url):
    with opened(tab, url):
        tab.click("#sample")
        tab.until(ANSWERED)
        nodes = tab.accessible()
        operable = {"button", "link", "checkbox", "slider", "textbox", "combobox"}
        nameless = [node for node in nodes if node["role"] in operable and not node["name"]]
        assert nameless == []
        by_role = {
            role: [n for n in nodes if n["role"] == role] for role in {n["role"] for n in nodes}
        }
        assert [len(by_role[role]) for role in ("main", "banner", "contentinfo", "slider")] == [
            1
        ] * 4
        assert by_role["heading"][0]["level"] == 1
        value = tab.js("document.querySelector('#threshold').getAttribute('aria-valuetext')")
        assert re.fullmatch(r"0\.50, \d+ of \d+ shown", value)
        counts = tab.text("#summary")
        assert tab.text("#announcer").startswith(counts)
        (image,) = (n for n in by_role["image"] if n["name"])
        assert image["name"].startswith("sample.jpg, with")
        assert {"columnheader", "row", "cell", "table", "status"} <= set(by_role)
        assert [node.get("live") for node in by_role["status"]].count("polite") == 1
        assert tab.js("document.documentElement.lang") == "en"
        assert all(node["name"] for node in by_role["region"])


# Every text against the nearest ground below it, as WCAG 2 measures contrast.
_CONTRASTS = """[...document.querySelectorAll('body *')].filter((e) => e.checkVisibility({opacityProperty: true})
  && !e.closest('noscript, .hidden-text, #drop-hint') && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
.map((e) => {
  const context = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (text) => { context.clearRect(0, 0, 1, 1); context.fillStyle = text; context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  let ground = e;
  while (ground && rgba(getComputedStyle(ground).backgroundColor)[3] < 255) ground = ground.parentElement;
  const [a, b] = [getComputedStyle(e).color, getComputedStyle(ground ?? document.body).backgroundColor].map((c) => light(rgba(c)));
  return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.id || e.className || e.tagName, e.textContent.trim().slice(0, 30)];
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(tab, url, tmp_path, scheme):
    tab.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with opened(tab, url, ["400"]):
        grounds = tab.js("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", grounds))) < 64) == (scheme == "dark")
        checked = tab.js(_CONTRASTS)
        tab.click("#sample")
        tab.until(ANSWERED)
        move_threshold(tab, 0.3)
        tab.js("document.querySelector('#json').open = true")
        tab.click("#key-button")
        checked += tab.js(_CONTRASTS)
        tab.press("Escape")
        tab.drag_file(broken, "#stage")
        tab.until(FAILED)
        checked += tab.js(_CONTRASTS)
        assert len(checked) > 60
        assert [entry for entry in checked if entry[0] < 4.5] == []


@pytest.mark.parametrize("width_px", [320, 360])
def test_a_telephone_shows_everything_without_sideways_scrolling(tab, url, width_px):
    tab.resize(width_px, 740)
    with opened(tab, url):
        wide = "[document.documentElement.scrollWidth, innerWidth]"
        assert tab.js(wide) == [width_px, width_px]
        tab.click("#sample")
        tab.until(ANSWERED)
        move_threshold(tab, 0.3)
        tab.js("document.querySelector('#json').open = true")
        assert tab.js(wide) == [width_px, width_px]
        small = """[...document.querySelectorAll('button, a, .label, input[type=range], select')]
          .filter((e) => e.checkVisibility() && !e.matches('.skip')).map((e) => [e.id || e.className, e.getBoundingClientRect()])
          .filter(([, at]) => at.width < 24 || at.height < 24 || at.left < 0 || at.right > innerWidth)"""
        assert tab.js(small) == []
        frame = tab.js("document.querySelector('#frame').getBoundingClientRect().width")
        assert frame > 0.85 * width_px


def test_nothing_moves_for_those_who_do_not_want_it(tab, url):
    with opened(tab, url):
        moving = """[...document.querySelectorAll('*')].map((e) => getComputedStyle(e))
          .filter((s) => s.animationName !== 'none' || s.transitionDuration !== '0s').length"""
        assert tab.js(moving) > 0
        tab.prefer(prefers_reduced_motion="reduce")
        assert tab.js(moving) == 0


def test_colours_are_those_of_the_pictures_that_the_service_draws(tab, url):
    with opened(tab, url):
        script = "import('/page/colours.js').then((m) => Array.from({length: 90}, (_, i) => m.colourOf(i + 1)))"
        assert tab.js(script) == [list(colour_of(class_id)) for class_id in range(1, 91)]
