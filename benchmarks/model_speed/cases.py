"""What is measured: for each architecture the pictures, their number, and how its weights are made.

The networks start from random weights, so what counts is how many steps fit in a quarter of an hour on two
cores. Those that see 800 pixels learn first at half that size, where a step costs a quarter: a shelf at full
size shows its objects as large as a scene at half of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.model.spec import COMPACT, ModelSpec
from benchmarks.model_speed.pictures import LABEL_MAP

ROUNDS = 3


@dataclass(frozen=True)
class TrainingStage:
    """Some steps at one input size.

    Attributes:
        shorter_side_px: Of the input; the longer side keeps its proportion.
        steps: Optimizer steps of two pictures each.
        learning_rate: Peak of the stage's one cycle.
    """

    shorter_side_px: int
    steps: int
    learning_rate: float


@dataclass(frozen=True)
class Case:
    """One architecture on one kind of device.

    Attributes:
        size_wh: Width and height of the pictures in pixels; larger than what enters the network, as
            pictures of cameras are.
        train_pictures: To learn from.
        stages: How the weights are made, one after the other.
        pictures_per_round: For each batch size how many pictures a round takes. Rounds go on where the
            last one ended, and begin anew when all pictures have been seen.
        test_pictures: To measure on.
    """

    size_wh: tuple[int, int]
    train_pictures: int
    stages: tuple[TrainingStage, ...]
    pictures_per_round: Mapping[int, int]
    test_pictures: int = 48


_MANY = {1: 48, 4: 48, 16: 48}
_SOME = {1: 16, 4: 16, 16: 16}
_FEW = {1: 8, 4: 8, 16: 16}
_ON_GPU = {1: 96, 4: 144, 16: 240}

_CPU_CASES = {
    COMPACT: Case((640, 480), 120, (TrainingStage(384, 360, 1e-3),), _MANY),
    "fasterrcnn_mobilenet_v3_large_320_fpn": Case(
        (640, 480), 120, (TrainingStage(320, 420, 1e-3), TrainingStage(320, 600, 1e-3)), _MANY
    ),
    "fasterrcnn_mobilenet_v3_large_fpn": Case(
        (1280, 960), 96, (TrainingStage(400, 400, 1e-3), TrainingStage(800, 60, 3e-4)), _SOME
    ),
    "fasterrcnn_resnet50_fpn": Case(
        (1280, 960), 96, (TrainingStage(400, 220, 4e-4), TrainingStage(800, 16, 2e-4)), _FEW
    ),
    # What fits: a step takes some 9 s at the first size and 40 s at the second.
    "fasterrcnn_resnet50_fpn_v2": Case(
        (1280, 960), 96, (TrainingStage(400, 80, 4e-4), TrainingStage(800, 4, 2e-4)), _FEW
    ),
}
# 1600 x 960 pixels enter the larger networks at 1333 x 800, the size that their speed is quoted at.
_GPU_CASES = {
    COMPACT: Case((640, 480), 120, (TrainingStage(384, 600, 1e-3),), _ON_GPU),
    "fasterrcnn_mobilenet_v3_large_320_fpn": Case(
        (640, 480), 120, (TrainingStage(320, 800, 1e-3),), _ON_GPU
    ),
    "fasterrcnn_mobilenet_v3_large_fpn": Case(
        (1600, 960), 96, (TrainingStage(400, 600, 1e-3), TrainingStage(800, 400, 3e-4)), _ON_GPU
    ),
    "fasterrcnn_resnet50_fpn": Case(
        (1600, 960), 96, (TrainingStage(400, 400, 4e-4), TrainingStage(800, 200, 2e-4)), _ON_GPU
    ),
    "fasterrcnn_resnet50_fpn_v2": Case(
        (1600, 960), 96, (TrainingStage(400, 400, 4e-4), TrainingStage(800, 200, 2e-4)), _ON_GPU
    ),
}
_QUICK = Case((160, 120), 4, (TrainingStage(96, 2, 1e-3),), {1: 2, 4: 4, 16: 16}, test_pictures=6)


def case_of(architecture: str, device_type: str, *, quick: bool = False) -> Case:
    """The case of an architecture.

    Args:
        architecture: One of `model.spec.ARCHITECTURES`.
        device_type: "cpu" or "cuda".
        quick: Tiny pictures and next to no training: shows that the benchmark runs, not how fast
            anything is.
    """
    if quick:
        return _QUICK
    return (_GPU_CASES if device_type == "cuda" else _CPU_CASES)[architecture]


def spec_of(architecture: str, backbone: str | None = None, *, quick: bool = False) -> ModelSpec:
    """The network of a case: the appliance's defaults.

    Args:
        architecture: One of `model.spec.ARCHITECTURES`.
        backbone: Of the compact architecture; None leaves the default.
        quick: A small one.

    Raises:
        ConfigError: There is no such backbone.
    """
    settings: dict[str, Any] = {}
    if architecture == COMPACT and quick:
        settings = {"backbone": "mobilenet_v3_small", "fpn_channels": 32, "box_head_channels": 32}
    if quick:
        settings |= {"shorter_side_px": 96, "longer_side_px": 160}
    if architecture == COMPACT and backbone is not None:
        settings["backbone"] = backbone
    return ModelSpec.of(LABEL_MAP, architecture, **settings)
