"""What training needs of memory: estimated before it starts, measured while it runs.

The estimate adds up what every module of the trunk puts out for one picture, on torch's meta device, where
nothing is computed. It is meant to choose a batch that fits, not to account for the last megabyte.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from appliance.model.faster_rcnn import build_hollow_network
from appliance.model.inference.resizing import SIZE_DIVISOR
from appliance.model.spec import ModelSpec
from appliance.training.config import TrainingConfig

# From measured peaks on a CPU: mobilenet_v2 at 384 pixels with 1 and 4 pictures (1185 and 2232 MiB, estimated
# 1142 and 2288), resnet50 at 384 with 2 (2037, 2339), resnet18 at 640 with 2 (1750, 1734).
ACTIVATIONS_FACTOR = 1.3
# Interpreter, torch, the data set and the pictures ahead of the step.
PROCESS_BYTES = 700 * 2**20
USABLE_SHARE = 0.8
_FLOAT_BYTES = 4
_RESET_PEAK = "5"  # see proc(5), /proc/PID/clear_refs
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryNeed:
    """What one worker needs.

    Attributes:
        fixed_bytes: Process, weights, gradients, the optimizer's state.
        picture_bytes: For each picture that is computed at once.
    """

    fixed_bytes: int
    picture_bytes: int

    def of_batch(self, pictures: int) -> int:
        """Bytes for so many pictures at once."""
        return self.fixed_bytes + pictures * self.picture_bytes

    def most_pictures(self, usable_bytes: int) -> int:
        """How many pictures at once fit; 0 where not even one does."""
        return max(0, (usable_bytes - self.fixed_bytes) // self.picture_bytes)


def estimate(spec: ModelSpec, config: TrainingConfig, input_hw: tuple[int, int]) -> MemoryNeed:
    """What a worker needs to train the network of `spec`.

    Args:
        spec: The network.
        config: Decides what the optimizer keeps for each weight.
        input_hw: The largest picture as it enters the network, in pixels.
    """
    network = build_hollow_network(spec)
    parameters = sum(p.numel() for p in network.parameters())
    copies = 2 + (2 if config.optimizer == "adamw" else 1) + (config.ema_decay is not None)
    padded_hw = [-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in input_hw]
    outputs = 0

    def count(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal outputs
        outputs += output.numel() if isinstance(output, torch.Tensor) else 0

    hooks = [
        module.register_forward_hook(count)
        for module in network.backbone.modules()
        if not any(True for _ in module.children())
    ]
    with torch.no_grad():
        network.eval().backbone(torch.empty(1, 3, *padded_hw, device="meta"))
    for hook in hooks:
        hook.remove()
    return MemoryNeed(
        PROCESS_BYTES + copies * parameters * _FLOAT_BYTES,
        round(ACTIVATIONS_FACTOR * outputs * _FLOAT_BYTES),
    )


def usable_bytes(device: torch.device, workers: int = 1) -> int | None:
    """What a worker may take of this machine's memory, a fifth left alone; None where nobody knows.

    Args:
        device: A GPU is one worker's alone; the memory of a CPU is shared by all.
        workers: On this machine.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * USABLE_SHARE)
    free = [value for value in (_available_bytes(), _cgroup_bytes()) if value is not None]
    return int(min(free) * USABLE_SHARE / workers) if free else None


@dataclass
class PeakMemory:
    """What `peak_memory` found, in bytes; None while it is still looking, or where the kernel does not tell."""

    peak_bytes: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """Measures the most memory in use within the block: of the GPU, else of this whole process."""
    measured = PeakMemory()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield measured
        measured.peak_bytes = torch.cuda.max_memory_reserved(device)
        return
    ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    except OSError:
        # Some containers forbid it; then nothing is said rather than something wrong.
        yield measured
        return
    yield measured
    measured.peak_bytes = _kibibytes(Path("/proc/self/status"), "VmHWM")


def _available_bytes() -> int | None:
    return _kibibytes(Path("/proc/meminfo"), "MemAvailable")


def _cgroup_bytes() -> int | None:
    """What the container has left; None without a limit."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)


def _kibibytes(path: Path, name: str) -> int | None:
    lines = path.read_text().splitlines() if path.exists() else []
    return next(
        (int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None
    )
