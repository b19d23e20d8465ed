"""One step: parts of a batch, weights averaged over steps, and what becomes of a loss that is not finite."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest
import torch
from factories import assert_equal_weights, plan_for
from torch import nn
from training_cases import CPU, run, spoil

from appliance.errors import ConfigError, NonFiniteLossError
from appliance.training.averaging import WeightAverage, decay_at
from appliance.training.config import TrainingConfig
from appliance.training.optimizer import build_optimizer
from appliance.training.precision import autocast_dtype

# One step of plain descent at rate 1: what changes in the weights is the gradient itself.
BARE = {
    "steps": 1,
    "optimizer": "sgd",
    "learning_rate": 1.0,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "clip_gradient_norm": 1e9,
    "schedule": "constant",
    "warmup_fraction": 0.0,
    "train_batch_norm": False,
    "flip": 0.0,
    "scale_jitter": 0.0,
    "colour_jitter": 0.0,
}


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_give_the_gradient_of_the_whole_batch(tiny_scenes, parts: int) -> None:
    """Exactly so where every picture gives equally many anchors and regions; 3 parts of 4 are uneven."""
    boxes = min(len(image) for image in tiny_scenes.images)
    images = [
        replace(
            image,
            **{name: getattr(image, name)[:boxes] for name in ("boxes_xyxy", "label_names")},
            **{name: getattr(image, name)[:boxes] for name in ("difficult", "truncated", "crowd")},
        )
        for image in tiny_scenes.images
    ]
    everything = 10**6
    gradients = []
    for accumulation_steps in (1, parts):
        plan = plan_for(
            tiny_scenes,
            **BARE,
            batch_size=4,
            accumulation_steps=accumulation_steps,
            regions_per_image=everything,
        )
        network = plan.build_network()
        network.rpn.fg_bg_sampler.batch_size_per_image = everything
        network.rpn.proposal_matcher.low_threshold = network.rpn.proposal_matcher.high_threshold
        network.rpn._post_nms_top_n["training"] = 20
        reports = []
        before = [p.detach().clone() for p in network.parameters()]
        run(plan, images, network, on_step=reports.append)
        assert reports[0].images == 4
        assert reports[0].objects == 4 * boxes
        changes = [b - p.detach() for b, p in zip(before, network.parameters(), strict=True)]
        gradients.append((changes, reports[0].losses, reports[0].gradient_norm))
    (whole, losses, norm), (summed, losses_of_parts, norm_of_parts) = gradients
    assert norm > 0.1
    assert losses_of_parts == pytest.approx(losses, rel=1e-4)
    assert norm_of_parts == pytest.approx(norm, rel=1e-4)
    for first, second in zip(whole, summed, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=2e-5)


def test_more_parts_than_pictures_are_refused(tiny_scenes) -> None:
    with pytest.raises(ConfigError, match="fewer pictures than parts .*at least 3"):
        run(plan_for(tiny_scenes, batch_size=2, accumulation_steps=3), tiny_scenes.images)


def test_the_average_follows_weights_and_statistics_by_hand() -> None:
    assert [decay_at(step, 0.5) for step in (0, 1, 8, 9)] == [0.1, 2 / 11, 0.5, 0.5]
    layer = nn.BatchNorm1d(1)  # weight 1, bias 0, mean 0, variance 1
    average = WeightAverage(layer, decay=0.5)
    for step, value in enumerate([3.0, 4.0]):
        nn.init.constant_(layer.weight, value)
        layer.running_mean.fill_(10 * value)
        layer.num_batches_tracked.fill_(int(value))
        average.update(layer, step)
    first = 0.1 * 1 + 0.9 * 3
    assert average.network.weight.item() == pytest.approx(2 / 11 * first + 9 / 11 * 4)
    assert average.network.running_mean.item() == pytest.approx(2 / 11 * 27 + 9 / 11 * 40)
    assert average.network.running_var.item() == 1
    assert average.network.num_batches_tracked.item() == 4
    assert not average.network.training
    assert layer.weight.item() == 4


def test_a_run_ends_with_the_average_of_its_weights(tiny_scenes) -> None:
    states = []
    plan = plan_for(tiny_scenes, steps=4, ema_decay=0.3, checkpoint_every_steps=1)
    begun = plan.build_network().state_dict()
    ended, _ = run(plan, tiny_scenes.images, on_checkpoint=states.append)
    expected = {name: value.double() for name, value in begun.items()}
    for state, decay in zip(states, (0.1, 2 / 11, 0.25, 0.3), strict=True):
        for name, value in state.network_state.items():
            keep = decay if value.is_floating_point() else 0
            expected[name] = keep * expected[name] + (1 - keep) * value.double()
    torch.testing.assert_close(
        {name: value.double() for name, value in ended.state_dict().items()}, expected
    )
    assert states[-1].model_state is states[-1].average_state
    for name, value in ended.state_dict().items():
        assert torch.equal(value, states[-1].average_state[name])
    learnt = torch.cat([v.flatten() for v in states[-1].network_state.values()])
    assert not torch.allclose(learnt, torch.cat([v.flatten() for v in ended.state_dict().values()]))


def test_averaging_changes_nothing_of_what_is_learnt(tiny_scenes) -> None:
    last = {}
    for decay in (None, 0.9):
        plan = plan_for(tiny_scenes, steps=3, ema_decay=decay)
        run(plan, tiny_scenes.images, on_checkpoint=lambda s, d=decay: last.update({d: s}))
    for name, value in last[None].network_state.items():
        assert torch.equal(value, last[0.9].network_state[name]), name
    assert last[None].model_state is last[None].network_state


def test_a_bad_step_leaves_no_trace_and_is_counted(tiny_scenes, caplog) -> None:
    plan = plan_for(
        tiny_scenes, steps=4, skip_bad_batches=1, ema_decay=0.5, checkpoint_every_steps=1
    )
    states, reports = [], []
    with caplog.at_level(logging.WARNING, "appliance"):
        network, _ = run(
            plan,
            tiny_scenes.images,
            spoil(plan.build_network(), [2]),
            on_checkpoint=states.append,
            on_step=reports.append,
        )
    _, before, after, last = states
    for name in ("network_state", "optimizer_state", "average_state"):
        for key, value in getattr(before, name).items():
            assert torch.equal(value, getattr(after, name)[key]), key
    assert [report.skipped for report in reports] == [False, False, True, False]
    assert [report.skipped_batches for report in reports] == [0, 0, 1, 1]
    assert not math.isfinite(reports[2].loss)
    assert [state.record.skipped_batches for state in states] == [0, 0, 1, 1]
    assert all(bool(v.isfinite().all()) for v in last.network_state.values())
    message = caplog.text
    assert "not finite at step 3: train_" in message
    assert "left out, 1 of at most 1" in message
    assert not torch.equal(
        last.network_state["rpn.head.cls_logits.bias"],
        after.network_state["rpn.head.cls_logits.bias"],
    )
    assert network.training


def test_one_bad_step_too_many_stops_also_after_a_resume(tiny_scenes) -> None:
    plan = plan_for(tiny_scenes, steps=4, skip_bad_batches=1, checkpoint_every_steps=1)
    states = []
    with pytest.raises(NonFiniteLossError, match=r"step 3: train_.*loss_classifier="):
        run(
            plan,
            tiny_scenes.images,
            spoil(plan.build_network(), [1, 2]),
            on_checkpoint=states.append,
        )
    assert [state.step for state in states] == [1, 2]
    with pytest.raises(NonFiniteLossError, match="step 3: "):
        run(plan, tiny_scenes.images, spoil(plan.build_network(), [0]), checkpoint=states[-1])


def test_one_bad_part_leaves_out_the_whole_step(tiny_scenes) -> None:
    plan = plan_for(tiny_scenes, steps=1, batch_size=2, accumulation_steps=2, skip_bad_batches=1)
    reports = []
    trained, _ = run(
        plan, tiny_scenes.images, spoil(plan.build_network(), [0]), on_step=reports.append
    )
    assert reports[0].skipped
    assert_equal_weights(plan.build_network(), trained)


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(tiny_scenes) -> None:
    plan = plan_for(tiny_scenes, steps=1)
    network = plan.build_network()
    network.rpn.head.cls_logits.bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteLossError, match=r"The gradient is not finite at step 1: train_"):
        run(plan, tiny_scenes.images, network)
    assert all(bool(p.isfinite().all()) for p in network.parameters())


def test_float16_is_refused_on_a_cpu_and_bfloat16_is_not() -> None:
    with pytest.raises(ConfigError, match="float16 needs a GPU.*got device cpu"):
        autocast_dtype(TrainingConfig(precision="float16"), CPU)
    assert autocast_dtype(TrainingConfig(precision="bfloat16"), CPU) == torch.bfloat16
    assert autocast_dtype(TrainingConfig(precision="float32"), CPU) is None


def test_biases_and_norms_do_not_decay() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))
    layers[2].weight.requires_grad_(False)
    config = TrainingConfig(weight_decay=0.3, optimizer="adamw", momentum=0.8)
    kernels, rest = build_optimizer(layers, config, CPU).param_groups
    assert kernels["weight_decay"] == 0.3
    assert [p.shape for p in kernels["params"]] == [(4, 3, 1, 1)]
    assert rest["weight_decay"] == 0
    assert len(rest["params"]) == 4
    assert rest["betas"] == (0.8, 0.999)
