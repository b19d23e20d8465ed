"""Batches made ahead of the step: the same from a thread and from processes, and nobody is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from factories import assert_equal_weights, plan_for
from training_cases import run

from appliance.annotations.dataset import AnnotatedImage
from appliance.errors import StorageError
from appliance.training.data import BatchLoader

PICTURE_BYTES = 3 * 160 * 120


def loader_of(scenes, images=None, **wishes) -> BatchLoader:
    plan = plan_for(scenes, **wishes)
    # Large enough that sums over a picture are shared out to threads, whose number shows in the last bit.
    spec = plan.spec.with_settings(shorter_side_px=240, longer_side_px=400)
    return BatchLoader(images or scenes.images, spec.label_map, spec, plan.config)


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_processes_make_the_batches_of_the_thread(tiny_scenes, two_threads) -> None:
    wishes = {"batch_size": 2, "accumulation_steps": 2, "mosaic": 0.3, "bucket_by_size": True}
    made = []
    for loader_workers in (0, 2):
        loader = loader_of(tiny_scenes, loader_workers=loader_workers, **wishes)
        with closing(loader.batches(3, 8)) as batches:
            made.append([part for parts in batches for part in parts])
    assert len(made[0]) == 10
    for first, second in zip(*made, strict=True):
        assert torch.equal(first.pixels, second.pixels)
        assert (first.names, first.sizes_hw, first.dropped) == (
            second.names,
            second.sizes_hw,
            second.dropped,
        )
        for target, other in zip(first.targets, second.targets, strict=True):
            assert all(torch.equal(target[name], other[name]) for name in ("boxes", "labels"))
    assert spawned() == []


def spawned(parent: psutil.Process | None = None) -> list[psutil.Process]:
    """Processes that prepare pictures for another one, by default for this one."""
    found = []
    for child in (parent or psutil.Process()).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it is ending just now
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_an_error_in_a_process_arrives_as_it_was(tiny_scenes) -> None:
    plan = plan_for(tiny_scenes, steps=4, loader_workers=1)
    gone = [replace(image, storage_path="nowhere/gone.jpg") for image in tiny_scenes.images]
    with pytest.raises(StorageError, match=r"nowhere/gone\.jpg"):
        run(plan, gone)
    assert spawned() == []


def test_training_with_processes_gives_the_same_weights(tiny_scenes) -> None:
    plain, fetched = (
        run(plan_for(tiny_scenes, steps=3, loader_workers=workers), tiny_scenes.images)[0]
        for workers in (0, 1)
    )
    assert_equal_weights(plain, fetched)


def test_no_steps_need_no_process(tiny_scenes) -> None:
    for loader_workers in (0, 2):
        with closing(loader_of(tiny_scenes, loader_workers=loader_workers).batches(3, 3)) as none:
            assert list(none) == []
    assert spawned() == []


@pytest.mark.parametrize(("loader_workers", "kept"), [(0, 6), (4, 4)])
def test_all_processes_together_keep_to_the_bound_of_the_cache(
    tiny_scenes, tmp_path: Path, loader_workers: int, kept: int
) -> None:
    """One MiB holds 18 pictures; a quarter of it, which is the share of each of four processes, four."""
    images = [moved(image, tmp_path) for image in tiny_scenes.images]
    assert 2**20 // loader_workers // PICTURE_BYTES == kept if loader_workers else True
    loader = loader_of(tiny_scenes, images, loader_workers=loader_workers, cache_mb=1, batch_size=1)
    for step in range(6):
        loader.batch(step)
    for image in images:
        Path(image.storage_path).unlink()
    readable = 0
    for step in range(6):
        try:
            loader.batch(step)
            readable += 1
        except StorageError:
            continue
    assert readable == kept


def moved(image: AnnotatedImage, folder: Path) -> AnnotatedImage:
    """The same picture from another folder."""
    path = shutil.copy(image.storage_path, folder)
    return replace(image, storage_path=str(path))


def test_cached_pictures_are_those_the_file_holds(tiny_scenes) -> None:
    cached, uncached = (loader_of(tiny_scenes, cache_mb=size, batch_size=2) for size in (1, 0))
    cached.batch(0)
    assert torch.equal(cached.batch(0).pixels, uncached.batch(0).pixels)


INTERRUPTED = """
import sys
from appliance.annotations.dataset import ObjectDetectionDataset
from factories import plan_for
from training_cases import run

if __name__ == "__main__":
    scenes = ObjectDetectionDataset.create_from_dir("tiny", sys.argv[1])
    plan = plan_for(scenes, steps=10000, loader_workers=2)
    run(plan, scenes.images, on_step=lambda report: print(report.step, flush=True))
"""


@pytest.mark.parametrize(
    ("how", "when"),
    [
        ("to all as a terminal does", "at once"),
        ("to all as a terminal does", "after a step"),
        ("killed", "at once"),
    ],
)
def test_ctrl_c_and_kill_leave_no_process_behind(
    tiny_scenes_dir, tmp_path, how: str, when: str
) -> None:
    script = tmp_path / "train.py"
    script.write_text(INTERRUPTED)
    with subprocess.Popen(
        [sys.executable, str(script), str(tiny_scenes_dir / "train")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    ) as training:
        if when == "after a step":
            assert training.stdout.readline() == "1\n", training.stderr.read()
        parent = psutil.Process(training.pid)
        while len(helpers := spawned(parent)) < 2:
            assert training.poll() is None, training.stderr.read()
            psutil.wait_procs([parent], timeout=0.01)
        if how == "killed":
            training.kill()
        else:
            os.killpg(training.pid, signal.SIGINT)
        _, told = training.communicate(timeout=60)
    _, left = psutil.wait_procs(helpers, timeout=60)
    assert left == []
    if how != "killed":
        # Of all processes only the one that the user began says that it was interrupted.
        assert told.count("Traceback") == told.count("KeyboardInterrupt") == 1
