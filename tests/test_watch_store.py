"""A bucket that grows, and one that is written to: the same, with the ledger on a disk."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from factories import jpeg_bytes
from watch_cases import (
    one_thread,  # noqa: F401 - a fixture
    score_once,
    scorer_of,
    streaming,
)
from webhook_server import receiving

from appliance import storage
from appliance.bulk.stream.ledger import Ledger, key_of
from appliance.bulk.stream.output import StreamOutput
from appliance.bulk.stream.reading import PictureReader
from appliance.bulk.stream.sources.arrivals import Arrival
from appliance.bulk.stream.sources.identities import identity_of, scan
from appliance.bulk.stream.sources.lines import LineSource
from appliance.bulk.stream.sources.watched_folder import WatchedFolder
from appliance.errors import StorageError
from appliance.storage import folders, ownership


def put(uri, name, data):
    storage.write_bytes(storage.join(uri, *name.split("/")), data)


def rows_in_store(uri):
    import pyarrow.dataset

    filesystem, path = storage.open_store(uri)
    data = pyarrow.dataset.dataset(
        f"{path}/parts", format="parquet", filesystem=filesystem, partitioning="hive"
    )
    return data.to_table().to_pylist()


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_a_bucket_is_watched_and_written_to(tiny_model_path, s3_uri, state):
    source, out = f"{s3_uri}/incoming", f"{s3_uri}/scores"
    put(source, "a.jpg", jpeg_bytes(seed=1))
    put(source, "below/b %.jpg", jpeg_bytes(seed=2))
    put(source, ".hidden.jpg", b"")
    with (
        receiving(400) as receiver,
        streaming(
            *(tiny_model_path, source + "/", out),
            settle_s=0.1,
            webhook_url=receiver.url,
            webhook_delays_s=(),
        ) as stream,
    ):
        stream.wait_for(lambda: len(receiver.received) == 1)
        put(source, "c.jpg", jpeg_bytes(seed=3))
        put(source, "a.jpg", jpeg_bytes((64, 48), seed=4))
        stream.wait_for(lambda: len(receiver.received) >= 2)
        stream.wait_for(lambda: sum(rows(receiver)) == 4)
        summary = stream.stop()
    names = [f"{source}/{name}" for name in ("a.jpg", "a.jpg", "below/b%20%25.jpg", "c.jpg")]
    found = rows_in_store(out)
    assert sorted(row["image_uri"] for row in found) == names
    assert len({row["content_sha256"] for row in found}) == 4
    assert (summary.rows, summary.webhook.dead) == (4, len(receiver.received))
    letters = folders.entries(f"{out}/_dead_letters")
    assert letters == sorted(f"{key}.jsonl" for key, _ in receiver.received)
    letter = json.loads(storage.read_bytes(f"{out}/_dead_letters/{letters[0]}"))
    assert len(letter["records"]) == 2
    assert Path(summary.ledger).is_relative_to(state)
    assert json.loads(storage.read_bytes(f"{out}/_summary.json"))["images"] == 4
    assert not [name for name in folders.entries(out) if name.startswith(ownership.LEASE)]
    again = score_once(tiny_model_path, source, out)
    assert (again.images, again.rows) == (0, 4)
    Path(summary.ledger).unlink()
    with pytest.raises(StorageError, match="their ledger is not there"):
        score_once(tiny_model_path, source, out)


def rows(receiver):
    return [len(body.splitlines()) for _, body in receiver.received]


def test_a_part_in_a_store_that_was_cut_off_is_found_or_made_again(
    tiny_model_path, s3_uri, state, monkeypatch
):
    source, out = f"{s3_uri}/incoming", f"{s3_uri}/scores"
    put(source, "a.jpg", jpeg_bytes())
    for method, images in (("finish", 0), ("write", 1)):
        put(source, f"{method}.jpg", jpeg_bytes(seed=len(method)))
        with monkeypatch.context() as patch:
            patch.setattr(
                Ledger if method == "finish" else StreamOutput, method, lambda *_, **__: 1 / 0
            )
            with pytest.raises(ZeroDivisionError):
                score_once(tiny_model_path, source, out)
        assert score_once(tiny_model_path, source, out).images == images
    assert sorted(row["image_uri"].rpartition("/")[2] for row in rows_in_store(out)) == [
        "a.jpg",
        "finish.jpg",
        "write.jpg",
    ]


def test_an_object_has_one_identity_however_it_is_asked_for(s3_uri):
    put(s3_uri, "a/b.jpg", b"12345")
    ((path, uri, identity),) = scan(s3_uri, (".jpg",))
    assert (path, uri) == ("a/b.jpg", f"{s3_uri}/a/b.jpg")
    assert identity_of(uri) == identity
    assert identity.startswith("5-")
    assert identity_of(f"{s3_uri}/none.jpg") is None
    assert list(scan(f"{s3_uri}/empty", (".jpg",))) == []


def test_a_store_that_is_away_leaves_pictures_for_later(
    tiny_model_path, s3_uri, state, tmp_path, monkeypatch, caplog
):
    """Listed, and then not to be had: no error row that would stay for ever."""
    put(s3_uri, "a.jpg", jpeg_bytes())
    ledger = Ledger(tmp_path / "ledger.sqlite")
    watched = WatchedFolder(s3_uri, ledger, max_bytes=10**6, settle_s=0, poll_s=0.01, once=True)
    reader = PictureReader(scorer_of(str(tiny_model_path)), ledger, watched)
    (arrival,) = [next(watched.arrivals())]
    with monkeypatch.context() as patch:
        patch.setattr("appliance.storage.object_stores.MAX_ATTEMPTS", 1)
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert reader.fetch(arrival) == "unreachable"
    watched.put_back(arrival, "unreachable")
    assert "left for another run" in caplog.text
    assert watched.waiting().pictures == 0
    assert ledger.scored([key_of(arrival.image_uri, arrival.identity)]) == set()
    ledger.close()


def test_a_named_object_of_a_store_that_is_away_gets_another_chance(
    tiny_model_path, s3_uri, tmp_path, monkeypatch
):
    """Away from the beginning, or after it was looked at: its error row does not stand for its content."""
    monkeypatch.setattr("appliance.bulk.stream.reading.DELAYS_S", ())
    put(s3_uri, "a.jpg", jpeg_bytes())
    address = f"{s3_uri}/a.jpg"
    ledger = Ledger(tmp_path / "ledger.sqlite")
    lines = LineSource(0, max_bytes=10**6, memory_bytes=10**6)
    reader = PictureReader(scorer_of(str(tiny_model_path)), ledger, lines)
    looks = iter([True, False])

    def identify():
        if not next(looks):
            raise StorageError("Cannot look at the file", where=address, transient=True)
        return identity_of(address)

    arrival = Arrival(address, None, identify, partial(storage.read_bytes, address), 0.0)
    for _ in range(2):
        fetched = reader.fetch(arrival)
        assert (fetched.identity, fetched.content.kind) == ("unknown", "unreachable")
        looks = iter([False])
    looks = iter([True, True])
    assert reader.fetch(arrival).identity == identity_of(address)
    ledger.close()


def test_an_object_that_goes_is_forgotten(tiny_model_path, s3_uri, tmp_path):
    put(s3_uri, "a.jpg", jpeg_bytes())
    ledger = Ledger(tmp_path / "ledger.sqlite")
    watched = WatchedFolder(s3_uri, ledger, max_bytes=10**6, settle_s=0, poll_s=0.01)
    reader = PictureReader(scorer_of(str(tiny_model_path)), ledger, watched)
    arrival = next(watched.arrivals())
    folders.remove_file(f"{s3_uri}/a.jpg")
    assert reader.fetch(arrival) == "gone"
    watched.put_back(arrival, "gone")
    assert watched.waiting().pictures == 0
    ledger.close()
