"""The training loop: what it learns from, when it stops, and that a resumed run is the same run."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import assert_equal_weights, plan_for

from appliance.annotations.dataset import AnnotatedImage
from appliance.errors import ConfigError, DatasetError, NonFiniteLossError, StorageError
from appliance.labels import LabelMap
from appliance.model.predictor import resize
from appliance.model.spec import ModelSpec
from appliance.training import checkpoint as checkpoints
from appliance.training.augmentation import augment
from appliance.training.config import TrainingConfig
from appliance.training.data import BatchLoader, Share, batch_indices
from appliance.training.engine import learning_rate_at
from appliance.training.plan import TrainingPlan, plan_training
from appliance.training.run import train_here, train_share


def test_every_picture_comes_once_a_pass_and_order_depends_on_the_seed_alone() -> None:
    steps = [batch_indices(step, images=10, batch_size=4, seed=7) for step in range(5)]
    flat = [index for step in steps for index in step]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
    assert batch_indices(3, images=10, batch_size=4, seed=7) == steps[3]
    assert batch_indices(3, images=10, batch_size=4, seed=8) != steps[3]


def test_workers_share_a_batch_without_gap_or_overlap(tiny_scenes) -> None:
    spec = plan_for(tiny_scenes).spec
    config = TrainingConfig(batch_size=4)
    whole = BatchLoader(tiny_scenes.images, spec.label_map, spec, config).batch(2)
    shares = [
        BatchLoader(tiny_scenes.images, spec.label_map, spec, config, Share(rank, 2)).batch(2)
        for rank in range(2)
    ]
    assert [name for pair in zip(*(s.names for s in shares), strict=True) for name in pair] == (
        whole.names
    )
    torch.testing.assert_close(shares[1].targets[0]["boxes"], whole.targets[1]["boxes"])


def test_one_cycle_climbs_to_the_peak_and_falls_to_a_hundredth() -> None:
    config = TrainingConfig(learning_rate=0.1, warmup_fraction=0.2)
    rates = [learning_rate_at(step, 10, config) for step in range(10)]
    assert rates[:3] == pytest.approx([0.05, 0.1, 0.1])
    assert rates[6] == pytest.approx(0.1 * (0.01 + 0.99 / 2))  # half-way down the cosine
    assert rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)
    assert learning_rate_at(10, 10, config) == pytest.approx(0.001)


def test_stages_replace_the_cycle() -> None:
    config = TrainingConfig(learning_rate=0.1, learning_rate_stages=((3, 0.01), (5, 0.001)))
    rates = [learning_rate_at(step, 7, config) for step in range(7)]
    assert rates == [0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"momentum": 1.0},
        {"flip": 1.5},
        {"weight_decay": -1.0},
        {"frozen_stages": 4},
        {"optimizer": "lion"},
        {"precision": "int4"},
        {"learning_rate_stages": ((5, 0.1), (3, 0.1))},
    ],
)
def test_settings_out_of_range_are_named(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong)).replace("_", "[ _]")):
        TrainingConfig(**wrong)


def test_settings_survive_json() -> None:
    config = TrainingConfig(steps=5, learning_rate_stages=((3, 0.5),))
    assert TrainingConfig.from_json(config.to_json()) == config


class TestAugment:
    """Boxes follow their pixels through every change."""

    spec = ModelSpec.of(LabelMap(("a",)), shorter_side_px=64, longer_side_px=64)
    still = TrainingConfig(flip=0.0, scale_jitter=0.0, colour_jitter=0.0)
    # A red rectangle on black, x 8..24 and y 16..40 of 64 x 64.
    box = np.array([[8, 16, 24, 40]], np.float32)

    def changed(self, config: TrainingConfig, seed: int = 0, boxes: np.ndarray | None = None):
        pixels = torch.zeros(3, 64, 64, dtype=torch.uint8)
        pixels[0, 16:40, 8:24] = 255
        rng = np.random.default_rng(seed)
        given = self.box if boxes is None else boxes
        return augment(pixels, given, (64, 64), self.spec, config, rng)

    def test_nothing_changes_when_nothing_is_asked(self) -> None:
        sample, boxes, kept = self.changed(self.still)
        assert boxes.tolist() == self.box.tolist()
        assert kept.tolist() == [True]
        assert sample[0, 20, 10] == 255
        assert sample[0, 0, 0] == 0

    def test_a_flip_moves_the_box_with_its_pixels(self) -> None:
        sample, boxes, _ = self.changed(replace(self.still, flip=1.0))
        assert boxes.tolist() == [[40, 16, 56, 40]]
        assert sample[0, 16:40, 40:56].min() == 255
        assert sample[0, :, :40].max() == 0

    @pytest.mark.parametrize("seed", range(8))
    def test_scale_and_crop_keep_the_box_on_its_pixels(self, seed: int) -> None:
        sample, boxes, kept = self.changed(replace(self.still, scale_jitter=0.2), seed)
        assert kept.tolist() == [True]
        ys, xs = torch.nonzero(sample[0] > 127, as_tuple=True)
        x1, y1, x2, y2 = boxes[0]
        assert [x1, y1] == pytest.approx([xs.min().item(), ys.min().item()], abs=1)
        assert [x2, y2] == pytest.approx([xs.max().item() + 1, ys.max().item() + 1], abs=1)

    def test_colours_change_and_boxes_do_not(self) -> None:
        sample, boxes, _ = self.changed(replace(self.still, colour_jitter=0.5), 3)
        assert boxes.tolist() == self.box.tolist()
        assert 0 < sample[0, 20, 10] != 255
        assert sample.min() >= 0
        assert sample.max() <= 255

    def test_boxes_mostly_cut_off_are_dropped(self) -> None:
        config = replace(self.still, scale_jitter=0.9)
        corners = np.array([[0, 0, 6, 6], [58, 0, 64, 6], [0, 58, 6, 64], [58, 58, 64, 64]])
        lost = 0
        for seed in range(10):
            sample, boxes, kept = self.changed(config, seed, corners.astype(np.float32))
            assert len(boxes) == kept.sum()
            lost += int((~kept).sum())
            assert (boxes[:, 2:] <= [sample.shape[2], sample.shape[1]]).all()
        assert lost > 0

    def test_a_picture_without_objects_stays_one(self) -> None:
        _, boxes, kept = self.changed(TrainingConfig(), 1, np.zeros((0, 4), np.float32))
        assert boxes.shape == (0, 4)
        assert kept.shape == (0,)


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


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(
    tiny_scenes, tmp_path, optimizer: str
) -> None:
    plan = plan_for(tiny_scenes, steps=4, optimizer=optimizer, checkpoint_every_steps=2)
    kept: dict[int, checkpoints.Checkpoint] = {}
    images = tiny_scenes.images
    whole = train_share(
        plan, images, device="cpu", on_checkpoint=lambda state: kept.update({state.step: state})
    )
    assert sorted(kept) == [2, 4]
    path = str(tmp_path / "checkpoint.safetensors")
    checkpoints.save(path, kept[2])
    steps = []
    resumed = train_share(
        plan,
        images,
        device="cpu",
        checkpoint=checkpoints.load(path),
        on_step=lambda report: steps.append(report.step),
    )
    assert steps == [3, 4]
    assert_equal_weights(whole, resumed)


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


def test_cached_pictures_are_those_the_file_holds(tiny_scenes) -> None:
    spec = plan_for(tiny_scenes).spec
    still = TrainingConfig(batch_size=2, flip=0.0, scale_jitter=0.0, colour_jitter=0.0)
    cached = BatchLoader(tiny_scenes.images, spec.label_map, spec, still)
    uncached = BatchLoader(tiny_scenes.images, spec.label_map, spec, replace(still, cache_mb=0))
    cached.batch(0)
    torch.testing.assert_close(cached.batch(0).pixels, uncached.batch(0).pixels)


def test_resize_keeps_a_flat_picture_flat() -> None:
    flat = torch.full((3, 50, 70), 99, dtype=torch.uint8)
    torch.testing.assert_close(resize(flat, (31, 44)), torch.full((3, 31, 44), 99.0))
