"""One job at a time on an output: real processes, a real lock, real leases in a real store."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from appliance import storage
from appliance.errors import ServiceError, StorageError
from appliance.storage import folders, ownership
from appliance.storage.ownership import owned

BEAT_S, PATIENCE_S = 0.2, 3.0
HOLD = """
import sys
from appliance.storage.ownership import owned
with owned(sys.argv[1], beat_s=float(sys.argv[2]), patience_s=float(sys.argv[3])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(uri):
    """Another process that holds the output until it is told or killed."""
    command = [sys.executable, "-c", HOLD, uri, str(BEAT_S), str(PATIENCE_S)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout.readline() == "held\n"
        yield one
        one.stdin.close()


@pytest.fixture(params=["disk", "store"])
def output(request, tmp_path, s3_uri):
    return str(tmp_path) if request.param == "disk" else s3_uri


def hold(uri):
    return owned(uri, beat_s=BEAT_S, patience_s=PATIENCE_S)


def test_the_second_is_refused_and_told_who_is_first(output):
    with (
        holder(output) as other,
        pytest.raises(StorageError, match=f"Another job writes .* process {other.pid} on "),
    ):
        hold(output).__enter__()
    with hold(output) as mine:
        mine.check()
    assert folders.entries(output) == []


def test_a_killed_one_is_followed(output):
    with holder(output) as other:
        other.kill()
        other.wait()
        with hold(output) as mine:
            mine.check()
    assert folders.entries(output) == []


def test_of_many_at_once_at_most_one_goes_on(output):
    """Whoever holds it must be alone, whatever the others do meanwhile."""
    inside, most, refused = [], [], []
    all_tried = threading.Barrier(4)

    def attempt():
        try:
            with hold(output):
                inside.append(1)
                most.append(len(inside))
                all_tried.wait()
                inside.pop()
        except StorageError:
            refused.append(1)
            all_tried.wait()

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) + len(refused) == 4
    assert most in ([], [1])


def test_a_silent_owner_learns_that_it_was_followed(s3_uri):
    """A machine that slept: its lease was taken for dead, and it must not commit."""
    with hold(s3_uri) as sleeper:
        mine = storage.join(s3_uri, folders.entries(s3_uri)[0])
        folders.remove_file(mine)  # as whoever follows does
        with pytest.raises(ServiceError, match="Another job has taken over"):
            sleeper.check()


def test_an_output_that_cannot_be_written_is_told_apart(tmp_path):
    with pytest.raises(StorageError, match="Cannot write to the output folder"):
        hold(str(tmp_path / "nowhere")).__enter__()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(ownership.fcntl, "flock", no_locks)
    with pytest.raises(StorageError, match="cannot lock files: .*No locks available"):
        hold(str(tmp_path)).__enter__()


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    """Between opening and locking, the owner before may end and take its file away."""
    flock, removed = ownership.fcntl.flock, []

    def slow(descriptor, flags):
        if not removed:
            removed.append((tmp_path / "_lock").unlink())
        flock(descriptor, flags)

    monkeypatch.setattr(ownership.fcntl, "flock", slow)
    with hold(str(tmp_path)):
        assert os.path.exists(tmp_path / "_lock")
        with pytest.raises(StorageError, match="Another job writes"):
            hold(str(tmp_path)).__enter__()


def test_an_owner_of_another_kind_is_respected_too(tmp_path):
    with (tmp_path / "_lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="Another job writes .*got another process"):
            hold(str(tmp_path)).__enter__()


def test_a_lease_that_is_given_back_while_it_is_read_stands_in_nobodys_way(s3_uri, monkeypatch):
    lease = storage.join(s3_uri, f"{ownership.LEASE}other.json")
    storage.write_bytes(lease, b"{}")
    read = storage.read_bytes

    def late(uri):
        folders.remove_file(uri)
        return read(uri)

    monkeypatch.setattr(storage, "read_bytes", late)
    with hold(s3_uri) as mine:
        mine.check()
