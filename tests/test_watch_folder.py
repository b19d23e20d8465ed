"""A folder that grows: what is written slowly, renamed, replaced, touched, removed or damaged, and whose clocks lie."""

from __future__ import annotations

import datetime
import os
import threading

import pandas as pd
import pytest
from factories import jpeg_bytes
from watch_cases import (
    expected_records,
    one_thread,  # noqa: F401 - a fixture
    parts_of,
    rows_of,
    score_once,
    streaming,
    write_whole,
)

from appliance.bulk.stream import watcher
from appliance.bulk.stream.sources import watched_folder
from appliance.errors import StorageError

DAY_S = 86_400


def fill(folder, count, seed=0):
    """Path -> content of new pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for index in range(count):
        path = folder / f"{index:03d}.jpg"
        path.write_bytes(jpeg_bytes(seed=seed + index))
        pictures[str(path)] = path.read_bytes()
    return pictures


@pytest.fixture
def incoming(tmp_path):
    (tmp_path / "incoming").mkdir()
    return tmp_path / "incoming"


def test_what_is_there_is_scored_once_and_equals_the_scorer(tiny_model_path, incoming, tmp_path):
    pictures = fill(incoming, 9) | fill(incoming / "below" / "more", 4, seed=50)
    for name, data in (("broken.png", b"no picture"), ("empty.jpg", b"")):
        (incoming / name).write_bytes(data)
        pictures[str(incoming / name)] = data
    for hidden in (incoming / ".hidden.jpg", incoming / ".git" / "a.jpg", incoming / "notes.txt"):
        hidden.parent.mkdir(exist_ok=True)
        hidden.write_bytes(jpeg_bytes())
    (incoming / "folder.jpg").mkdir()
    (incoming / "nowhere.jpg").symlink_to("nowhere")
    out = tmp_path / "out"
    summary = score_once(tiny_model_path, incoming, out, settle_s=0.1)
    records = rows_of(out)
    assert {record.image_uri: record for record in records} == expected_records(
        tiny_model_path, pictures
    )
    assert len(records) == len(pictures) == summary.images == summary.rows
    assert summary.errors_by_kind == {"empty": 1, "unreadable": 1}
    assert (summary.ended, summary.waiting, summary.repeated) == ("end", 0, 0)
    assert summary.delay_s["median"] <= summary.delay_s["p95"] <= summary.delay_s["max"]
    assert sorted(path.name for path in out.iterdir()) == [
        "_ledger.sqlite",
        "_summary.json",
        "parts",
    ]
    again = score_once(tiny_model_path, incoming, out)
    assert (again.images, again.rows, len(rows_of(out))) == (0, len(pictures), len(pictures))


def test_a_stream_takes_what_comes_in_any_way(tiny_model_path, incoming, tmp_path):
    """In pieces, renamed in, replaced by a rename and in place, into new folders, and gone before it was taken."""
    out = tmp_path / "out"
    contents = [jpeg_bytes(seed=index) for index in range(8)]
    slow, replaced = incoming / "slow.jpg", incoming / "replaced.jpg"
    with streaming(tiny_model_path, incoming, out) as stream:
        write_whole(replaced, contents[0])
        (incoming / "later").mkdir()
        write_whole(incoming / "later" / "renamed.jpg", contents[1])
        stream.wait_for_rows(2)
        with slow.open("wb") as file:
            for piece in range(8):
                file.write(contents[2][piece * 100 : (piece + 1) * 100])
                file.flush()
                # Longer than two looks, shorter than the settle time.
                stream._thread.join(0.11)
            file.write(contents[2][800:])
        (incoming / "gone.jpg").write_bytes(contents[3])
        (incoming / "gone.jpg").unlink()
        write_whole(replaced, contents[4])
        stream.wait_for_rows(4)
        replaced.write_bytes(contents[5])
        stream.wait_for_rows(5)
        summary = stream.stop()
    rows = rows_of(out)
    expected = [
        (str(replaced), contents[0]),
        (str(incoming / "later" / "renamed.jpg"), contents[1]),
        (str(slow), contents[2]),
        (str(replaced), contents[4]),
        (str(replaced), contents[5]),
    ]
    wanted = [expected_records(tiny_model_path, dict([pair]))[pair[0]] for pair in expected]
    assert sorted(map(repr, rows)) == sorted(map(repr, wanted))
    assert (summary.ended, summary.images, summary.errors_by_kind) == ("SIGTERM", 5, {})


def test_times_of_files_mean_nothing(tiny_model_path, incoming, tmp_path):
    """Far in the past and the future, going back, and with an old time while half of it is written."""
    pictures = fill(incoming, 5)
    for index, path in enumerate(pictures):
        time_s = (0, 1, 4_000_000_000, 2**33, -DAY_S)[index]
        os.utime(path, (time_s, time_s))
    out = tmp_path / "out"
    late = incoming / "late.jpg"
    data = jpeg_bytes(seed=99)
    with streaming(tiny_model_path, incoming, out, settle_s=0.5) as stream:
        late.write_bytes(data[:500])
        os.utime(late, (0, 0))
        stream.wait_for_rows(5)
        with late.open("ab") as file:
            file.write(data[500:])
        os.utime(late, (0, 0))
        stream.wait_for_rows(6)
        # Back to an earlier time with other bytes: another content, by its size.
        late.write_bytes(data + b"\0")
        os.utime(late, (0, 0))
        stream.wait_for_rows(7)
        assert stream.stop().errors_by_kind == {}
    assert score_once(tiny_model_path, incoming, out).images == 0
    shas = {record.content_sha256 for record in rows_of(out) if record.image_uri == str(late)}
    assert len(shas) == 2


def test_the_clock_of_this_machine_may_go_back_over_midnight(
    tiny_model_path, incoming, tmp_path, monkeypatch
):
    days = iter(["2031-03-01", "2031-02-28", "2031-03-01"])

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromisoformat(next(days))

    monkeypatch.setattr(watcher, "datetime", Clock)
    pictures = fill(incoming, 3)
    out = tmp_path / "out"
    score_once(tiny_model_path, incoming, out, batch_size=1)
    assert [path.parent.name for path in parts_of(out)] == [
        "date=2031-02-28",
        "date=2031-03-01",
        "date=2031-03-01",
    ]
    table = pd.read_parquet(out)
    assert sorted(table["image_uri"]) == sorted(pictures)
    assert sorted(table["date"].astype(str)) == ["2031-02-28", "2031-03-01", "2031-03-01"]
    assert score_once(tiny_model_path, incoming, out).images == 0


def test_what_stays_incomplete_for_longer_is_tried_again(tiny_model_path, incoming, tmp_path):
    data = jpeg_bytes()
    half = incoming / "half.jpg"
    half.write_bytes(data[:300])
    out = tmp_path / "out"
    with streaming(tiny_model_path, incoming, out, report_every_s=0.1, settle_s=0.3) as stream:
        summary = out / "_summary.json"
        stream.wait_for(lambda: summary.exists() and '"tried_again": 0' not in summary.read_text())
        with half.open("ab") as file:
            file.write(data[300:])
        (row,) = stream.wait_for_rows(1)
        assert stream.stop().tried_again
    assert row == expected_records(tiny_model_path, {str(half): data})[str(half)]


def test_what_is_never_completed_gets_an_error_row(tiny_model_path, incoming, tmp_path):
    (incoming / "half.jpg").write_bytes(jpeg_bytes()[:300])
    with streaming(tiny_model_path, incoming, tmp_path / "out", settle_s=0.1) as stream:
        (row,) = stream.wait_for_rows(1)
        assert stream.stop().tried_again
    assert row.error_kind == "unreadable"


def test_a_file_that_changes_while_it_is_read_settles_anew(
    tiny_model_path, incoming, tmp_path, monkeypatch
):
    """The file is replaced at the very moment in which it is read."""
    first, second = jpeg_bytes(seed=1), jpeg_bytes(seed=2)
    path = incoming / "a.jpg"
    path.write_bytes(first)
    fetch, replaced = watched_folder.Files._fetch, []

    def meddling(self, uri):
        data = fetch(self, uri)
        if not replaced:
            replaced.append(write_whole(path, second))
        return data

    monkeypatch.setattr(watched_folder.Files, "_fetch", meddling)
    with streaming(tiny_model_path, incoming, tmp_path / "out") as stream:
        (row,) = stream.wait_for_rows(1)
        assert stream.stop().tried_again == 1
    assert row == expected_records(tiny_model_path, {str(path): second})[str(path)]


def test_a_file_that_is_replaced_while_it_is_scored_is_scored_again(
    tiny_model_path, incoming, tmp_path, monkeypatch
):
    path = incoming / "a.jpg"
    path.write_bytes(jpeg_bytes(seed=1))
    entered, go_on = threading.Event(), threading.Event()
    predict = watcher.ImageScorer.predict

    def slow(self, uploads):
        entered.set()
        go_on.wait(30)
        return predict(self, uploads)

    monkeypatch.setattr(watcher.ImageScorer, "predict", slow)
    out = tmp_path / "out"
    with streaming(tiny_model_path, incoming, out, report_every_s=0.1, settle_s=0) as stream:
        assert entered.wait(30)
        write_whole(path, jpeg_bytes(seed=2))
        stream._thread.join(0.5)  # many looks see the second content while the first is scored
        go_on.set()
        stream.wait_for_rows(2)
        assert stream.stop().images == 2


def test_names_that_are_no_text_are_escaped(tiny_model_path, incoming, tmp_path):
    name = os.fsencode(incoming) + b"/caf\xe9.jpg"
    for path, data in ((name, jpeg_bytes()), (name + b".png", b"broken")):
        with open(path, "wb") as file:
            file.write(data)
    out = tmp_path / "out"
    assert score_once(tiny_model_path, incoming, out, settle_s=0).images == 2
    uris = sorted(record.image_uri for record in rows_of(out))
    assert uris == [f"{incoming}/caf\\udce9.jpg", f"{incoming}/caf\\udce9.jpg.png"]
    assert score_once(tiny_model_path, incoming, out, settle_s=0).images == 0


def test_only_wanted_names_are_scored(tiny_model_path, incoming, tmp_path):
    fill(incoming / "a", 2)
    fill(incoming / "b", 2)
    wanted = {"include": ("a/*.jpg", "b/*.jpg"), "exclude": ("001.jpg",)}
    assert score_once(tiny_model_path, incoming, tmp_path / "out", **wanted).images == 2


def test_a_folder_with_more_than_is_remembered_is_worked_off(
    tiny_model_path, incoming, tmp_path, monkeypatch
):
    monkeypatch.setattr(watched_folder, "_MAX_KNOWN", 4)
    monkeypatch.setattr(watched_folder, "_LOOKED_UP_AT_ONCE", 3)
    fill(incoming, 15)
    summary = score_once(tiny_model_path, incoming, tmp_path / "out", settle_s=0, batch_size=2)
    assert (summary.images, len(rows_of(tmp_path / "out"))) == (15, 15)


def test_a_single_run_leaves_what_comes_later_and_what_keeps_changing(
    tiny_model_path, incoming, tmp_path, monkeypatch, caplog
):
    fill(incoming, 1)
    changing = incoming / "changing.jpg"
    changing.write_bytes(b"1")
    look = watched_folder.WatchedFolder._look_round

    def meddling(self, number):
        changing.write_bytes(b"1" * (number + 1))
        look(self, number)
        (incoming / f"later{number}.jpg").write_bytes(jpeg_bytes())

    monkeypatch.setattr(watched_folder.WatchedFolder, "_look_round", meddling)
    summary = score_once(tiny_model_path, incoming, tmp_path / "out", settle_s=0.1)
    assert (summary.images, summary.waiting) == (1, 0)
    assert "keeps changing" in caplog.text


def test_a_folder_that_goes_for_a_while_is_waited_for(tiny_model_path, incoming, tmp_path, caplog):
    aside = tmp_path / "unmounted"
    with streaming(tiny_model_path, incoming, tmp_path / "out", report_every_s=0.1) as stream:
        stream.wait_for((tmp_path / "out" / "_summary.json").exists)
        incoming.rename(aside)
        stream.wait_for(lambda: "looking again later" in caplog.text)
        fill(aside, 1)
        aside.rename(incoming)
        stream.wait_for_rows(1)
        stream.stop()
    incoming.rename(aside)
    with pytest.raises(StorageError, match="Not a source of pictures"):
        score_once(tiny_model_path, incoming, tmp_path / "out")


def test_large_pictures_wait_their_turn(tiny_model_path, incoming, tmp_path):
    """Of twelve pictures two at most fit into memory at once, and of one size not even one."""
    for index in range(12):
        size = (640, 480) if index % 5 == 0 else (96, 64)
        (incoming / f"{index}.png").write_bytes(jpeg_bytes(size, seed=index))
    summary = score_once(
        tiny_model_path, incoming, tmp_path / "out", settle_s=0, memory_bytes=100_000
    )
    assert summary.images == 12
