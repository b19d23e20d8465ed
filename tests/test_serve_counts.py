"""Counts of several processes in one folder: real processes, killed for real."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import threading

from serve_app.telemetry.counts import SharedCounts, remove_abandoned
from serve_app.telemetry.replicas import Replica

COUNTER = ("pictures", 'a "label", with ü')
GAUGE = ("in_work",)
OTHER_PROCESS = """
import sys
from pathlib import Path
from serve_app.telemetry.counts import SharedCounts

counts = SharedCounts(Path(sys.argv[1]))
counts.add(tuple(sys.argv[2:]), 5)
counts.add_to_gauge(("in_work",), 2)
print("counted", flush=True)
sys.stdin.read()
"""


def other_process(folder):
    """A process that has counted 5 and has 2 in work, and lives on until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(folder), *COUNTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "counted\n"
    return process


def kill(process):
    process.kill()
    process.communicate()


def count_files(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".counts")


def test_processes_add_up_and_what_a_killed_one_counted_stays(tmp_path):
    folder = tmp_path / "new" / "service"
    counts = SharedCounts(folder)
    counts.add(COUNTER)
    counts.add_to_gauge(GAUGE, 1)
    process = other_process(folder)
    assert counts.totals() == {COUNTER: 6, GAUGE: 3}
    kill(process)
    for _ in range(
        2
    ):  # the first one moves what the dead process left, the second one finds it moved
        assert counts.totals() == {COUNTER: 6, GAUGE: 1}
        assert len(count_files(folder)) == 1
    counts.add(COUNTER, 4)
    assert counts.totals()[COUNTER] == 10


def test_a_successor_goes_on_counting_where_all_others_are_gone(tmp_path):
    first, second = SharedCounts(tmp_path), SharedCounts(tmp_path)
    first.add(COUNTER, 2)
    second.add(COUNTER, 3)
    first.close()
    second.close()
    first.add(COUNTER, 100)  # after its end nobody else sees it
    assert first.totals()[COUNTER] == 102
    successor = SharedCounts(tmp_path)
    successor.add(COUNTER)
    assert successor.totals() == {COUNTER: 6}


def test_a_reader_killed_between_adding_and_removing_counts_nothing_twice(tmp_path):
    process = other_process(tmp_path)
    kill(process)
    (left,) = [path for path in tmp_path.iterdir() if path.suffix == ".counts"]
    content = left.read_bytes()
    counts = SharedCounts(tmp_path)
    assert counts.totals()[COUNTER] == 5
    left.write_bytes(content)
    assert counts.totals()[COUNTER] == 5
    assert not left.exists()


def test_a_process_killed_before_its_first_count_is_no_hindrance(tmp_path):
    (tmp_path / "0123.counts").touch()
    assert SharedCounts(tmp_path).totals() == {}
    assert "0123.counts" not in count_files(tmp_path)


def test_more_numbers_than_fit_at_first_are_seen_by_others(tmp_path):
    writer, reader = SharedCounts(tmp_path), SharedCounts(tmp_path)
    keys = [("detections", f"label {number} {'x' * 90}") for number in range(2000)]
    for key in keys:
        writer.add(key, 0.5)
    assert writer.totals() == reader.totals() == dict.fromkeys(keys, 0.5)


def test_threads_lose_no_count():
    counts = SharedCounts()

    def count():
        for number in range(2000):
            counts.add(COUNTER)
            counts.set_gauge(("queue", str(number % 50)), number)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.totals()[COUNTER] == 8000


def test_a_folder_that_cannot_be_used_leaves_the_counts_in_memory(tmp_path, caplog, monkeypatch):
    (tmp_path / "file").touch()
    counts = SharedCounts(tmp_path / "file")
    counts.add(COUNTER)
    assert counts.folder is None
    assert counts.totals() == {COUNTER: 1}
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert SharedCounts(tmp_path).folder is None
    assert "somebody else" in caplog.text


def test_a_folder_that_goes_away_leaves_the_own_counts(tmp_path, caplog):
    folder = tmp_path / "service"
    counts = SharedCounts(folder)
    counts.add(COUNTER)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert counts.totals() == {COUNTER: 1}
    assert "cannot be read" in caplog.text


def test_on_a_full_disk_a_process_goes_on_and_counts_for_itself(tmp_path, caplog, monkeypatch):
    def full(file, offset, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    counts, other = SharedCounts(tmp_path), SharedCounts(tmp_path)
    counts.add(COUNTER)
    with monkeypatch.context() as context:
        context.setattr(os, "posix_fallocate", full)
        assert SharedCounts(tmp_path).folder is None
        for number in range(2000):
            counts.add(("detections", f"label {number}"))
    assert "for this process alone" in caplog.text
    assert len(counts.totals()) == 2001
    assert other.totals()[COUNTER] == 1
    for number in range(2000):  # there is room again when the file must grow the next time
        counts.add(("detections", f"further label {number}"))
    assert len(other.totals()) == 4001


def test_counts_of_the_dead_stay_where_they_are_while_they_cannot_be_moved(tmp_path, caplog):
    gone, counts = SharedCounts(tmp_path), SharedCounts(tmp_path)
    gone.add(COUNTER, 20)
    gone.close()
    (tmp_path / "dead.json.unfinished").mkdir()
    for _ in range(2):
        assert counts.totals() == {COUNTER: 20}
    assert "cannot be read" in caplog.text
    assert len(count_files(tmp_path)) == 2


def test_folders_are_private(tmp_path):
    SharedCounts(tmp_path / "service")
    assert (tmp_path / "service").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "service").iterdir()} == {0o600}


def test_what_clusters_left_long_ago_is_removed_and_nothing_else(tmp_path):
    alive, gone, recent = (SharedCounts(tmp_path / name) for name in ("alive", "gone", "recent"))
    gone.close()
    recent.close()
    for name in ("alive", "gone"):
        for path in (tmp_path / name).iterdir():
            os.utime(path, (0, 0))
    remove_abandoned(tmp_path, older_than_s=3600)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alive", "recent"]
    assert alive.totals() == {}


def test_what_the_dead_counted_is_one_readable_file(tmp_path):
    gone = SharedCounts(tmp_path)
    gone.add(COUNTER, 2)
    gone.close()
    SharedCounts(tmp_path).totals()
    content = json.loads((tmp_path / "dead.json").read_text())
    assert content["sums"] == [[list(COUNTER), 2.0]]


def test_replicas_of_a_service_meet_in_a_folder_that_nobody_else_can_lay_out(tmp_path, monkeypatch):
    monkeypatch.setattr("serve_app.telemetry.replicas._SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    one, two = (
        Replica("shelf/../x", "Detection", name, node="n1", session="s1") for name in ("a", "b")
    )
    assert one.folder() == two.folder()
    assert one.folder(tmp_path / "given").parent == tmp_path / "given"
    assert one.folder().parent.stat().st_mode & 0o777 == 0o700
    assert one.folder().resolve().parent.parent == tmp_path
    other_app = Replica("shelf", "Detection", "a", node="n1", session="s1")
    assert other_app.folder() != one.folder()
    # Made by us, for a user that we are not.
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    (tmp_path / "appliance-counts-4711").mkdir()
    assert one.folder() != two.folder()
