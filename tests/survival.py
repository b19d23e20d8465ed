"""Training in a process that a test can kill, and what a run has left behind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import torch

from appliance.training.checkpoint import Checkpoint
from appliance.training.plan import TrainingPlan
from appliance.training.run_folder import RunFolder

# Where a process may mount a disk of its own, without being root outside.
IN_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
CAN_MOUNT = (
    subprocess.run([*IN_NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
).returncode == 0

TRAIN_HERE = """
import json, sys
import torch
from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.errors import ApplianceError
from appliance.training.plan import TrainingPlan
from appliance.training.run import train_here

plan_path, data, run_dir = sys.argv[1:]
plan = TrainingPlan.from_json(json.load(open(plan_path)))
images = ObjectDetectionDataset.create_from_dir("tiny", data).images
torch.set_num_threads(1)
try:
    train_here(plan, images, run_dir, device="cpu", resume=True, progress=False)
except ApplianceError as error:
    sys.exit(f"error: {error}")
"""


def train_command(plan: TrainingPlan, data: object, run_dir: object, scratch: Path) -> list[object]:
    """The command that trains in a process of its own, and goes on where one before it was killed."""
    plan_path = scratch / "wanted_plan.json"
    plan_path.write_text(json.dumps(plan.to_json()))
    return [sys.executable, "-c", TRAIN_HERE, plan_path, data, run_dir]


@contextlib.contextmanager
def running(
    command: list[object], *, start_new_session: bool = False, **environment: str
) -> Iterator[psutil.Popen]:
    """A process; what is left of it and its children at the end is killed."""
    process = psutil.Popen(
        [str(word) for word in command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=start_new_session,
    )
    try:
        yield process
    finally:
        children = process.children(recursive=True) if process.is_running() else []
        for one in (process, *children):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.communicate()


def wait_until(condition: Callable[[], bool], process: psutil.Popen) -> None:
    """Returns when the condition holds; fails when the process ends before that."""
    while not condition():
        assert process.poll() is None, process.stderr.read()
        psutil.wait_procs([process], timeout=0.02)


def steps_recorded(run_dir: Path) -> list[int]:
    """The steps in the run's metrics, as they stand."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def last_checkpoint(run_dir: object) -> Checkpoint:
    """The newest checkpoint of a run."""
    with RunFolder(str(run_dir)) as folder:
        newest = folder.checkpoints().newest()
    assert newest is not None
    return newest


def assert_equal_states(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Every tensor equals the other's bit for bit."""
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def has_ended(process: psutil.Process) -> bool:
    """Whether it does nothing any more: one that nobody has asked for its outcome yet is a zombie."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True
