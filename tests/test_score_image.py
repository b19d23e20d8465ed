"""`appliance score-image` against a service, as users type it."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest
from factories import jpeg_bytes
from PIL import Image
from scripted_server import RECORD, error, scripted
from serving import plain_service

from appliance.access_keys import sha256_of
from appliance.records import Record, records_agree
from appliance.scoring import ImageScorer

MODELS = (200, {"models": [{"name": "tiny", "loaded": True, "default": True}]})


@pytest.fixture
def url(service_url):
    return service_url


@pytest.fixture
def pictures(tmp_path):
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for seed, path in enumerate(paths):
        path.write_bytes(jpeg_bytes((160, 120), seed=seed))
    return paths


def test_pictures_become_json_equal_to_batch_scores(
    run_appliance, url, pictures, tiny_model_path, capsys
):
    assert run_appliance("score-image", url, *pictures, "--json") == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    scorer = ImageScorer.load(str(tiny_model_path), device="cpu")
    expected = scorer.score([(str(path), path.read_bytes()) for path in pictures])
    records = [Record.from_row(row) for row in rows]
    assert [record.image_uri for record in records] == [str(path) for path in pictures]
    assert all(map(records_agree, records, expected))


def test_options_reach_the_service_and_pictures_are_drawn(
    run_appliance, url, pictures, tmp_path, capsys
):
    drawn = tmp_path / "drawn"
    arguments = ("score-image", url, *pictures, "--max-detections", 1, "--annotated", drawn)
    assert run_appliance(*arguments, "--min-score", 0.1, "--labels", "circle,square") == 0
    printed = capsys.readouterr().out
    assert sum(word in printed for word in ("circle", "square")) >= 1
    assert sorted(path.name for path in drawn.iterdir()) == ["0000-a.jpg", "0001-b.jpg"]
    with Image.open(drawn / "0000-a.jpg") as image:
        assert image.size == (160, 120)
    assert run_appliance(*arguments) == 1
    assert "There is a file already" in capsys.readouterr().err


def test_each_picture_that_fails_is_told_beside_the_others(
    run_appliance, url, pictures, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"no picture")))
    gone = tmp_path / "gone.jpg"
    arguments = (pictures[0], "-", gone, "--annotated", tmp_path / "drawn", "--max-detections", 2)
    assert run_appliance("score-image", url, *arguments) == 1
    shown = capsys.readouterr()
    assert "error: unreadable" in shown.out
    assert "Not a picture: stdin" in shown.err
    assert f"Cannot read the file: {gone}" in shown.err
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["0000-a.jpg"]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(jpeg_bytes())))
    assert run_appliance("score-image", url, "-", "--annotated", tmp_path / "drawn") == 0
    assert (tmp_path / "drawn" / "0000-stdin.jpg").exists()


def test_a_picture_without_objects_has_a_line(run_appliance, pictures, capsys):
    empty = (200, {**RECORD, "detections": []})
    with scripted(MODELS, empty) as server:
        assert run_appliance("score-image", server.url, pictures[0]) == 0
    assert "nothing" in capsys.readouterr().out


def test_the_key_comes_from_the_environment(
    run_appliance, tiny_model_path, tmp_path, pictures, monkeypatch, capsys
):
    file = tmp_path / "keys.txt"
    file.write_text(f"shop {sha256_of(b'dak_secret')}\n")
    with plain_service(tiny_model_path, key_file=str(file)) as url:
        assert run_appliance("score-image", url, *pictures) == 1
        refused = capsys.readouterr().err
        assert refused.count("error:") == 1
        assert "unauthorized" in refused
        monkeypatch.setenv("APPLIANCE_KEY", "dak_secret")
        assert run_appliance("score-image", url, pictures[0], "--json") == 0


def test_a_service_that_refuses_is_told_once(run_appliance, pictures, capsys):
    with scripted(error(404, "not_found")) as server:
        assert run_appliance("score-image", server.url, *pictures) == 1
    assert capsys.readouterr().err.count("error:") == 1
    assert run_appliance("score-image", "127.0.0.1:8000", *pictures) == 1
    assert "Not the address of a service" in capsys.readouterr().err
