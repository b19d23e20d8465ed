"""The client against a real HTTP server: the service itself, in this process, without Ray."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from factories import jpeg_bytes
from serving import plain_service

from appliance.client import Client
from appliance.errors import ServiceError
from appliance.records import records_agree
from appliance.scoring import ImageScorer


@pytest.fixture(scope="module")
def service_url(tiny_model_path):
    """The address of the service, answering on a free port of the loopback."""
    with plain_service(tiny_model_path) as url:
        yield url


def test_an_answer_is_the_record_of_scoring_here(service_url, tiny_model_path) -> None:
    picture = jpeg_bytes((160, 120), seed=4)
    scorer = ImageScorer.load(str(tiny_model_path))
    (expected,) = scorer.score([("shelf 1/ä.jpg", picture)])
    with Client(service_url) as client:
        first = client.detect(picture, name="shelf 1/ä.jpg")
        assert client.detect(picture, name="shelf 1/ä.jpg") == first  # the same connection
        best = client.detect(picture, max_detections=1)
    # Another number of threads rounds the last bits in another way; all else is equal.
    assert records_agree(first, expected)
    assert replace(first, detections=()) == replace(expected, detections=())
    assert best.detections == first.detections[:1]
    assert best.image_uri == "upload"


def test_a_refusal_is_the_services_own_sentence(service_url) -> None:
    with Client(service_url + "/") as client:
        with pytest.raises(ServiceError, match=r"refused a picture: b\.jpg.*Not a picture"):
            client.detect(b"no picture", name="b.jpg")
        assert client.detect(jpeg_bytes()).error is None  # the connection still works


def test_an_answer_of_some_other_server_is_shown_in_part(service_url) -> None:
    with Client(f"{service_url}/elsewhere") as client, pytest.raises(ServiceError, match="refused"):
        client.detect(jpeg_bytes())


def test_nobody_there_is_said_with_the_next_step() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with Client(address) as client, pytest.raises(ServiceError, match="Start one with"):
            client.detect(jpeg_bytes())


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://host", "http://"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ServiceError, match="Not the address of a service"):
        Client(address)
