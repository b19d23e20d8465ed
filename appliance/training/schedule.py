"""The learning rate of every step, as a function of the step alone: nothing to save, nothing to restore.

A schedule (warm-up, then cosine or constant; or one cycle; or stages) times the factor of the batch size.
"""

from __future__ import annotations

import math

from appliance.training.config import TrainingConfig

# Where "cosine" ends, and where "one_cycle" starts and ends, as shares of the peak; torch's OneCycleLR has
# the latter two as `div_factor` 25 and `final_div_factor` 10,000.
_COSINE_END = 0.01
_CYCLE_START = 1 / 25
_CYCLE_END = _CYCLE_START / 10_000


def learning_rate_at(step: int, steps: int, config: TrainingConfig) -> float:
    """The rate of a step.

    Args:
        step: Counted from 0.
        steps: Length of the run.
        config: Schedule, stages, scaling.
    """
    return batch_factor(config) * _unscaled(step, steps, config)


def batch_factor(config: TrainingConfig) -> float:
    """By what every rate is multiplied because of the batch size."""
    if config.learning_rate_scaling == "none" or config.learning_rate_batch is None:
        return 1.0
    ratio = config.batch_size / config.learning_rate_batch
    return ratio if config.learning_rate_scaling == "linear" else math.sqrt(ratio)


def _unscaled(step: int, steps: int, config: TrainingConfig) -> float:
    peak = config.learning_rate
    if config.learning_rate_stages:
        reached = [rate for start, rate in config.learning_rate_stages if step >= start]
        return reached[-1] if reached else peak
    if config.schedule == "one_cycle":
        return _one_cycle(step, steps, config)
    warmup_steps = max(1, round(config.warmup_fraction * steps))
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if config.schedule == "constant":
        return peak
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * (_COSINE_END + (1 - _COSINE_END) * (1 + math.cos(math.pi * progress)) / 2)


def _one_cycle(step: int, steps: int, config: TrainingConfig) -> float:
    peak = config.learning_rate
    # In torch the peak lies one step before the end of the warm-up, which need not be a whole step.
    peak_step = config.warmup_fraction * steps - 1
    if step <= peak_step and peak_step > 0:
        return _half_cosine(_CYCLE_START * peak, peak, step / peak_step)
    return _half_cosine(peak, _CYCLE_END * peak, (step - peak_step) / (steps - 1 - peak_step))


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))
