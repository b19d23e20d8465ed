"""The learning rate of every step, beside torch's own schedulers, and what scales it."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

from appliance.errors import ConfigError
from appliance.training.config import TrainingConfig
from appliance.training.schedule import learning_rate_at

PEAK = 0.08


def torch_scheduler(optimizer: torch.optim.Optimizer, config: TrainingConfig, steps: int):
    if config.schedule == "one_cycle":
        return OneCycleLR(
            optimizer, PEAK, steps, pct_start=config.warmup_fraction, cycle_momentum=False
        )
    climb = round(config.warmup_fraction * steps)
    after: LRScheduler = ConstantLR(optimizer, 1.0)
    if config.schedule == "cosine":
        after = CosineAnnealingLR(optimizer, steps - climb, 0.01 * PEAK)
    climbing = LinearLR(optimizer, 1 / climb, 1.0, climb - 1)
    return SequentialLR(optimizer, [climbing, after], [climb])


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "constant"])
@pytest.mark.parametrize(("steps", "warmup_fraction"), [(350, 0.1), (23, 0.3), (11, 0.2)])
def test_schedules_are_those_of_torch(schedule: str, steps: int, warmup_fraction: float) -> None:
    config = TrainingConfig(learning_rate=PEAK, schedule=schedule, warmup_fraction=warmup_fraction)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = torch_scheduler(optimizer, config, steps)
    expected = []
    for _ in range(steps):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        if len(expected) < steps:
            scheduler.step()
    rates = [learning_rate_at(step, steps, config) for step in range(steps)]
    assert rates == pytest.approx(expected, rel=1e-6)


def test_the_cosine_climbs_to_the_peak_and_falls_to_a_hundredth() -> None:
    config = TrainingConfig(learning_rate=0.1, warmup_fraction=0.2)
    rates = [learning_rate_at(step, 10, config) for step in range(10)]
    assert rates[:3] == pytest.approx([0.05, 0.1, 0.1])
    assert rates[6] == pytest.approx(0.1 * (0.01 + 0.99 / 2))  # half-way down the cosine
    assert rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)
    assert learning_rate_at(10, 10, config) == pytest.approx(0.001)


@pytest.mark.parametrize("warmup_fraction", [0.0, 0.1])
def test_one_cycle_without_a_step_to_climb_begins_at_the_peak(warmup_fraction: float) -> None:
    # Torch's own divides by zero at 0.1, where the peak falls on the very first of ten steps.
    config = TrainingConfig(schedule="one_cycle", warmup_fraction=warmup_fraction)
    rates = [learning_rate_at(step, 10, config) for step in range(10)]
    assert rates[0] == pytest.approx(config.learning_rate, rel=0.03)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(config.learning_rate / 250_000)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "constant"])
def test_stages_replace_every_schedule(schedule: str) -> None:
    stages = ((3, 0.01), (5, 0.001))
    config = TrainingConfig(learning_rate=0.1, learning_rate_stages=stages, schedule=schedule)
    rates = [learning_rate_at(step, 7, config) for step in range(7)]
    assert rates == [0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1), ("linear", 8), ("sqrt", 8**0.5)])
@pytest.mark.parametrize("more", [{}, {"learning_rate_stages": ((2, 0.5),)}])
def test_a_larger_batch_scales_every_rate(scaling: str, factor: float, more: dict) -> None:
    plain = TrainingConfig(batch_size=16, **more)
    scaled = TrainingConfig(
        batch_size=16, learning_rate_scaling=scaling, learning_rate_batch=2, **more
    )
    for step in range(5):
        expected = factor * learning_rate_at(step, 5, plain)
        assert learning_rate_at(step, 5, scaled) == pytest.approx(expected)


def test_scaling_needs_to_know_from_which_batch() -> None:
    with pytest.raises(ConfigError, match="learning_rate_scaling .* no learning_rate_batch"):
        TrainingConfig(learning_rate_scaling="linear")
