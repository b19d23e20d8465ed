"""Reading and decoding ahead: order, bounded memory, errors that stay with their picture."""

from __future__ import annotations

import threading
from functools import partial

import pytest
from factories import encoded, jpeg_bytes
from PIL import Image

from appliance.bulk.decode_ahead import DecodeAhead, StageSeconds
from appliance.bulk.inputs.listing import PictureRef
from appliance.bulk.inputs.retries import with_retries
from appliance.errors import ImageError, StorageError
from appliance.images.decoding import decode_image, decoded_bytes

SMALL = jpeg_bytes((40, 30))


def ahead(decode=lambda ref, content: (ref.image_uri, content), **options):
    settings = {"threads": 2, "readers": 3, "batch_size": 4, "min_shorter_side_px": 1000}
    return DecodeAhead(decode, seconds=StageSeconds(), **{**settings, **options})


def pictures(contents):
    def fetch(content):
        if isinstance(content, Exception):
            raise content
        return content

    for index, content in enumerate(contents):
        yield PictureRef(str(index)), partial(fetch, content)


def names(batches):
    return [[name for name, _ in batch] for batch in batches]


def test_batches_come_in_order_and_full():
    found = list(ahead().batches(pictures([SMALL] * 10)))
    assert names(found) == [list("0123"), list("4567"), list("89")]
    assert all(content == SMALL for batch in found for _, content in batch)
    assert list(ahead().batches(pictures([]))) == []


def test_large_pictures_make_smaller_batches():
    """100x100 pixels need 40,000 bytes: of 160,000, half is two pictures; a larger one is alone."""
    medium, large = (
        encoded(Image.new("RGB", size_wh), "PNG") for size_wh in ((100, 100), (300, 300))
    )
    contents = [medium] * 3 + [large, large] + [SMALL] * 5
    found = ahead(memory_bytes=160_000).batches(pictures(contents))
    assert names(found) == [["0", "1"], ["2"], ["3"], ["4"], ["5", "6", "7", "8"], ["9"]]


def test_no_more_is_decoded_than_memory_allows():
    """While a batch is in use, others of at most `memory_bytes` together wait for it."""
    held, most = set(), []
    lock = threading.Lock()
    one = encoded(Image.new("RGB", (100, 100)), "PNG")

    def decode(ref, content):
        with lock:
            held.add(ref.image_uri)
            most.append(len(held))
        return ref.image_uri, content

    for batch in ahead(decode, memory_bytes=160_000).batches(pictures([one] * 40)):
        with lock:
            for name, _ in batch:
                held.remove(name)
    # One batch of two in use has left `held` already: two batches of two may wait.
    assert max(most) <= 4
    assert len(most) == 40


def test_errors_stay_with_their_picture():
    gone = StorageError("Cannot read the file", where="1", got="nothing")
    bomb = ImageError("The picture is too large", kind="too_large", where="2")
    (batch,) = ahead().batches(pictures([SMALL, gone, bomb, SMALL]))
    assert [type(content) for _, content in batch] == [bytes, ImageError, ImageError, bytes]
    assert [batch[1][1].kind, batch[2][1].kind] == ["missing", "too_large"]


def test_what_a_network_refuses_is_read_again():
    attempts = []

    def flaky():
        attempts.append(1)
        if len(attempts) < 3:
            raise StorageError("Cannot read the file", transient=True)
        return b"picture"

    assert with_retries(flaky, (0.0, 0.0)) == b"picture"
    assert len(attempts) == 3
    attempts.clear()
    with pytest.raises(StorageError):
        with_retries(flaky, (0.0,))
    assert len(attempts) == 2


def test_what_is_not_there_is_not_read_again():
    attempts = []

    def missing():
        attempts.append(1)
        raise StorageError("Cannot read the file", got="nothing")

    with pytest.raises(StorageError):
        with_retries(missing)
    assert len(attempts) == 1


def test_memory_is_foreseen_by_the_header():
    png = encoded(Image.new("RGB", (200, 100)), "PNG")
    assert decoded_bytes(png) == decoded_bytes(png, 10) == 4 * 200 * 100
    jpeg = encoded(Image.new("RGB", (1600, 800)), "JPEG")
    height, width = decode_image(jpeg, source="", min_shorter_side_px=100).pixels.shape[1:]
    assert decoded_bytes(jpeg, 100) == 4 * width * height < decoded_bytes(jpeg)
    assert decoded_bytes(b"") == decoded_bytes(png[:20]) == 0


def test_a_bomb_needs_no_memory_because_it_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decoded_bytes(encoded(Image.new("RGB", (200, 100)), "PNG")) == 0


def test_the_time_of_stages_is_added_up_and_starts_anew():
    seconds = StageSeconds()
    for stage in ("read", "read", "decode"):
        with seconds.measured(stage):
            pass
    first = seconds.taken()
    assert set(first) == {"read", "decode"}
    assert all(value >= 0 for value in first.values())
    assert seconds.taken() == {}
