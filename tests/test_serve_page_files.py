"""The files of the service's page over HTTP: what they are, and what their headers forbid."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import ask, request

from appliance.annotations.samples.scenes import draw_scene
from serve_app.http import page, reference

FOLDER = Path(page.__file__).with_name("page")
FILES = sorted(path.name for path in FOLDER.iterdir() if path.name != "index.html")
LARGEST_PAGE_BYTES = 160_000


@pytest.fixture
def url(service_url):
    return service_url


def test_the_page_comes_with_a_policy_that_lets_nothing_else_in(url):
    status, headers, body = asyncio.run(request(f"{url}/", "GET"))
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert body == (FOLDER / "index.html").read_bytes()
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Permissions-Policy"].startswith("camera=(self)")
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_the_browser_has_is_not_sent_again(url, name):
    status, headers, body = asyncio.run(request(f"{url}/page/{name}", "GET"))
    assert (status, body) == (200, (FOLDER / name).read_bytes())
    assert headers["Cache-Control"] == "no-cache"
    known = {"If-None-Match": f'"another", {headers["ETag"]}'}
    status, again, body = asyncio.run(request(f"{url}/page/{name}", "GET", headers=known))
    assert (status, body, again["ETag"]) == (304, b"", headers["ETag"])
    status, head, body = asyncio.run(request(f"{url}/page/{name}", "HEAD"))
    assert (status, body, head["Content-Length"]) == (200, b"", headers["Content-Length"])


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fpage.py", "%2Fetc%2Fpasswd", "index.html"])
def test_only_the_files_of_the_page_are_given_out(url, name):
    status, _, answer = ask(f"{url}/page/{name}", "GET")
    assert (status, answer["error"]["code"]) == (404, "not_found")


def test_the_page_names_every_file_it_has_and_nothing_from_elsewhere():
    texts = {name: (FOLDER / name).read_text() for name in FILES if not name.endswith(".jpg")}
    texts["index.html"] = (FOLDER / "index.html").read_text()
    everything = "\n".join([*texts.values(), Path(reference.__file__).read_text()])
    assert set(re.findall(r"https?://[\w.]+", everything)) <= {"http://www.w3.org"}  # of SVG
    for name in FILES:
        assert re.search(rf"[\"'](page/|\./){re.escape(name)}[\"']", everything), name
    assert not re.search(
        r"<style|style=|<script(?! type=\"module\" src)| on\w+=", texts["index.html"]
    )
    assert "innerHTML" not in everything
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < LARGEST_PAGE_BYTES


def test_the_sample_picture_is_one_of_our_drawn_scenes():
    scene, objects = draw_scene(16, (960, 720))
    with Image.open(FOLDER / "sample.jpg") as sample:
        assert sample.size == scene.size
        difference = np.asarray(sample, np.int16) - np.asarray(scene, np.int16)
    assert len(objects) == 10
    assert np.abs(difference).mean() < 3
