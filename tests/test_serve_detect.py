"""What one request may ask for: several pictures, forms, sizes, models, pictures back, deadlines."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import ipaddress
import json
import ssl

import aiohttp
import numpy as np
import pytest
from factories import encoded, jpeg_bytes, picture
from https_server import HOST, answer, https_server, make_certificate
from PIL import Image
from serving import (
    JPEG_TYPE,
    JSON_TYPE,
    ask,
    held_service,
    plain_service,
    request,
    serving,
    settings_for,
)
from torchvision.transforms.v2.functional import resize, to_image, to_pil_image

from appliance.access_keys import RateLimit, add_key
from appliance.images.drawing import draw_detections
from appliance.records import Record, records_agree
from appliance.scoring import ImageScorer
from serve_app.http.api import create_api
from serve_app.scoring.engine import ScoringEngine
from serve_app.scoring.models import ModelPool
from serve_app.security.url_fetching import UrlFetcher

FIRST, SECOND = jpeg_bytes((128, 96), seed=1), jpeg_bytes((96, 128), seed=2)
WAIT_S = 60.0


@pytest.fixture
def url(service_url):
    return service_url


@pytest.fixture(scope="module")
def scorer(tiny_model_path):
    return ImageScorer.load(str(tiny_model_path), device="cpu")


def text_of(data):
    return base64.b64encode(data).decode()


def post_json(url, body, query=""):
    status, _, answer = ask(f"{url}/v1/detect{query}", data=json.dumps(body), headers=JSON_TYPE)
    return status, answer


def post_form(url, *fields):
    """Sends a form as aiohttp makes it; a field is a name with a text, or with name and bytes of a file."""

    async def send():
        form = aiohttp.FormData()
        for name, value in fields:
            if isinstance(value, str):
                form.add_field(name, value)
            else:
                form.add_field(name, value[1], filename=value[0], content_type="image/jpeg")
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/detect", data=form) as response,
        ):
            return response.status, await response.json()

    return asyncio.run(send())


def test_several_pictures_get_one_result_each_in_order(url, scorer):
    images = [
        {"image": text_of(FIRST), "name": "a.jpg"},
        text_of(b"no picture"),
        text_of(SECOND),
    ]
    status, answer = post_json(url, {"images": images})
    assert status == 200
    first, broken, second = [Record.from_row(row) for row in answer["results"]]
    expected = scorer.score([("a.jpg", FIRST), ("images[2]", SECOND)])
    assert records_agree(first, expected[0])
    assert records_agree(second, expected[1])
    assert [first.image_uri, second.image_uri] == ["a.jpg", "images[2]"]
    assert (broken.image_uri, broken.error_kind) == ("images[1]", "unreadable")


def test_text_that_is_no_base64_spoils_its_own_result_only(url):
    status, answer = post_json(url, {"images": ["%", text_of(FIRST)]})
    assert status == 200
    assert [row["error_kind"] for row in answer["results"]] == ["invalid_base64", None]


def test_too_many_pictures_are_refused(url):
    status, answer = post_json(url, {"images": [text_of(FIRST)] * 4})
    assert (status, answer["error"]["code"]) == (413, "too_many_images")


def test_a_form_holds_pictures_and_options(url, scorer):
    status, one = post_form(url, ("image", ("a.jpg", FIRST)), ("max_detections", "2"))
    assert status == 200
    (expected,) = scorer.score([("a.jpg", FIRST)])
    assert one["image_uri"] == "a.jpg"
    assert len(one["detections"]) == 2 < len(expected.detections)
    status, several = post_form(url, ("x", ("a.jpg", FIRST)), ("y", ("b.jpg", SECOND)))
    assert status == 200
    assert [row["image_uri"] for row in several["results"]] == ["a.jpg", "b.jpg"]
    fields = [("image", ("a.jpg", FIRST)), ("labels", "circle"), ("labels", "square")]
    assert post_form(url, *fields)[1]["detections"] == post_form(url, fields[0])[1]["detections"]


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b"x", "multipart/form-data", "names no boundary"),
        (b"x", "multipart/form-data; boundary=b", "not multipart"),
        (b"--b\r\n\r\nx", "multipart/form-data; boundary=b", "before its last boundary"),
        (b"--b\r\n" + b"A" * 5000, "multipart/form-data; boundary=b", "header size exceeded"),
        (b"--b\r\nA: " + b"A" * 5000, "multipart/form-data; boundary=b", "header size exceeded"),
    ],
)
def test_what_is_no_form_is_refused(url, body, content_type, words):
    headers = {"Content-Type": content_type}
    status, _, answer = ask(f"{url}/v1/detect", data=body, headers=headers)
    assert (status, answer["error"]["code"]) == (400, "invalid_multipart")
    assert words in answer["error"]["message"]


def test_a_form_without_a_file_is_refused(url):
    status, answer = post_form(url, ("image", "x"), ("name", "y"))
    assert (status, answer["error"]["code"]) == (415, "unsupported_media_type")
    body = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    status, _, answer = ask(f"{url}/v1/detect", data=body, headers=headers)
    assert (status, answer["error"]["code"]) == (400, "empty_body")


def test_an_annotated_picture_comes_back(url, scorer):
    status, headers, body = asyncio.run(
        request(f"{url}/v1/detect?format=annotated&max_detections=3", data=FIRST, headers=JPEG_TYPE)
    )
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    (record,) = scorer.score([("upload", FIRST)])
    found = record.detections[:3]
    expected = draw_detections(
        Image.open(io.BytesIO(FIRST)),
        [(d.x1, d.y1, d.x2, d.y2) for d in found],
        [f"{d.label} {d.score:.2f}" for d in found],
        [d.class_id for d in found],
    )
    drawn = np.asarray(Image.open(io.BytesIO(body)), np.int16)
    assert np.abs(drawn - np.asarray(expected)).mean() < 6  # what JPEG costs
    status, answer = post_json(url, {"images": [text_of(FIRST)], "format": "annotated"})
    assert (status, answer["error"]["code"]) == (422, "invalid_parameter")


def test_resizing_keeps_boxes_in_pixels_of_the_original(url, scorer):
    """The same as sending the picture in that size and scaling its boxes."""
    original = picture((128, 96), seed=3)
    small = to_pil_image(resize(to_image(original), [64, 64], antialias=True))
    query = "?resize=64x64&score_threshold=0.35"
    status, _, row = ask(f"{url}/v1/detect{query}", data=encoded(original, "PNG"))
    assert status == 200
    assert (row["width_px"], row["height_px"]) == (128, 96)
    (expected,) = scorer.score([("upload", encoded(small, "PNG"))])
    wanted = [d for d in expected.detections if d.score >= 0.35]
    scaled = [(d.x1 * 2, d.y1 * 1.5, d.x2 * 2, d.y2 * 1.5) for d in wanted]
    found = [(d["x1"], d["y1"], d["x2"], d["y2"]) for d in row["detections"]]
    assert len(found) > 0
    np.testing.assert_allclose(found, scaled, atol=0.5)


def test_urls_are_off_unless_hosts_are_allowed(url):
    status, answer = post_json(url, {"image": {"url": "https://example.com/a.jpg"}})
    assert (status, answer["error"]["code"]) == (403, "urls_disabled")


def test_pictures_of_listed_hosts_are_fetched_and_dead_links_are_told(tiny_model_path, tmp_path):
    make_certificate(tmp_path)
    settings = settings_for(tiny_model_path)
    names = {"/a.jpg": answer(FIRST), "/none.jpg": answer(b"", "404 Not Found")}

    async def here(host):
        return ["127.0.0.1"]

    async def scenario():
        async with https_server(tmp_path, names) as server:
            fetcher = UrlFetcher(
                [f"{HOST}:{server.port}"],
                resolve=here,
                also_allowed=[ipaddress.ip_network("127.0.0.1/32")],
                ssl_context=ssl.create_default_context(cafile=tmp_path / "cert.pem"),
            )
            address = f"https://{HOST}:{server.port}"
            bodies = [
                {"image": {"url": f"{address}/a.jpg"}},
                {"image": {"url": f"{address}/none.jpg"}},
                {"image": {"url": "https://elsewhere.example/a.jpg"}},
                {"images": [{"image": {"url": f"{address}/a.jpg"}, "name": "b"}, text_of(SECOND)]},
            ]
            with serving(create_api(ModelPool.load(settings), settings, urls=fetcher)) as url:
                return [
                    await request(f"{url}/v1/detect", data=json.dumps(body), headers=JSON_TYPE)
                    for body in bodies
                ]

    answers = [(status, json.loads(body)) for status, _, body in asyncio.run(scenario())]
    (status, first), dead, elsewhere, (_, several) = answers
    assert (status, first["content_sha256"]) == (200, hashlib.sha256(FIRST).hexdigest())
    assert (dead[0], dead[1]["error"]["code"]) == (424, "url_bad_answer")
    assert (elsewhere[0], elsewhere[1]["error"]["code"]) == (403, "url_not_allowed")
    assert [row["image_uri"] for row in several["results"]] == ["b", "images[1]"]
    assert several["results"][0]["detections"] == first["detections"]


def test_keys_of_a_file_open_and_their_rates_are_kept(tiny_model_path, tmp_path):
    file = tmp_path / "keys.txt"
    slow, fast = add_key(file, "slow", rate=RateLimit.parse("1/min", 2)), add_key(file, "fast")
    with plain_service(tiny_model_path, key_file=str(file)) as url:

        def statuses(token, count):
            headers = {**JPEG_TYPE, "Authorization": f"Bearer {token}"}
            path = f"{url}/v1/detect"
            return [ask(path, data=FIRST, headers=headers)[0] for _ in range(count)]

        assert statuses(slow, 3) == [200, 200, 429]
        assert statuses(fast, 3) == [200, 200, 200]
        assert statuses("other", 1) == [401]


def test_a_client_sets_an_earlier_deadline(scorer):
    with held_service(scorer) as (url, held):
        headers = {**JPEG_TYPE, "X-Request-Timeout-Ms": "500"}
        status, _, answer = ask(f"{url}/v1/detect", data=FIRST, headers=headers)
        assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")
        assert "0.5 seconds" in answer["error"]["message"]
        held.gate.set()
        for wrong in ("0", "-5", "soon", "nan"):
            headers = {**JPEG_TYPE, "X-Request-Timeout-Ms": wrong}
            status, _, answer = ask(f"{url}/v1/detect", data=FIRST, headers=headers)
            assert (status, answer["error"]["code"]) == (400, "invalid_header")


def test_who_hangs_up_frees_the_place(scorer):
    """One works and one may wait: a third is let in only when the first has gone."""
    with held_service(scorer, max_ongoing_requests=1, max_queued_requests=1) as (url, held):

        async def scenario():
            path = f"{url}/v1/detect"
            first = asyncio.create_task(request(path, data=FIRST, headers=JPEG_TYPE))
            await asyncio.to_thread(held.started.wait, WAIT_S)
            second = asyncio.create_task(request(path, data=SECOND, headers=JPEG_TYPE))
            refused, _, _ = await asyncio.wait_for(refusal(path), WAIT_S)
            first.cancel()
            third = await asyncio.wait_for(place(path), WAIT_S)
            held.gate.set()
            return refused, (await second)[0], (await third)[0]

        async def refusal(path):
            """The answer to a request that finds both places taken."""
            headers = {**JPEG_TYPE, "X-Request-Timeout-Ms": "100"}
            while (answer := await request(path, data=FIRST, headers=headers))[0] != 503:
                pass  # pragma: no cover - only when it comes before the second
            return answer

        async def place(path):
            """A request that is not refused."""
            while True:
                third = asyncio.create_task(request(path, data=SECOND, headers=JPEG_TYPE))
                done, _ = await asyncio.wait([third], timeout=0.2)
                if not done:
                    return third

        assert asyncio.run(scenario()) == (503, 200, 200)


# --- several models ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoo(tiny_model_path):
    """Three further models, of which two may be in memory; `loads` tells which were loaded when."""
    settings = settings_for(tiny_model_path)
    loads = []

    def load(name):
        loads.append(name)
        path = "none.safetensors" if name == "broken" else tiny_model_path
        return ScoringEngine.load(settings.model_copy(update={"model": str(path)}))

    pool = ModelPool(ScoringEngine.load(settings), load, ("a", "b", "c", "broken"), 2)
    with serving(create_api(pool, settings)) as url:
        yield url, loads


def test_models_are_loaded_when_asked_for_and_the_least_recently_used_given_up(zoo):
    url, loads = zoo

    def ask_for(*names):
        loads.clear()
        for name in names:
            status, _, row = ask(f"{url}/v1/detect?model={name}", data=FIRST, headers=JPEG_TYPE)
            assert status == 200, row
        return list(loads)

    assert ask_for("tiny") == []
    assert ask_for("a", "b", "a") == ["a", "b"]
    assert ask_for("c") == ["c"]  # in the place of b, which was used less recently than a
    assert ask_for("a", "c") == []
    assert ask_for("b") == ["b"]
    _, _, answer = ask(f"{url}/v1/models", "GET")
    assert {model["name"]: model["loaded"] for model in answer["models"]} == {
        "tiny": True,
        "a": False,
        "b": True,
        "c": True,
        "broken": False,
    }
    status, _, model = ask(f"{url}/v1/models/a", "GET")
    assert (status, model["loaded"], model["labels"]) == (200, True, ["circle", "square"])


def test_an_unknown_model_and_one_that_cannot_be_loaded_are_told(zoo):
    url, _ = zoo
    status, _, answer = ask(f"{url}/v1/detect?model=cat", data=FIRST, headers=JPEG_TYPE)
    assert (status, answer["error"]["code"]) == (404, "unknown_model")
    assert ask(f"{url}/v1/models/cat", "GET")[0] == 404
    status, _, answer = ask(f"{url}/v1/detect?model=broken", data=FIRST, headers=JPEG_TYPE)
    assert (status, answer["error"]["code"]) == (503, "unavailable")
    assert "safetensors" not in json.dumps(answer)


def test_a_model_in_use_is_not_given_up(tiny_model_path):
    settings = settings_for(tiny_model_path)

    async def scenario():
        pool = ModelPool(
            ScoringEngine.load(settings), lambda _: ScoringEngine.load(settings), ("a", "b"), 1
        )
        async with pool.lend("a") as engine, pool.lend("b"):
            assert set(pool.loaded) == {"tiny", "a", "b"}
            assert (await engine.score(FIRST, "x")).error is None
        async with pool.lend("b"):
            pass
        await pool.close()
        return pool.default.ready

    assert asyncio.run(scenario()) is False


def test_settings_name_further_models(tiny_model_path):
    path = str(tiny_model_path)
    with plain_service(path, models=f"second={path},third={path}") as url:
        status, _, row = ask(f"{url}/v1/detect?model=third", data=FIRST, headers=JPEG_TYPE)
    assert (status, row["error"]) == (200, None)
    with pytest.raises(ValueError, match="name=path"):
        settings_for(path, models="second")
