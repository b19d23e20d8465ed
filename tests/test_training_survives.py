"""Training in one process is never lost: killed at any step, on a full disk, without its pictures or its bucket."""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import urllib.request
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from factories import plan_for
from survival import (
    CAN_MOUNT,
    IN_NAMESPACE,
    assert_equal_states,
    last_checkpoint,
    running,
    steps_recorded,
    train_command,
    wait_until,
)

from appliance import storage
from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.errors import ConfigError, StorageError, TrainingStopped
from appliance.training.run import train_here, train_share
from appliance.training.run_folder import RunFolder

STEPS = 8


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plan(tiny_scenes):
    return plan_for(tiny_scenes, steps=STEPS, checkpoint_every_steps=3)


@pytest.fixture(scope="module")
def uninterrupted(plan, tiny_scenes):
    """The weights that the run has to end with."""
    return train_share(plan, tiny_scenes.images, device="cpu").state_dict()


def test_killed_at_random_steps_it_ends_with_the_same_weights_bit_for_bit(
    plan, uninterrupted, tiny_scenes_dir, tmp_path
) -> None:
    run_dir = tmp_path / "run"
    command = train_command(plan, tiny_scenes_dir / "train", run_dir, tmp_path)
    kills = sorted(random.sample(range(1, STEPS - 1), 2))
    print("killed after steps", kills)
    for step in kills:
        with running(command) as process:
            wait_until(lambda step=step: step in steps_recorded(run_dir), process)
            process.kill()
            assert process.wait() == -signal.SIGKILL
    with running(command) as process:
        assert process.wait() == 0
    assert_equal_states(last_checkpoint(run_dir).network_state, uninterrupted)
    assert steps_recorded(run_dir) == list(range(1, STEPS + 1))


def test_in_a_bucket_too_with_pictures_from_there(
    plan, uninterrupted, tiny_scenes_dir, tmp_path, s3_uri
) -> None:
    every_step = replace(plan, config=replace(plan.config, checkpoint_every_steps=1))
    # The pictures lie there too: what is learnt does not hang on where they lie.
    data, there = tiny_scenes_dir / "train", f"{s3_uri}-data"
    for path in filter(Path.is_file, data.rglob("*")):
        storage.write_bytes(f"{there}/{path.relative_to(data).as_posix()}", path.read_bytes())
    command = train_command(every_step, there, s3_uri, tmp_path)
    step = random.randrange(1, STEPS)
    print("killed after step", step)
    with running(command) as process:
        store = RunFolder(s3_uri).checkpoints()
        wait_until(lambda: step <= max(store.steps(), default=0), process)
        process.kill()
    with running(command) as process:
        assert process.wait() == 0
    assert_equal_states(last_checkpoint(s3_uri).network_state, uninterrupted)
    assert store.steps() == [STEPS - 1, STEPS]
    with RunFolder(s3_uri) as folder:
        assert [line["step"] for line in folder.fetch_metrics()] == list(range(1, STEPS + 1))
        assert folder.read_plan() == every_step
    assert not folder.local.is_relative_to(tmp_path)


def test_asked_to_stop_it_saves_where_it_is_and_says_how_to_go_on(
    plan, uninterrupted, tiny_scenes, tmp_path
) -> None:
    asked = []

    def after_five() -> bool:
        asked.append(len(asked) + 1)
        return asked[-1] >= 5

    with pytest.raises(TrainingStopped) as stopped:
        train_here(plan, tiny_scenes.images, tmp_path, device="cpu", stop_requested=after_five)
    assert stopped.value.step == 5
    sentence = str(stopped.value)
    assert str(tmp_path / "checkpoints" / "step-00000005.safetensors") in sentence
    assert f"--run-dir {tmp_path} --resume" in sentence
    assert steps_recorded(tmp_path) == [1, 2, 3, 4, 5]
    network = train_here(plan, tiny_scenes.images, tmp_path, device="cpu", resume=True)
    assert_equal_states(network.state_dict(), uninterrupted)
    assert steps_recorded(tmp_path) == list(range(1, STEPS + 1))


def test_a_picture_that_vanishes_is_named_and_so_is_the_last_checkpoint(
    plan, tiny_scenes_dir, tmp_path
) -> None:
    shutil.copytree(tiny_scenes_dir / "train", tmp_path / "data")
    images = ObjectDetectionDataset.create_from_dir("mine", tmp_path / "data").images
    uncached = replace(plan, config=replace(plan.config, cache_mb=0))
    steps = iter(range(1, STEPS))

    def vanish_after_four() -> bool:
        if next(steps) == 4:
            shutil.rmtree(tmp_path / "data" / "JPEGImages")
        return False

    run_dir = tmp_path / "run"
    with pytest.raises(StorageError, match=r"train_\d+\.jpg.*No such file") as told:
        train_here(uncached, images, run_dir, device="cpu", stop_requested=vanish_after_four)
    last = run_dir / "checkpoints" / "step-00000003.safetensors"
    assert f"The last good checkpoint is {last}: go on from it with --resume" in str(told.value)
    with pytest.raises(StorageError, match="The run has no checkpoint yet"):
        train_here(uncached, images, tmp_path / "other", device="cpu")


