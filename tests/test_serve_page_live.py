"""The page of the service in a real Chromium: keys, and the camera."""

from __future__ import annotations

import re

import pytest
from page_steps import ANSWERED, FAILED, KNOWN, move_threshold, opened, shown_record
from serving import plain_service

KEY = "a-key-of-the-tests"


@pytest.fixture
def url(service_url):  # pragma: no cover - where there is no Chromium
    return service_url


@pytest.fixture(scope="module")
def locked_url(tiny_model_path):  # pragma: no cover - where there is no Chromium
    with plain_service(tiny_model_path, keys=(KEY,)) as served:
        yield served


# --- keys ----------------------------------------------------------------------------------------


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(tab, locked_url):
    with opened(tab, locked_url, ["401"]):
        tab.until("document.querySelector('#model-name').innerText.includes('asks for an API key')")
        tab.click("#sample")
        for text in ("a wrong key", KEY):
            tab.until(f"{FAILED} && document.querySelector('#key-panel').matches(':popover-open')")
            assert tab.text("#alert-code") == "unauthorized · HTTP 401"
            assert tab.js("document.activeElement.id") == "key"
            tab.js("document.querySelector('#key').select()")
            tab.type(text)
            tab.press("Enter")
            tab.until("!document.querySelector('#key-panel').matches(':popover-open')")
        tab.until(ANSWERED)
        assert not tab.shows("#alert")
        assert tab.js("document.querySelector('#key').type") == "password"
        assert "Authorization: Bearer $API_KEY" in tab.text("#curl")
        tab.open(f"{locked_url}/")
        tab.until(KNOWN)  # still there after a reload
        assert tab.js("[localStorage.length, document.cookie, sessionStorage.length]") == [0, "", 1]
        assert not any(KEY in asked for asked in tab.requested())
        assert KEY not in tab.js("document.documentElement.outerHTML")
        tab.click("#key-button")
        tab.click("#key-forget")
        assert tab.js("[sessionStorage.length, document.querySelector('#key').value]") == [0, ""]


def test_the_camera_takes_the_key_too(tab, locked_url):
    with opened(tab, locked_url, ["401"]):
        tab.click("#camera")
        tab.until(f"{FAILED} && document.activeElement.id === 'key'")
        tab.type(KEY)
        tab.press("Enter")
        tab.until("document.querySelector('#live-line').innerText.includes('answers a second')")
        tab.click("#sample")  # a picture ends it
        tab.until("document.querySelector('#facts').innerText.startsWith('sample.jpg · 960')")
        assert shown_record(tab).image_uri == "sample.jpg"
        assert tab.text("#camera-text") == "Use camera"
        assert tab.js("document.querySelector('#video').srcObject") is None


# --- the camera ----------------------------------------------------------------------------------


def test_the_camera_is_answered_live_and_leaves_its_last_frame(tab, url):
    with opened(tab, url):
        tab.click("#camera")
        tab.until("document.querySelector('#live-line').innerText.includes('answers a second')")
        move_threshold(tab, 0.3)
        tab.until(
            "Number(/Frame (\\d+)/.exec(document.querySelector('#live-line').innerText)[1]) > 8"
        )
        tab.until("document.querySelectorAll('.box').length > 0")
        assert tab.shows("#video")
        assert tab.js("document.querySelector('#video').srcObject.active")
        assert re.search(r"\d+ left out", tab.text("#live-line"))
        parts = "[...document.querySelectorAll('#timings-list li')].map((item) => item.innerText)"
        assert any(part.startswith("Model") for part in tab.js(parts))
        tab.click("#camera")
        tab.until(
            "document.querySelector('#picture').naturalWidth > 0 && !document.querySelector('#json').hidden"
        )
        assert tab.js("document.querySelector('#video').srcObject") is None
        record = shown_record(tab)
        assert re.fullmatch(r"frame-\d+", record.image_uri)
        size = tab.js(
            "[document.querySelector('#picture').naturalWidth, document.querySelector('#picture').naturalHeight]"
        )
        assert [record.width_px, record.height_px] == size
        (socket,) = tab.events("Network.webSocketCreated")
        assert socket["url"] == url.replace("http", "ws") + "/v1/stream"


_NO_CAMERA = (
    "navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('', '{}') }}"
)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (_NO_CAMERA.format("NotFoundError"), "no camera"),
        (_NO_CAMERA.format("NotAllowedError"), "may not be"),
        ("navigator.mediaDevices.getUserMedia = null", "gives no camera"),
        (
            "window.WebSocket = class extends WebSocket { constructor(url) { super(url + '?labels=cat') } }",
            "cat",
        ),
    ],
    ids=["none", "forbidden", "insecure", "refused"],
)
def test_what_is_wrong_with_a_camera_is_said(tab, url, script, words):
    with opened(tab, url):
        tab.js(f"void ({script})")
        tab.click("#camera")
        tab.until(FAILED)
        assert words in tab.text("#alert-message")
        assert tab.text("#camera-text") == "Use camera"
        assert tab.shows("#welcome")
