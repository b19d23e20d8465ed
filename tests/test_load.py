"""The load of Locust: all four ways to ask, against a service that is right and one that is not."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from factories import jpeg_bytes
from PIL import Image
from serving import ask, plain_service, request, serving

from appliance.errors import ConfigError
from benchmarks.online.checks import References
from benchmarks.online.pictures import Picture, PictureMix, parse_sizes
from benchmarks.online.protocols import PROTOCOLS, Found, WrongAnswerError

ROOT = Path(__file__).resolve().parents[1]
SIZES = "128:2,200:1"


@pytest.fixture(scope="module")
def pictures_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(3):
        (folder / f"{seed}.jpg").write_bytes(jpeg_bytes((160, 120), seed=seed))
    return folder


@pytest.fixture(scope="module")
def url(tiny_model_path):
    with plain_service(tiny_model_path, max_images_per_request=8) as address:
        yield address


def run_locust(url, pictures_dir, *options):
    command = [sys.executable, "-m", "locust", "-f", "benchmarks/locustfile.py", "--host", url]
    command += ["--headless", "--pictures", pictures_dir, "--sizes", SIZES, "--json", *options]
    environment = {key: value for key, value in os.environ.items() if key != "APPLIANCE_KEY"}
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, env=environment
    )


def test_users_of_every_kind_get_right_answers(url, pictures_dir):
    done = run_locust(url, pictures_dir, "-u", 10, "-r", 10, "-t", "3s", "-s", 30)
    assert done.returncode == 0, done.stderr
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert set(found) == {protocol.path for protocol in PROTOCOLS.values()}
    for one in found.values():
        assert one["num_requests"] > 0
        assert one["num_failures"] == 0


def test_a_tag_chooses_and_a_shape_ends_by_itself(url, pictures_dir):
    done = run_locust(url, pictures_dir, "--tags", "score", "--shape", "spike", "-u", 5, "-t", "5s")
    assert done.returncode == 0, done.stderr
    assert [one["name"] for one in json.loads(done.stdout)] == ["/score"]
    users = [line for line in done.stderr.splitlines() if "Shape test updating" in line]
    assert [line.split(" to ")[1].split()[0] for line in users] == ["1", "5", "1"]


def test_answers_of_another_picture_are_failures(pictures_dir):
    record = {"width_px": 128, "height_px": 96, "error": None, "detections": []}
    model = {"name": "m", "default": True, "score_threshold": None, "max_detections": None}

    async def liar(scope, receive, send):
        answer = {"models": [model]} if scope.get("path") == "/v1/models" else record
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    with serving(liar) as url:
        done = run_locust(url, pictures_dir, "--tags", "detect", "-u", 5, "-t", "2s")
    assert done.returncode == 1
    (found,) = json.loads(done.stdout)
    # Those that are 128 pixels wide are believed, the others are a third.
    assert 0.1 < found["num_failures"] / found["num_requests"] < 0.6
    assert "wrong answer: the size of another picture" in done.stderr


def test_a_mistake_is_one_sentence(url, pictures_dir, tmp_path):
    for folder, sizes, told in (
        (tmp_path, SIZES, "No pictures in the folder"),
        (pictures_dir, "big", "The sizes of the pictures cannot be read"),
    ):
        with pytest.raises(ConfigError, match=told):
            PictureMix.of_folder(folder, sizes)
    for address, options, told in (
        ("http://127.0.0.1:1", (), "The service does not answer"),
        ("", (), "No address of a service: give --host"),
        (url, ("--tags", "abacus"), "No kind of user is left"),
    ):
        done = run_locust(address, pictures_dir, *options)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(f"error: {told}")
    assert parse_sizes("own") == {None: 1.0}


def test_pictures_come_in_the_sizes_asked_for_as_often_as_asked_for(pictures_dir):
    mix = PictureMix.of_folder(pictures_dir, "64:3,32")
    drawn = [max(picture.size_wh) for picture in mix.draw(2000)]
    assert set(drawn) == {64, 32}
    assert drawn.count(64) == pytest.approx(1500, rel=0.1)
    assert len({picture.name for picture in mix.pictures}) == 6
    small, large = (PictureMix.of_folder(pictures_dir, side).mean_bytes for side in ("32", "64"))
    assert small < mix.mean_bytes < large
    Image.new("RGB", (30, 20)).save(pictures_dir / "x.png")
    own = {picture.name: picture for picture in PictureMix.of_folder(pictures_dir, "own").pictures}
    (pictures_dir / "x.png").unlink()
    assert own["0.jpg"].jpeg == (pictures_dir / "0.jpg").read_bytes()
    assert own["x.png at 30 px"].jpeg.startswith(b"\xff\xd8")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_all_protocols_tell_the_same_and_no_answer_passes_for_another(url, name):
    mine, other = (
        Picture(f"{seed}", jpeg_bytes((160, 120), seed=seed), (160, 120)) for seed in (1, 5)
    )
    (model,) = ask(f"{url}/v1/models", method="GET")[2]["models"]
    references = References(model["score_threshold"], model["max_detections"])
    for protocol in (PROTOCOLS["detect"], PROTOCOLS[name]):
        for picture in (mine, other):
            pictures = [picture] * protocol.pictures
            body, headers = protocol.request(pictures)
            path = protocol.path.format(model=model["name"])
            status, answer = asyncio.run(post(url + path, body, headers))
            assert status == 200
            for found in protocol.read(answer, pictures):
                assert len(found.scores)
                references.check(found, picture)
        swapped = protocol.read(answer, pictures)[0]
        with pytest.raises(WrongAnswerError, match="other detections"):
            references.check(swapped, mine)
        resized = [Picture("", b"", (120, 160))] * protocol.pictures
        for broken in (b"", b"{}", b"[]", b"[{}]", answer[: len(answer) // 2]):
            with pytest.raises(WrongAnswerError):
                protocol.read(broken, resized)


async def post(url, body, headers):
    status, _, answer = await request(url, data=body, headers=headers)
    return status, answer


def test_detections_that_cannot_be_are_wrong():
    picture = Picture("a", b"", (100, 50))
    box = [0, 0, 100, 50]
    References().check(Found.of([box], [0.5], [1]), picture)
    for boxes_xyxy, scores, class_ids, told in (
        ([[0, 0, 102, 50]], [0.5], [1], "outside"),
        ([[5, 0, 5, 50]], [0.5], [1], "outside"),
        ([box], [1.5], [1], "scores"),
        ([box, box], [0.5, 0.6], [1, 1], "scores"),
        ([box], [0.5], [0], "class"),
        ([box], [0.5, 0.4], [1, 1], "not as many"),
        ([["x"] * 4], [0.5], [1], "no numbers"),
    ):
        with pytest.raises(WrongAnswerError, match=told):
            References().check(Found.of(boxes_xyxy, scores, class_ids), picture)


def test_what_rounding_decides_is_no_wrong_answer():
    picture = Picture("a", b"", (100, 50))
    boxes_xyxy = np.array([[0, 0, 50, 50], [50, 0, 100, 50], [10, 10, 20, 20]])
    references = References(score_threshold=0.3, max_detections=4)
    references.check(Found.of(boxes_xyxy, [0.9, 0.8, 0.31], [1, 2, 1]), picture)
    # A detection at the threshold is gone, and the others have moved a little.
    references.check(Found.of(boxes_xyxy[:2] + 0.4, [0.89, 0.81], [1, 2]), picture)
    with pytest.raises(WrongAnswerError, match="other detections"):
        references.check(Found.of(boxes_xyxy[:1], [0.9], [1]), picture)
    with pytest.raises(WrongAnswerError, match="other detections"):
        references.check(Found.of(boxes_xyxy[:2], [0.9, 0.8], [2, 1]), picture)
    full = References(max_detections=2)
    full.check(Found.of(boxes_xyxy[:2], [0.9, 0.5], [1, 1]), picture)
    full.check(Found.of(boxes_xyxy[[0, 2]], [0.9, 0.5], [1, 1]), picture)
