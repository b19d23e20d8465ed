"""How the tests of the training loop run it: in this process, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN

from appliance.annotations.dataset import AnnotatedImage
from appliance.training.engine import TrainingOutcome, train
from appliance.training.plan import TrainingPlan

CPU = torch.device("cpu")


def run(
    plan: TrainingPlan,
    images: Sequence[AnnotatedImage],
    network: FasterRCNN | None = None,
    **options,
) -> tuple[FasterRCNN, TrainingOutcome]:
    """Trains by the plan, or the network that is given; returns it and how the run ended.

    In one thread: with several, a few of torch's kernels differ in the last bit from one time to the next.
    """
    network = network or plan.build_network()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        outcome = train(
            network,
            plan.spec,
            images,
            plan.config,
            steps=plan.steps,
            train_batch_norm=bool(plan.config.train_batch_norm),
            device=CPU,
            **options,
        )
    finally:
        torch.set_num_threads(threads)
    return network, outcome


def spoil(network: FasterRCNN, passes: Sequence[int]) -> FasterRCNN:
    """Makes NaN of the pictures of these forward passes, counted from 0."""
    done = iter(range(10**6))

    def spoilt(_: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (inputs[0] * torch.nan,) if next(done) in passes else inputs

    network.backbone.register_forward_pre_hook(spoilt)
    return network


Metrics = Callable[[FasterRCNN, int], dict[str, float]]


def told(metrics: dict[int, float]) -> Metrics:
    """A validation that answers what it was told to for each step."""
    return lambda network, step: {"map_50": metrics[step], "coco_ap": -metrics[step]}
