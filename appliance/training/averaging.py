"""Exponential moving average of the weights over the steps: steadier than the weights of any one step.

It starts as a copy of the network and follows it; floating-point buffers (the statistics of BatchNorm) are
averaged as the weights are, counters are copied.
"""

from __future__ import annotations

import copy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torchvision.models.detection import FasterRCNN


def decay_at(step: int, decay: float) -> float:
    """The share of the average that stays in the update after a step, counted from 0.

    At first it is smaller than `decay`, or the average of a short run would remember its random start:
    (1 + step) / (10 + step) is 0.1, 0.18, 0.25, ... and 0.99 after 900 steps.
    """
    return min(decay, (1 + step) / (10 + step))


class WeightAverage:
    """The averaged network beside the one that learns.

    Args:
        network: Where it starts.
        decay: Share of the average that stays at every step, 0..1.

    Attributes:
        network: The averaged network, in eval mode, without gradients.
    """

    def __init__(self, network: FasterRCNN, decay: float) -> None:
        self.network: FasterRCNN = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: FasterRCNN, step: int) -> None:
        """Takes in the weights after a step, counted from 0."""
        averages, values = self.network.state_dict(), network.state_dict()
        averaged = [name for name, value in values.items() if value.is_floating_point()]
        move = get_ema_multi_avg_fn(decay_at(step, self._decay))
        move([averages[name] for name in averaged], [values[name] for name in averaged], step)
        for name in values.keys() - set(averaged):
            averages[name].copy_(values[name])
