"""The page of the service in a real Chromium: pictures in, boxes, choices, errors."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from browser import CONTROL
from factories import encoded, jpeg_bytes, picture
from page_steps import ANSWERED, FAILED, drop, move_threshold, opened, shown_record
from PIL import ExifTags, Image
from serving import plain_service

from appliance.records import Record
from appliance.scoring import ImageScorer


@pytest.fixture(scope="module")
def url(tiny_model_path):  # pragma: no cover - where there is no Chromium
    with plain_service(tiny_model_path, models={"second": str(tiny_model_path)}) as served:
        yield served


@pytest.fixture(scope="module")
def scorer(tiny_model_path):  # pragma: no cover - where there is no Chromium
    return ImageScorer.load(str(tiny_model_path), device="cpu")


def turned_jpeg(orientation):  # pragma: no cover - where there is no Chromium
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(picture((160, 96), seed=3), "JPEG", quality=95, exif=exif)


@pytest.mark.parametrize("orientation", [1, 6, 3])
def test_boxes_of_a_dropped_picture_lie_where_the_record_says(
    tab,
    url,
    scorer,
    tmp_path,
    orientation,
):  # pragma: no cover - where there is no Chromium
    path = tmp_path / "a shelf.jpg"
    path.write_bytes(turned_jpeg(orientation))
    (expected,) = scorer.score([(path.name, path.read_bytes())])
    width, height = (96, 160) if orientation == 6 else (160, 96)
    assert (expected.width_px, expected.height_px) == (width, height)
    with opened(tab, url):
        tab.drag_file(path, "#stage", "dragEnter", "dragOver")
        tab.until("getComputedStyle(document.querySelector('#drop-hint')).opacity === '1'")
        drop(tab, path)
        record = shown_record(tab)
        assert (record.image_uri, record.content_sha256) == (path.name, expected.content_sha256)
        move_threshold(tab, 0.3)
        for window in ((1280, 800), (360, 740)):
            tab.resize(*window)
            places = tab.until(
                """(() => {
                  const frame = document.querySelector('#picture').getBoundingClientRect();
                  if (Math.abs(frame.width / frame.height - %f) > 0.02) return null;
                  return [...document.querySelectorAll('.box')].map((box) => {
                    const at = box.getBoundingClientRect();
                    return [Number(box.dataset.index), (at.left - frame.left) / frame.width,
                      (at.top - frame.top) / frame.height, (at.right - frame.left) / frame.width,
                      (at.bottom - frame.top) / frame.height];
                  });
                })()"""
                % (width / height)
            )
            assert len(places) == len(record.detections) > 3
            for index, *shares in places:
                found = record.detections[index]
                scaled = np.array(shares) * (width, height, width, height)
                wanted = (found.x1, found.y1, found.x2, found.y2)
                np.testing.assert_allclose(scaled, wanted, atol=0.1)
        # The picture stands as its taker saw it, like the boxes.
        upright = tab.js(
            "[document.querySelector('#picture').naturalWidth, document.querySelector('#picture').naturalHeight]"
        )
        assert upright == [width, height]


def test_a_picture_is_pasted_from_the_clipboard(tab, url):
    with opened(tab, url):
        png = list(encoded(picture((128, 96), seed=2), "PNG"))
        tab.js(
            f"navigator.clipboard.write([new ClipboardItem({{'image/png': new Blob([new Uint8Array({png})],"
            " {type: 'image/png'})})])"
        )
        tab.press("v", CONTROL, commands=("paste",))
        tab.until(ANSWERED)
        assert (shown_record(tab).width_px, shown_record(tab).height_px) == (128, 96)
        tab.js("navigator.clipboard.writeText('only words')")
        tab.press("v", CONTROL, commands=("paste",))
        tab.until(FAILED)
        assert "no picture on the clipboard" in tab.text("#alert-message")


def test_everything_works_by_keyboard(tab, url, tmp_path):
    path = tmp_path / "shelf.jpg"
    path.write_bytes(jpeg_bytes((128, 96), seed=1))
    with opened(tab, url):
        tab.intercept_file_dialog()
        assert tab.tab_to("#choose") <= 6
        tab.press("Enter")
        tab.choose_file(path)
        tab.until(ANSWERED)
        assert tab.js("document.activeElement.id") == "choose"
        tab.tab_to("#threshold")
        tab.press("Home")
        assert tab.text("#threshold-value") == "0.00"
        tab.tab_to("#label-list input")
        before = tab.js("document.querySelectorAll('.box').length")
        tab.press(" ")
        assert tab.js("document.querySelectorAll('.box').length") < before
        tab.press(" ")
        assert tab.js("document.querySelectorAll('.box').length") == before
        tab.tab_to("tbody tr")
        for key, row in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("End", before - 1)):
            tab.press(key)
            assert (
                tab.js("[...document.querySelectorAll('tbody tr')].indexOf(document.activeElement)")
                == row
            )
            marked = "[...document.querySelectorAll('.box.active')].map((box) => box.dataset.index)"
            assert tab.js(marked) == [str(row)]
        tab.tab_to("#copy-curl")
        outline = "getComputedStyle(document.activeElement).outlineWidth"
        assert tab.js(outline) == "3px"
        tab.press("Enter")
        tab.until("document.querySelector('#copy-curl').innerText.startsWith('Copied')")
        assert tab.js("navigator.clipboard.readText()") == tab.text("#curl")


def test_threshold_and_labels_choose_at_once_and_curl_answers_the_same(tab, url, tmp_path):
    path = tmp_path / "it's a shelf.jpg"
    path.write_bytes(jpeg_bytes((128, 96), seed=1))
    with opened(tab, url):
        drop(tab, path)
        asked = len(tab.requested())
        every = shown_record(tab).detections
        move_threshold(tab, 0.0)
        assert tab.text("#summary") == f"{len(every)} objects"
        assert tab.js("document.querySelectorAll('#ticks i').length") == len(every)
        scores = [found.score for found in every]
        threshold = round((scores[2] + scores[0]) / 2, 2)
        move_threshold(tab, threshold)
        label = every[0].label
        for other in {found.label for found in every} - {label}:
            tab.click(
                f".label:has(input):nth-child({1 + sorted({f.label for f in every}).index(other)})"
            )
        kept = [found for found in every if found.score >= threshold and found.label == label]
        rows = tab.js(
            "[...document.querySelectorAll('tbody tr')].map((row) => row.innerText.split('\\t'))"
        )
        assert [(row[0].strip(), row[1]) for row in rows] == [
            (found.label, f"{found.score:.2f}") for found in kept
        ]
        boxes = (
            "[...document.querySelectorAll('.box')].map((box) => Number(box.dataset.index)).sort()"
        )
        assert tab.js(boxes) == [every.index(found) for found in kept]
        assert len(tab.requested()) == asked  # the service was not asked again
        answer = subprocess.run(
            ["bash", "-c", tab.text("#curl").replace("curl ", "curl -sS ", 1)],
            cwd=tmp_path,
            capture_output=True,
            check=True,
        )
        assert Record.from_row(json.loads(answer.stdout)).detections == tuple(kept)
        assert Record.from_row(json.loads(answer.stdout)).image_uri == path.name


def test_the_sample_and_its_command(tab, url):
    with opened(tab, url):
        tab.click("#sample")
        tab.until(ANSWERED)
        record = shown_record(tab)
        assert (record.image_uri, record.width_px) == ("sample.jpg", 960)
        answer = subprocess.run(
            ["bash", "-c", tab.text("#curl").replace("curl ", "curl -sS ")],
            capture_output=True,
            check=True,
        )
        assert Record.from_row(json.loads(answer.stdout)).content_sha256 == record.content_sha256
        tab.hover(".caption")  # captions let the pointer through to what lies below
        tab.hover("tbody tr:nth-child(2)")
        assert tab.js(
            "[...document.querySelectorAll('.box.active')].map((box) => box.dataset.index)"
        ) == ["1"]


def test_times_are_those_of_the_server_and_the_browser(tab, url):
    with opened(tab, url):
        tab.click("#sample")
        tab.until(ANSWERED)
        parts = tab.js(
            "[...document.querySelectorAll('#timings-list li')].map((item) => item.innerText.trim().split('\\n'))"
        )
        names = [name.strip() for name, _ in parts]
        assert names == [
            *("Queue", "Receive", "Decode", "Batch wait", "Model", "Encode"),
            "Network, rest",
        ]
        whole = float(tab.text("#timings-total").removesuffix(" ms"))
        assert sum(float(ms.removesuffix(" ms")) for _, ms in parts) == pytest.approx(whole, abs=2)
        assert float(parts[4][1].removesuffix(" ms")) > 0
        parsed = tab.js(
            "import('/page/service.js').then((m) => m.parseServerTiming('cache, decode;desc=\"x\";dur=1.5, odd;dur=2'))"
        )
        assert parsed == [{"name": "Decode", "ms": 1.5}]


def test_errors_say_what_the_service_says_and_the_next_picture_is_welcome(tab, url, tmp_path):
    broken, large, good = (tmp_path / name for name in ("broken.jpg", "large.png", "good.jpg"))
    broken.write_bytes(jpeg_bytes()[:300])
    large.write_bytes(encoded(Image.new("1", (2000, 2000)), "PNG"))
    good.write_bytes(jpeg_bytes((128, 96), seed=1))
    with opened(tab, url, ["400", "413", "ERR_INTERNET_DISCONNECTED"]):
        for path, status, code in (
            (broken, 400, "image_unreadable"),
            (large, 413, "image_too_large"),
        ):
            tab.drag_file(path, "#stage")
            tab.until(
                f"{FAILED} && document.querySelector('#alert-code').innerText.includes('{status}')"
            )
            assert tab.text("#alert-code") == f"{code} · HTTP {status}"
            assert path.name in tab.text("#alert-message")
            assert tab.text("#alert-hint")
            assert not tab.shows("#alert-retry")  # the same once more would help nobody
            assert not tab.shows("#controls")
        drop(tab, good)
        assert not tab.shows("#alert")
        offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        tab.call("Network.emulateNetworkConditions", offline=True, **offline)
        tab.drag_file(good, "#stage")
        tab.until(FAILED)
        assert tab.text("#alert-message") == "The service cannot be reached"
        tab.call("Network.emulateNetworkConditions", offline=False, **offline)
        tab.click("#alert-retry")
        tab.until(ANSWERED)
        assert not tab.shows("#alert")


def test_an_answer_that_is_not_ours_is_told_as_such(tab, url):
    with opened(tab, url):
        told = tab.js(
            "import('/page/service.js').then(({ServiceError}) => [ServiceError.of(null, 502),"
            " ServiceError.of({error: {message: 'm', hint: null, code: 'c'}}, 503, 2)].map((e) =>"
            " [e.message, e.hint, e.code, e.status, e.retryAfterS]))"
        )
        assert "502" in told[0][0]
        assert told[1] == ["m", "", "c", 503, 2]


def test_the_newest_picture_wins(tab, url, tmp_path):
    first, second = tmp_path / "first.jpg", tmp_path / "second.jpg"
    first.write_bytes(jpeg_bytes((320, 240), seed=1))
    second.write_bytes(jpeg_bytes((128, 96), seed=1))
    with opened(tab, url):
        tab.drag_file(first, "#stage")
        tab.drag_file(second, "#stage")
        tab.until(ANSWERED)
        tab.until(
            "document.querySelector('#facts').innerText.startsWith('second.jpg · 128 × 96 px')"
        )
        assert shown_record(tab).image_uri == "second.jpg"


def test_a_format_that_browsers_do_not_know_is_shown_as_the_service_sees_it(tab, url, tmp_path):
    path = tmp_path / "scan.tiff"
    path.write_bytes(encoded(picture((128, 96), seed=1), "TIFF"))
    with opened(tab, url):
        drop(tab, path)
        tab.until("document.querySelector('#picture').naturalWidth === 128")
        assert tab.js("document.querySelector('#frame').className") == ""
        assert shown_record(tab).image_uri == "scan.tiff"


def test_further_models_are_chosen_from_a_list(tab, url):
    with opened(tab, url):
        assert tab.js("[...document.querySelector('#model').options].map((o) => o.value)") == [
            "tiny",
            "second",
        ]
        tab.click("#sample")
        tab.until(ANSWERED)
        tab.js("document.querySelector('#model').focus()")
        tab.press("ArrowDown")
        tab.until("document.querySelector('#model-name').innerText === 'Model second'")
        tab.until(ANSWERED)
        assert tab.requested()[-1].endswith(("model=second", "/v1/models"))
        assert "model=second" in tab.text("#curl")
