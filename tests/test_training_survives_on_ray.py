"""`appliance train` is never lost: its command killed at random steps, or told to stop, it ends the same."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import sys
from pathlib import Path

import psutil
import pytest
import torch
from survival import assert_equal_states, last_checkpoint, running, steps_recorded, wait_until

from appliance.model import model_file
from appliance.training.monitor import read_validations
from appliance.training.run import train_share
from appliance.training.run_folder import RunFolder

# So many that the run goes on while the test looks at what it has done and kills it.
STEPS = 80
# With several threads, a few of torch's kernels differ in the last bit from one time to the next.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
APPLIANCE = Path(sys.executable).with_name("appliance")


@pytest.mark.timeout(600)
def test_killed_stopped_and_resumed_the_command_ends_with_the_same_weights_bit_for_bit(
    tiny_scenes_dir, tiny_scenes, tiny_model_path, tmp_path
) -> None:
    run_dir, model = tmp_path / "run", tmp_path / "model.safetensors"
    command = [
        *(APPLIANCE, "train", tiny_scenes_dir / "train", "--init", tiny_model_path),
        *("--steps", STEPS, "--checkpoint-every", 4, "--no-check", "--run-dir", run_dir),
        *("--out", model),
    ]
    killed = random.randrange(2, 16)

    temporary = {"TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    with running(command, **temporary, **ONE_THREAD) as process:
        wait_until(lambda: killed in steps_recorded(run_dir), process)
        cluster = processes_of(process)
        trainers = [
            child for child, words in cluster.items() if "RayTrainWorker" in " ".join(words)
        ]
        assert trainers
        process.kill()
        # Nothing trains on behind the back of the next start.
        assert psutil.wait_procs(trainers, timeout=60)[1] == []

    command.append("--resume")
    # Later than the killed one came, or its records would be taken for those of the next; and so early
    # that the run is not over before the signal has reached those who train.
    first = max(steps_recorded(run_dir)) + 1
    stopped = random.randrange(first, first + 10)
    print("killed after step", killed, "and told to stop after step", stopped)
    with running(command, start_new_session=True, **temporary, **ONE_THREAD) as process:
        wait_until(lambda: stopped in steps_recorded(run_dir), process)
        os.killpg(process.pid, signal.SIGTERM)  # to all of its group, as `timeout` does
        process.send_signal(signal.SIGTERM)  # who is impatient does not spoil it
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "Traceback" not in stderr
    step = last_checkpoint(run_dir).step
    assert stopped <= step < STEPS
    address = RunFolder(run_dir).checkpoints().address(step)
    assert (
        f"Training was stopped after step {step} of {STEPS}: {address}. "
        f"Go on with the same command and --run-dir {run_dir} --resume." in stderr.splitlines()
    )
    assert steps_recorded(run_dir) == list(range(1, step + 1))
    assert not model.exists()
    # It has cleared away what the killed one could not.
    assert list((tmp_path / "temporary").iterdir()) == []
    assert files_left(cluster) == []
    end(cluster)

    with running(command, **ONE_THREAD) as process:
        assert process.wait() == 0
    assert steps_recorded(run_dir) == list(range(1, STEPS + 1))
    assert_equal_states(
        model_file.load(str(model)).network.state_dict(), uninterrupted(run_dir, tiny_scenes.images)
    )


@pytest.mark.slow
def test_a_run_in_a_bucket_goes_on_after_its_command_was_killed(
    tiny_scenes_dir, tiny_model_path, tmp_path, s3_uri
) -> None:
    model = tmp_path / "model.safetensors"
    command = [
        *(APPLIANCE, "train", tiny_scenes_dir / "train", "--init", tiny_model_path),
        *("--validation", tiny_scenes_dir / "test", "--validate-every", 5),
        *("--steps", 12, "--checkpoint-every", 1, "--no-check"),
        *("--run-dir", s3_uri, "--out", model),
    ]
    store = RunFolder(s3_uri).checkpoints()
    with running(command, TMPDIR=str(tmp_path)) as process:
        wait_until(lambda: max(store.steps(), default=0) >= 3, process)
        cluster = processes_of(process)
        process.kill()
    with running([*command, "--resume"]) as process:
        _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    best = store.newest().record.best_step
    assert best in (5, 10, 12)
    assert store.steps() == sorted({best, 11, 12})
    assert_equal_states(
        model_file.load(str(model)).network.state_dict(), store.load(best).model_state
    )
    with RunFolder(s3_uri) as folder:
        assert [line["step"] for line in folder.fetch_metrics()] == list(range(1, 13))
        assert [line["step"] for line in read_validations(folder.local)] == [5, 10, 12]
    assert files_left(cluster) == []
    end(cluster)


def uninterrupted(run_dir, images):
    """The weights of the same plan, trained here with as many threads as the command had."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with RunFolder(run_dir) as folder:
        network = train_share(folder.read_plan(), images, device="cpu")
    torch.set_num_threads(threads)
    return network.state_dict()


def processes_of(process):
    """The processes below one, each with the words it was started with."""
    return {child: child.cmdline() for child in process.children(recursive=True)}


def files_left(cluster) -> list[Path]:
    """What a cluster wrote and nobody has removed, by the words that its processes were started with.

    Empty folders do not count: Ray's agents make theirs anew until they notice that their cluster is gone.
    """
    words = " ".join(word for command in cluster.values() for word in command)
    folders = set(re.findall(r"/tmp/ray-\w+", words))
    assert folders
    return [path for folder in folders for path in Path(folder).rglob("*") if path.is_file()]


def end(cluster) -> None:
    """Ends what is left of a cluster whose owner was killed.

    Ray's agents, which compute nothing, notice only after minutes that their cluster is gone.
    """
    for child in cluster:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    assert psutil.wait_procs(cluster, timeout=60)[1] == []