@pytest.mark.skipif(not CAN_MOUNT, reason="this system lets nobody mount a small disk")
def test_a_full_disk_is_one_sentence_that_names_the_last_checkpoint(
    plan, tiny_scenes_dir, tmp_path
) -> None:
    every_step = replace(
        plan, config=replace(plan.config, steps=12, checkpoint_every_steps=1, keep_checkpoints=9)
    )
    disk = tmp_path / "disk"
    disk.mkdir()
    command = train_command(every_step, tiny_scenes_dir / "train", disk / "run", tmp_path)
    mount = f'mount -t tmpfs -o size=40m tmpfs {disk} && exec "$0" "$@"'
    done = subprocess.run(
        [*IN_NAMESPACE, "sh", "-c", mount, *map(str, command)], capture_output=True, text=True
    )
    assert done.returncode == 1
    told = done.stderr.splitlines()[-1]
    assert told.startswith("error: Cannot write the ")
    assert "No space left on device" in told
    named = re.search(r"The last good checkpoint is (\S+/step-0*([1-9])\.safetensors): go on", told)
    assert named is not None
    assert "Traceback" not in done.stderr


def test_a_bucket_that_is_taken_away_is_one_sentence(
    plan, tiny_scenes, s3_host, s3_uri, monkeypatch
) -> None:
    bucket = f"taken-{uuid.uuid4().hex}"
    http(s3_host, "PUT", bucket)
    uri = f"s3://{bucket}/run"
    asked = iter(range(1, STEPS))
    store = RunFolder(uri).checkpoints()

    def take_away_after_four() -> bool:
        if next(asked) == 4:
            for key in storage.list_files(f"s3://{bucket}", [""]):
                http(s3_host, "DELETE", key.removeprefix("s3://"))
            http(s3_host, "DELETE", bucket)
        return False

    with pytest.raises(StorageError) as told:
        train_here(plan, tiny_scenes.images, uri, device="cpu", stop_requested=take_away_after_four)
    assert "no such bucket" in str(told.value)
    assert f"The last good checkpoint is {store.address(3)}" in str(told.value)
    with pytest.raises(StorageError, match="s3://no-such-bucket/run.*no such bucket"):
        train_here(plan, tiny_scenes.images, "s3://no-such-bucket/run", device="cpu")


def test_another_network_is_refused_and_another_setting_is_told(
    plan, tiny_scenes, tmp_path, caplog
) -> None:
    short = replace(plan, config=replace(plan.config, steps=2))
    train_here(short, tiny_scenes.images, tmp_path, device="cpu")
    other = replace(short, spec=replace(short.spec, fpn_channels=16))
    with pytest.raises(ConfigError, match=r"another network.*got fpn_channels 16, expected .*32"):
        train_here(other, tiny_scenes.images, tmp_path, device="cpu", resume=True)
    longer = replace(short, config=replace(short.config, steps=3))
    train_here(longer, tiny_scenes.images, tmp_path, device="cpu", resume=True)
    assert "another setting than before: steps 2 -> 3" in caplog.text
    assert steps_recorded(tmp_path) == [1, 2, 3]
    # Begun anew, it does not go on from what was there.
    train_here(short, tiny_scenes.images, tmp_path, device="cpu")
    assert last_checkpoint(tmp_path).step == 2


def test_a_plan_that_cannot_be_read_is_named(tmp_path) -> None:
    (tmp_path / "plan.json").write_text('{"spec": 3}')
    with pytest.raises(ConfigError, match=r"plan of the run cannot be read.*plan\.json"):
        RunFolder(tmp_path).read_plan()


def http(host, method, path):
    urllib.request.urlopen(urllib.request.Request(f"http://{host}/{path}", method=method)).close()


def test_a_run_that_has_ended_only_gives_its_model_again(plan, tiny_scenes, tmp_path) -> None:
    config = replace(
        plan.config, validate_every_steps=1, patience=1, learning_rate=1e-9, ema_decay=0.5
    )
    for ended in (replace(plan.config, steps=2), config):
        again = replace(plan, config=ended)
        run_dir = tmp_path / str(ended.patience)
        ends = []
        for resume in (False, True):
            network = train_here(
                again,
                tiny_scenes.images,
                run_dir,
                validation=tiny_scenes.images[:1] if ended.patience else (),
                device="cpu",
                resume=resume,
            )
            ends.append((steps_recorded(run_dir), network.state_dict()))
        assert ends[0][0] == ends[1][0] == list(range(1, ends[0][0][-1] + 1))
        assert len(ends[0][0]) < STEPS
        assert_equal_states(ends[0][1], ends[1][1])
