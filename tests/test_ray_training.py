"""Training on a real Ray cluster: workers, checkpoints, resuming, and what users see of failures."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from factories import assert_equal_weights, plan_for

from appliance.errors import ConfigError, StorageError
from appliance.model import model_file
from appliance.on_ray.training import Workers, train_on_ray, train_to_file
from appliance.training.data import batch_indices
from appliance.training.run import train_share

pytestmark = pytest.mark.usefixtures("ray_cluster")

ONE_WORKER = Workers(1, cpus_each=1)


def test_one_worker_gives_the_weights_of_training_here(tiny_scenes, tmp_path) -> None:
    plan = plan_for(tiny_scenes, steps=3, checkpoint_every_steps=2)
    model = tmp_path / "model.safetensors"
    trained = train_to_file(
        plan, tiny_scenes.images, tmp_path / "run", str(model), workers=ONE_WORKER, progress=False
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the worker had
    here = train_share(plan, tiny_scenes.images, device="cpu")
    torch.set_num_threads(threads)
    loaded = model_file.load(str(model))
    assert_equal_weights(loaded.network, here)
    assert loaded.version == trained.version
    assert loaded.info.training["steps"] == 3
    assert loaded.info.dataset_digest == tiny_scenes.digest()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_two_workers_share_the_batches_and_resume_where_they_stopped(tiny_scenes, tmp_path) -> None:
    images = tiny_scenes.images
    workers = Workers(2, cpus_each=1)
    whole = train_on_ray(
        plan_for(tiny_scenes, steps=4), images, tmp_path / "whole", workers=workers, progress=False
    )
    # The same run, but the pictures of its third step, which no step before needs, are gone at first.
    plan = plan_for(tiny_scenes, steps=4, checkpoint_every_steps=2)
    third = batch_indices(2, images=len(images), batch_size=2, seed=0)
    gone = list(images)
    for index in third:
        gone[index] = replace(images[index], storage_path=f"gone/{images[index].name}")
    with pytest.raises(StorageError, match=r"gone/train_\d+\.jpg"):
        train_on_ray(
            plan,
            gone,
            tmp_path / "resumed",
            workers=replace(workers, max_failures=0),
            progress=False,
        )
    metrics_file = tmp_path / "resumed" / "metrics.jsonl"
    first_lines = metrics_file.read_text().splitlines()
    assert len(first_lines) == 2
    with pytest.raises(ConfigError, match="holds a training run already"):
        train_on_ray(plan, images, tmp_path / "resumed", workers=workers)
    resumed = train_on_ray(
        plan, images, tmp_path / "resumed", workers=workers, resume=True, progress=False
    )
    assert_equal_weights(whole, resumed)
    # With their times in them, lines that stand as before were not written by a second start.
    assert metrics_file.read_text().splitlines()[:2] == first_lines


def test_a_batch_that_cannot_be_split_evenly_is_refused(tiny_scenes, tmp_path) -> None:
    with pytest.raises(ConfigError, match="batch size 2 and 3 workers"):
        train_on_ray(plan_for(tiny_scenes), tiny_scenes.images, tmp_path, workers=Workers(3))
