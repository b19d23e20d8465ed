"""The client against a real HTTP server: the service itself, in this process, without Ray."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import encoded, jpeg_bytes, picture
from PIL import Image
from serving import plain_service

from appliance.access_keys import sha256_of
from appliance.client import AsyncClient, Client, Url
from appliance.client.access import Key
from appliance.client.pictures import default_name
from appliance.detector import FasterRCNN
from appliance.errors import (
    ConfigError,
    ImageError,
    ServiceError,
    ServiceRefusalError,
    StorageError,
)
from appliance.records import records_agree
from appliance.scoring import ImageScorer

PICTURES = [jpeg_bytes((160, 120), seed=seed) for seed in range(4)]


@pytest.fixture(scope="module")
def client(service_url):
    with Client(service_url + "/") as client:
        yield client


@pytest.fixture(scope="module")
def scorer(tiny_model_path):
    return ImageScorer.load(str(tiny_model_path), device="cpu")


def agree(record, expected):
    # Another number of threads rounds the last bits in another way; all else is equal.
    facts = replace(record, detections=()) == replace(expected, detections=())
    return facts and records_agree(record, expected)


def test_an_answer_is_the_record_of_scoring_here(client, scorer) -> None:
    (expected,) = scorer.score([("shelf 1/ä,&.jpg", PICTURES[0])])
    record = client.detect(PICTURES[0], name="shelf 1/ä,&.jpg")
    assert agree(record, expected)
    assert len(record.detections) > 2
    found = record.to_detections()
    here = expected.to_detections()
    assert found.size_hw == (120, 160)
    assert np.allclose(found.boxes_xyxy, here.boxes_xyxy, atol=0.5)
    assert np.array_equal(found.class_ids, here.class_ids)


def test_options_choose_what_is_answered(client, service_url) -> None:
    every = client.detect(PICTURES[0])
    best = client.detect(PICTURES[0], max_detections=1, score_threshold=None)
    assert best.detections == every.detections[:1]
    squares = client.detect(PICTURES[0], labels=("square",)).detections
    assert squares == tuple(found for found in every.detections if found.label == "square")
    assert client.detect(PICTURES[0], labels=["circle", "square"]) == every
    threshold = every.detections[2].score
    assert len(client.detect(PICTURES[0], score_threshold=threshold).detections) == 3
    small = client.detect(PICTURES[0], resize=(64, 48))
    assert small.detections != every.detections
    assert small == client.detect(PICTURES[0], resize="64x48", model="tiny")
    with pytest.raises(ConfigError, match=r"Not an option.*got treshold, expected score_threshold"):
        client.detect(PICTURES[0], treshold=0.5)
    with pytest.raises(ServiceRefusalError, match="Unknown label: pear"):
        client.detect(PICTURES[0], labels="pear")


def test_pictures_come_in_every_form(client, scorer, tmp_path) -> None:
    image = picture((160, 120), seed=4)
    path = tmp_path / "a.png"
    path.write_bytes(encoded(image, "PNG"))
    expected = client.detect(path)
    assert expected.image_uri == str(path)
    assert client.detect(str(path)) == expected
    assert client.detect(Image.open(path)).image_uri == str(path)
    alike = [
        client.detect(form, name=str(path)).detections
        for form in (
            image,
            np.array(image),
            path.read_bytes(),
            bytearray(path.read_bytes()),
            memoryview(path.read_bytes()),
            path.as_uri(),
        )
    ]
    assert alike == [expected.detections] * len(alike)
    assert client.detect(image).image_uri == "upload"
    assert client.detect(image.convert("CMYK")).error is None
    assert client.detect(image.convert("L")).width_px == 160


def test_a_picture_of_pillow_is_what_its_user_sees_of_it(client, tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = tmp_path / "turned.jpg"
    path.write_bytes(encoded(picture((160, 120)), "JPEG", exif=exif))
    of_file, of_image = client.detect(path), client.detect(Image.open(path))
    assert (of_file.width_px, of_file.height_px) == (120, 160)
    assert (of_image.width_px, of_image.height_px) == (160, 120)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ("nowhere.jpg", StorageError, "Cannot read the file: nowhere.jpg"),
        (3, ConfigError, r"This is no picture \(got a int"),
        (np.zeros((4, 4)), ConfigError, r"float64 of shape \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), ConfigError, r"of shape \(4, 4, 4\), expected RGB"),
        (Url("file:///etc/passwd"), ConfigError, "pictures of the web"),
        (Url("https://pictures.example.com/a.jpg"), ServiceRefusalError, "urls_disabled"),
        (bytes(3 * 2**20), ServiceRefusalError, "body_too_large"),
        (b"no picture", ServiceRefusalError, r"refused a request: upload.*Not a picture"),
    ],
)
def test_what_is_no_picture_is_told(client, wrong, error, words) -> None:
    with pytest.raises(error, match=words):
        client.detect(wrong)
    assert client.detect(PICTURES[0]).error is None  # the connection still works


def test_a_picture_that_pillow_cannot_read_is_told(client) -> None:
    cut = Image.open(io.BytesIO(encoded(picture(), "PNG")[:300]))
    with pytest.raises(ImageError, match="The picture cannot be encoded: b"):
        client.detect(cut, name="b")


def test_a_refusal_carries_the_words_of_the_service(client) -> None:
    with pytest.raises(ServiceRefusalError) as caught:
        client.detect(b"no picture", name="b.jpg")
    error = caught.value
    assert (error.status, error.code, error.kind) == (400, "image_unreadable", "unreadable")
    assert len(error.request_id) == 32
    assert f"[request {error.request_id}]" in str(error)
    assert error.hint.startswith("Send a whole JPEG")


def test_the_annotated_picture_is_a_jpeg_of_its_size(client) -> None:
    jpeg = client.annotated(PICTURES[0], max_detections=2)
    drawn = Image.open(io.BytesIO(jpeg))
    assert (drawn.format, drawn.size) == ("JPEG", (160, 120))
    assert not np.array_equal(drawn, Image.open(io.BytesIO(PICTURES[0])))


def test_the_endpoint_of_2018_answers_as_the_detector_does(
    client, tiny_model_path, tmp_path
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(PICTURES[1])
    expected = FasterRCNN.load(str(tiny_model_path), device="cpu").score(str(path))
    scored = client.score_compat(path)
    assert scored.keys() == expected.keys()
    assert scored["detection_classes"] == expected["detection_classes"]
    assert np.allclose(scored["detection_boxes"], expected["detection_boxes"], atol=0.005)
    few = client.score_compat(path, parameters={"max_total_detections": 2, "unknown": 1})
    assert few["num_detections"] == 2
    small = client.score_compat(path, image_resize_dims=(64, 48))
    (again,) = client.detect_many([Image.open(path).resize((64, 48))])
    assert small["num_detections"] == len(again.detections)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"picture": Url("https://a/b")}, "POST /score takes no Url"),
        ({"picture": b"x", "image_resize_dims": (4, 4)}, "Not a picture: upload"),
        ({"picture": PICTURES[0], "image_resize_dims": (4,)}, "image_resize_dims is no size"),
        ({"picture": PICTURES[0], "image_resize_dims": (0, 4)}, "image_resize_dims is no size"),
        ({"picture": PICTURES[0], "parameters": {"score_threshold": 2}}, "score_threshold"),
    ],
)
def test_mistakes_with_the_endpoint_of_2018_are_told(client, arguments, words) -> None:
    with pytest.raises((ConfigError, ImageError, ServiceRefusalError), match=words):
        client.score_compat(**arguments)


@pytest.mark.parametrize("ordered", [True, False])
def test_many_pictures_give_a_record_each_broken_ones_too(
    client, scorer, tmp_path, ordered
) -> None:
    gone = tmp_path / "gone.jpg"
    items = [*PICTURES, gone, b"no picture", ("named", PICTURES[0])]
    records = list(client.detect_many(items, concurrency=3, ordered=ordered))
    if not ordered:
        records.sort(
            key=lambda record: [*map("[{}]".format, range(4)), str(gone), "[5]", "named"].index(
                record.image_uri
            )
        )
    *good, missing, broken, named = records
    expected = scorer.score([(f"[{index}]", data) for index, data in enumerate(PICTURES)])
    assert all(agree(record, other) for record, other in zip(good, expected, strict=True))
    assert named.detections == good[0].detections
    assert missing.image_uri == str(gone)
    assert "Cannot read the file" in missing.error
    assert missing.content_sha256 is None
    (in_batch,) = scorer.score([("[5]", b"no picture")])
    assert (broken.error_kind, broken.content_sha256) == (
        in_batch.error_kind,
        in_batch.content_sha256,
    )
    with pytest.raises(ImageError, match="The picture was not scored"):
        broken.to_detections()


def test_the_first_error_is_raised_where_that_is_wanted(client) -> None:
    records = client.detect_many([PICTURES[0], b"x", PICTURES[1]], on_error="raise", concurrency=1)
    assert next(records).error is None
    with pytest.raises(ServiceRefusalError, match=r"Not a picture: \[1\]"):
        list(records)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"concurrency": 0}, "concurrency is out of range"),
        ({"on_error": "ignore"}, "on_error is none"),
        ({"timeout_s": 0}, "timeout_s is out of range"),
        ({"threshold": 0.5}, "Not an option"),
    ],
)
def test_mistakes_with_many_pictures_are_told_at_once(client, arguments, words) -> None:
    with pytest.raises(ConfigError, match=words):
        client.detect_many([], **arguments)


def test_asyncio_has_the_same(service_url, client, scorer) -> None:
    async def pictures():
        for data in PICTURES:
            yield data

    async def use():
        async with AsyncClient(service_url) as here:
            assert await here.ready()
            await here.wait_until_ready(10)
            assert await here.models() == client.models()
            one = await here.detect(PICTURES[0], name="[0]")
            many = [record async for record in here.detect_many(pictures(), concurrency=2)]
            assert client.detect(PICTURES[0], name="[0]") == one  # beside a loop that runs
            assert (await here.annotated(PICTURES[0]))[:2] == b"\xff\xd8"
            assert (await here.score_compat(PICTURES[0]))["num_detections"] > 0
            return one, many

    one, many = asyncio.run(use())
    assert [record.image_uri for record in many] == ["[0]", "[1]", "[2]", "[3]"]
    assert records_agree(many[0], one)


def test_models_say_what_they_know(client) -> None:
    (model,) = client.models()
    assert (model.name, model.default, model.labels) == ("tiny", True, ("circle", "square"))
    assert client.ready()


def test_a_key_opens_and_is_shown_nowhere(tiny_model_path, tmp_path, monkeypatch) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(f"shop {sha256_of(b'dak_secret')}\n")
    with plain_service(tiny_model_path, key_file=str(file)) as url:
        with Client(url, key="dak_secret") as client:
            assert client.models()
            assert "secret" not in repr(client) + repr(vars(client))
            assert repr(Key("dak_secret")) == "Key('...')"
        with Client(url, key="dak_wrong") as client, pytest.raises(ServiceRefusalError) as caught:
            client.detect(PICTURES[0])
        assert (caught.value.status, caught.value.code) == (401, "unauthorized")
        assert "dak_wrong" not in str(caught.value) + repr(vars(caught.value))
        monkeypatch.setenv("APPLIANCE_KEY", "dak_secret\n")
        with Client(url) as client:
            assert client.models()
        with Client(url, key="") as client, pytest.raises(ServiceRefusalError, match="unauth"):
            client.models()
    with pytest.raises(ConfigError, match="The key holds characters") as refused:
        Client(url, key="dak_se cret")
    assert "cret" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:8000",
        "ftp://host",
        "http://",
        "http://host:port",
        "http://host/?a=1",
        "http://[1",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ServiceError, match="Not the address of a service"):
        Client(address)


def test_an_address_with_a_password_is_refused_without_it() -> None:
    with pytest.raises(ConfigError, match="must not hold a password.*got http://host") as caught:
        Client("http://me:secret@host/")
    assert "secret" not in str(caught.value)


def test_the_address_of_the_endpoint_of_2018_names_the_service(service_url) -> None:
    with Client(f"{service_url}/score") as client:
        assert client.score_compat(PICTURES[0])["num_detections"] > 0


def test_a_wrong_path_is_told_in_the_words_of_the_service(service_url) -> None:
    with Client(f"{service_url}/elsewhere") as client:
        with pytest.raises(ServiceRefusalError, match="There is nothing at /elsewhere/v1/detect"):
            client.detect(PICTURES[0])
        with pytest.raises(ServiceRefusalError):
            client.ready()


def test_names_of_pictures_hide_what_is_secret() -> None:
    assert default_name("https://me:pass@host/a.jpg?signature=1#x") == "https://host/a.jpg"
    assert default_name(Url("HTTPS://host/a.jpg?signature=1")) == "https://host/a.jpg"
    assert default_name(Path("a" * 2000)) == "a" * 1024
    assert default_name(b"", "[3]") == "[3]"
