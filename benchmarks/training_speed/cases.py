"""What is measured: for each kind of device the pictures, their number, the batch and the length of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from appliance.model.spec import COMPACT

ON_GPU = "fasterrcnn_resnet50_fpn"


@dataclass(frozen=True)
class Case:
    """One architecture on one kind of device.

    Attributes:
        size_wh: Width and height of the pictures in pixels.
        train_pictures: To learn from.
        test_pictures: To measure what was learnt.
        batch_size: Pictures a step, the same on all sides.
        steps: Of every training.
        warm_up_steps: First of them, which allocate, compile and fill the cache, and are not timed.
        plain_loader_workers: Processes that read ahead for the plain loop. Its script's default is 4; on two
            cores one is enough, and more of them would only take turns with the network.
        loader_workers: Processes that read ahead for ours; 0 is the default, a thread.
        settings: Of `ModelSpec`, where they are not the defaults.
    """

    size_wh: tuple[int, int]
    train_pictures: int
    test_pictures: int
    batch_size: int
    steps: int
    warm_up_steps: int
    plain_loader_workers: int
    loader_workers: int
    settings: Mapping[str, Any] = field(default_factory=dict)


_ON_CPU = Case((640, 480), 120, 32, 2, 200, 10, 1, 0)
# 1600 x 960 pixels enter the network at 1333 x 800, the size that its speed is quoted at.
_ON_CUDA = Case((1600, 960), 96, 48, 8, 200, 20, 8, 8)
_QUICK_SETTINGS = {"shorter_side_px": 96, "longer_side_px": 160}
_QUICK_COMPACT = {"backbone": "mobilenet_v3_small", "fpn_channels": 32, "box_head_channels": 32}


def case_of(architecture: str, device_type: str, *, quick: bool = False) -> Case:
    """The case of an architecture.

    Args:
        architecture: One of `model.spec.ARCHITECTURES`.
        device_type: "cpu" or "cuda".
        quick: Tiny pictures and next to no steps: shows that the benchmark runs, not how fast anything is.
    """
    if quick:
        compact = _QUICK_COMPACT if architecture == COMPACT else {}
        return Case((160, 120), 4, 2, 2, 4, 1, 0, 0, {**_QUICK_SETTINGS, **compact})
    return _ON_CUDA if device_type == "cuda" else _ON_CPU
