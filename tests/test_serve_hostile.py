"""Clients as one meets them in the open: odd pictures, bodies that never end, far too many at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import pytest
from bulk_jobs import score_here
from factories import jpeg_bytes
from odd_pictures import KINDS, ODD
from serving import JPEG_TYPE, WAIT_S, ask, held_service, plain_service, request

from appliance.bulk.inputs.opening import list_input
from appliance.bulk.scores.manifest import read_records
from appliance.records import Record, records_agree
from appliance.scoring import ImageScorer

JPEG = jpeg_bytes((128, 96), seed=1)
STATUS = {"too_large": 413}


@pytest.fixture(scope="module")
def scorer(tiny_model_path):
    return ImageScorer.load(str(tiny_model_path), device="cpu")


def test_odd_pictures_get_the_answers_that_bulk_scoring_gives(tiny_model_path, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, data in ODD.items():
        (pictures / name).write_bytes(data)
    score_here(str(tiny_model_path), list_input(str(pictures)), str(tmp_path / "scores"))
    rows = {
        record.image_uri.rpartition("/")[2]: record for record in read_records(tmp_path / "scores")
    }
    limits = {"max_body_bytes": 32 * 2**20, "max_pixels": 100_000_000}
    with plain_service(tiny_model_path, **limits) as url:
        for name, data in ODD.items():
            status, _, answer = ask(f"{url}/v1/detect?name={name}", data=data, headers=JPEG_TYPE)
            if name == "empty.jpg":
                assert (status, answer["error"]["code"]) == (400, "empty_body")
            elif name in KINDS:
                assert status == STATUS.get(KINDS[name], 400), answer
                assert answer["error"]["code"] == f"image_{KINDS[name]}"
            else:
                assert status == 200, answer
                assert records_agree(Record.from_row(answer), rows[name])
        assert set(rows) == set(ODD)


def half_a_request(url, sent):
    """A connection that has sent the beginning of a request and says no more."""
    connection = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), WAIT_S)
    connection.sendall(sent)
    return connection


HEAD = (
    b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 1000\r\n"
)


@pytest.mark.parametrize("sent", [b"POST /v1/de", HEAD, HEAD + b"\r\n" + b"x" * 500])
def test_clients_that_send_half_a_request_keep_nobody_out(tiny_model_path, sent):
    limits = {"max_ongoing_requests": 2, "max_queued_requests": 2}
    with plain_service(tiny_model_path, **limits) as url, contextlib.ExitStack() as connections:
        for _ in range(50):
            connections.enter_context(half_a_request(url, sent))
        for _ in range(5):
            assert ask(f"{url}/v1/detect", data=JPEG, headers=JPEG_TYPE)[0] == 200


def test_bodies_on_their_way_have_a_budget(tiny_model_path):
    """Those that hold it keep others out until they go; then there is room again."""
    with plain_service(tiny_model_path, max_bodies_bytes=len(JPEG) + 100) as url:
        connection = half_a_request(url, HEAD + b"\r\n" + b"x" * 500)
        status = 200
        while status == 200:  # until the service has read the half body
            status, headers, answer = ask(f"{url}/v1/detect", data=JPEG, headers=JPEG_TYPE)
        assert (status, answer["error"]["code"]) == (503, "overloaded")
        assert headers["Retry-After"] == "1"
        connection.close()
        while status == 503:
            status, _, answer = ask(f"{url}/v1/detect", data=JPEG, headers=JPEG_TYPE)
        assert status == 200


def test_four_times_as_many_as_there_are_places_for(scorer):
    """Those there are places for are answered, the others told at once; none waits for nothing."""
    limits = {"max_ongoing_requests": 4, "max_queued_requests": 4}
    with held_service(scorer, **limits) as (url, held):

        async def stampede():
            path = f"{url}/v1/detect"
            tasks = [
                asyncio.create_task(request(path, data=JPEG, headers=JPEG_TYPE)) for _ in range(32)
            ]
            refused, waiting = set(), set(tasks)
            while len(refused) < 24:
                done, waiting = await asyncio.wait(waiting, return_when="FIRST_COMPLETED")
                refused |= done
            held.gate.set()
            return [await task for task in refused], [await task for task in waiting]

        refused, answered = asyncio.run(stampede())
    assert {status for status, _, _ in refused} == {503}
    assert {json.loads(body)["error"]["code"] for _, _, body in refused} == {"overloaded"}
    assert [status for status, _, _ in answered] == [200] * 8
