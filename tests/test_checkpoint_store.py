"""Where checkpoints lie: the last few and the best, whole or not at all, on a disk and in an object store."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch
from factories import TINY
from survival import CAN_MOUNT, IN_NAMESPACE

from appliance import storage
from appliance.errors import StorageError, TrainingError
from appliance.labels import LabelMap
from appliance.model.spec import ModelSpec
from appliance.training.checkpoint import Checkpoint, RunRecord
from appliance.training.checkpoint_store import CheckpointStore
from appliance.training.config import TrainingConfig


def checkpoint(step, best_step=None, size=4):
    return Checkpoint(
        step,
        {"weight": torch.full((size,), float(step))},
        {},
        ModelSpec.of(LabelMap(("a",)), **TINY),
        TrainingConfig(),
        record=RunRecord(best_step=best_step),
    )


@pytest.fixture(params=["disk", "bucket", "address with options"])
def folder(request, tmp_path):
    if request.param == "disk":
        return str(tmp_path / "run" / "checkpoints")
    options = f"?scheme=http&endpoint_override={request.getfixturevalue('s3_host')}"
    uri = request.getfixturevalue("s3_uri") + "/checkpoints"
    return uri if request.param == "bucket" else uri + options


def test_the_last_few_and_the_best_are_kept_and_the_newest_is_found(folder) -> None:
    store = CheckpointStore(folder, keep=2)
    assert store.steps() == []
    assert store.newest() is None
    for step, best in ((10, None), (20, 20), (30, 20), (40, 20), (100, 20)):
        address = store.save(checkpoint(step, best))
        assert address == store.address(step)
    assert store.steps() == [20, 40, 100]
    newest = CheckpointStore(folder).newest()
    assert newest is not None
    assert (newest.step, newest.record.best_step) == (100, 20)
    torch.testing.assert_close(newest.network_state, {"weight": torch.full((4,), 100.0)})
    store.clear()
    assert CheckpointStore(folder).steps() == []


def test_a_new_best_frees_the_old_one(tmp_path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    for step, best in ((1, 1), (2, 1), (3, 3), (4, 3)):
        store.save(checkpoint(step, best))
    assert store.steps() == [3, 4]


@pytest.mark.parametrize("break_it", ["cut", "overwrite", "empty"])
def test_a_broken_newest_one_is_passed_over_with_a_warning(folder, break_it, caplog) -> None:
    store = CheckpointStore(folder)
    for step in (5, 6):
        store.save(checkpoint(step))
    whole = storage.read_bytes(store.address(6))
    broken = {"cut": whole[: len(whole) // 2], "overwrite": b"\xff" * len(whole), "empty": b""}
    storage.write_bytes(store.address(6), broken[break_it])
    with caplog.at_level(logging.WARNING, "appliance"):
        newest = store.newest()
    assert newest is not None
    assert newest.step == 5
    assert "passed over a broken checkpoint" in caplog.text
    assert store.address(6) in caplog.text
    storage.write_bytes(store.address(5), b"nothing")
    with pytest.raises(TrainingError, match="Every checkpoint of the run is broken.*steps 5, 6"):
        store.newest()


def test_what_a_killed_process_left_half_written_is_no_checkpoint_and_goes(tmp_path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(checkpoint(1))
    half = tmp_path / ".step-00000002.safetensors.0123.part"
    half.write_bytes(b"half")
    assert store.steps() == [1]
    store.save(checkpoint(3))
    assert not half.exists()


def test_a_bucket_that_is_not_there_is_one_sentence(s3_uri) -> None:
    store = CheckpointStore("s3://no-such-bucket/run/checkpoints")
    with pytest.raises(StorageError, match="s3://no-such-bucket/run.*no such bucket"):
        store.save(checkpoint(1))


# Real limits of the system in processes of their own: what a full disk does cannot be undone in ours.
SAVE_TWO = f"""
import resource, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_checkpoint_store import checkpoint
from appliance.errors import StorageError
from appliance.training.checkpoint_store import CheckpointStore
store = CheckpointStore(sys.argv[1])
store.save(checkpoint(1))
if sys.argv[2] == "limited":
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    store.save(checkpoint(2, size=1_000_000))
except StorageError as error:
    print(error.message)
print(store.steps(), store.newest().step)
"""


@pytest.mark.parametrize(
    ("limit", "prefix", "reason"),
    [
        ("limited", "", "File too large"),
        pytest.param(
            "full",
            "mount -t tmpfs -o size=1m tmpfs {folder} && ",
            "No space left on device",
            marks=pytest.mark.skipif(not CAN_MOUNT, reason="nobody may mount a small disk here"),
        ),
    ],
)
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, limit, prefix, reason) -> None:
    command = prefix.format(folder=tmp_path) + f'"{sys.executable}" -c "$0" "$1" "$2"'
    namespace = IN_NAMESPACE if prefix else ()
    done = subprocess.run(
        [*namespace, "sh", "-c", command, SAVE_TWO, tmp_path, limit],
        capture_output=True,
        text=True,
    )
    told, left = done.stdout.splitlines()
    assert told.startswith("Cannot write the file: ")
    assert reason in told
    assert "step-00000002" in told
    assert left == "[1] 1"
