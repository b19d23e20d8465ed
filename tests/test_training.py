"""The training loop: what it learns from, when it stops, and that a resumed run is the same run."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import assert_equal_weights, plan_for

from appliance.annotations.dataset import AnnotatedImage
from appliance.errors import ConfigError, DatasetError, NonFiniteLossError, StorageError
from appliance.labels import LabelMap
from appliance.model.inference.resizing import resize
from appliance.training.config import TrainingConfig
from appliance.training.data import BatchLoader
from appliance.training.monitor import read_metrics
from appliance.training.plan import TrainingPlan, plan_training
from appliance.training.run import train_here, train_share

STILL = TrainingConfig(flip=0.0, scale_jitter=0.0, colour_jitter=0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"learning_rate": 1e38},
        {"momentum": 1.0},
        {"flip": 1.5},
        {"flip_vertical": -0.1},
        {"crop": 2},
        {"crop_smallest": 0},
        {"rotate_degrees": 46},
        {"min_visible": 1.1},
        {"hue_jitter": 0.6},
        {"blur": -1},
        {"mosaic": math.nan},
        {"weight_decay": -1.0},
        {"weight_decay": math.inf},
        {"frozen_stages": 4},
        {"optimizer": "lion"},
        {"precision": "int4"},
        {"learning_rate_stages": ((5, 0.1), (3, 0.1))},
        {"learning_rate_stages": ((-1, 0.1),)},
        {"learning_rate_stages": ((3, math.nan),)},
        {"learning_rate_stages": ((3, math.inf),)},
        {"learning_rate_stages": ((3, 1e38),)},
        {"epochs": 0},
        {"accumulation_steps": 0},
        {"learning_rate_batch": 0},
        {"keep_checkpoints": 0},
        {"ema_decay": 1.0},
        {"ema_decay": math.nan},
        {"skip_bad_batches": -1},
        {"loader_workers": -1},
        {"validate_every_steps": -1},
        {"patience": -1},
        {"schedule": "zigzag"},
        {"learning_rate_scaling": "cubic"},
        {"validation_metric": "loss"},
        {"steps": 5, "epochs": 2},
        {"steps": "5"},
        {"batch_size": 2.5},
        {"learning_rate": "fast"},
    ],
)
def test_settings_out_of_range_are_named(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong)).replace("_", "[ _]")):
        TrainingConfig(**wrong)


def test_numbers_of_numpy_become_plain_ones_that_json_can_hold() -> None:
    config = TrainingConfig(steps=np.int64(5), learning_rate=np.float32(0.5))
    assert json.loads(json.dumps(config.to_json()))["steps"] == 5
    assert type(config.learning_rate) is float


def test_settings_survive_json() -> None:
    config = TrainingConfig(steps=5, learning_rate_stages=((3, 0.5),))
    assert TrainingConfig.from_json(config.to_json()) == config


def test_a_picture_seen_again_and_again_is_learnt(tiny_scenes) -> None:
    losses = []
    plan = plan_for(tiny_scenes, steps=40, batch_size=1, learning_rate=1e-3, flip=0, scale_jitter=0)
    train_share(
        replace(plan, spec=replace(plan.spec, backbone="resnet18")),
        tiny_scenes.images[:1],
        device="cpu",
        on_step=lambda report: losses.append(report.losses["loss_objectness"]),
    )
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_train_here_resumes_and_records_every_step_once(tiny_scenes, tmp_path) -> None:
    plan = plan_for(tiny_scenes, steps=4, checkpoint_every_steps=2)

    def stop_at_3(*_: object) -> None:
        raise KeyboardInterrupt

    class Vanishing(list):
        """The pictures, of which none can be had from step 4 on."""

        asked = 0

        def __getitem__(self, index):
            self.asked += 1
            return stop_at_3() if self.asked > 18 else super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        train_here(plan, Vanishing(tiny_scenes.images), tmp_path, device="cpu", progress=False)
    resumed = train_here(plan, tiny_scenes.images, tmp_path, device="cpu", resume=True)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [f'"step": {n},' in line for n, line in enumerate(lines, 1)] == [True] * 4
    assert_equal_weights(resumed, train_share(plan, tiny_scenes.images, device="cpu"))
    assert list((tmp_path / "train").glob("events.*"))


def test_a_loss_that_is_not_finite_stops_with_step_losses_and_pictures(
    tiny_scenes, monkeypatch
) -> None:
    plan = plan_for(tiny_scenes, steps=1)
    network = plan.build_network()
    torch.nn.init.constant_(network.rpn.head.cls_logits.bias, math.nan)
    monkeypatch.setattr(TrainingPlan, "build_network", lambda plan: network)
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    with pytest.raises(NonFiniteLossError, match=r"step 1: train_\d+\.jpg.*objectness=nan"):
        train_share(plan, tiny_scenes.images, device="cpu")
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter, before[name], equal_nan=True)


def test_pictures_without_objects_train(tiny_scenes) -> None:
    first = tiny_scenes.images[0]
    negative = AnnotatedImage(
        first.storage_path, first.name, first.size_hw, np.zeros((0, 4)), (), np.zeros(0, bool)
    )
    reports = []
    plan = plan_for(tiny_scenes, steps=2, batch_size=1)
    train_share(plan, [negative], device="cpu", on_step=reports.append)
    assert all(math.isfinite(report.loss) for report in reports)
    assert reports[0].losses["loss_box_reg"] == 0


def test_a_picture_that_changed_its_size_is_named(tiny_scenes) -> None:
    other = replace(tiny_scenes.images[0], size_hw=(7, 9))
    with pytest.raises(DatasetError, match=r"has changed since .*expected 9x7"):
        train_share(plan_for(tiny_scenes, steps=1), [other], device="cpu")


def test_what_stands_for_a_crowd_is_not_learnt(tiny_scenes) -> None:
    first = tiny_scenes.images[0]
    crowd = np.arange(len(first)) == 1
    batches = [
        BatchLoader([image], tiny_scenes.label_map, plan_for(tiny_scenes).spec, STILL).batch(0)
        for image in (first, replace(first, crowd=crowd))
    ]
    all_boxes, learnt = (batch.targets[0]["boxes"] for batch in batches)
    torch.testing.assert_close(learnt, all_boxes[~crowd])
    assert len(batches[1].targets[0]["labels"]) == len(first) - 1


def test_mosaics_are_made_of_the_data_and_of_the_step_alone(tiny_scenes) -> None:
    spec = plan_for(tiny_scenes).spec
    mosaics = TrainingConfig(batch_size=2, mosaic=1.0)
    loader = BatchLoader(tiny_scenes.images, spec.label_map, spec, mosaics)
    batch, plain = (
        BatchLoader(tiny_scenes.images, spec.label_map, spec, config).batch(3)
        for config in (mosaics, TrainingConfig(batch_size=2))
    )
    objects = sum(len(target["boxes"]) for target in batch.targets)
    assert objects > sum(len(target["boxes"]) for target in plain.targets)
    assert batch.dropped > 0
    loader.batch(1)
    torch.testing.assert_close(loader.batch(3).pixels, batch.pixels)


def test_dropped_objects_are_counted_to_the_end_of_the_run(tiny_scenes, tmp_path, caplog) -> None:
    # Nothing that is cut at all is kept, and nearly everything is cut.
    plan = plan_for(tiny_scenes, steps=3, batch_size=2, crop=1.0, crop_smallest=0.1, min_visible=1)
    with caplog.at_level("INFO", "appliance"):
        train_here(plan, tiny_scenes.images, tmp_path, device="cpu")
    lines = read_metrics(tmp_path)
    dropped, kept = (sum(line[key] for line in lines) for key in ("objects_dropped", "objects"))
    assert dropped > 0
    assert f"cut off {dropped} of {dropped + kept} objects" in caplog.text


def test_a_picture_that_vanished_is_named(tiny_scenes) -> None:
    gone = replace(tiny_scenes.images[0], storage_path="nowhere/gone.jpg")
    with pytest.raises(StorageError, match=r"nowhere/gone\.jpg"):
        train_share(plan_for(tiny_scenes, steps=1), [gone], device="cpu")


def test_the_plan_decides_what_was_left_open(tiny_scenes) -> None:
    plan = plan_for(tiny_scenes)
    assert plan.steps == 30 * len(tiny_scenes) / plan.config.batch_size
    assert plan.config.train_batch_norm is True
    assert plan.config.frozen_stages == 0
    assert TrainingPlan.from_json(plan.to_json()) == plan
    with pytest.raises(DatasetError, match="no picture"):
        plan_training(LabelMap(("a",)), images=0, dataset_digest="", config=TrainingConfig())


def test_resize_keeps_a_flat_picture_flat() -> None:
    flat = torch.full((3, 50, 70), 99, dtype=torch.uint8)
    torch.testing.assert_close(resize(flat, (31, 44)), torch.full((3, 31, 44), 99.0))
