"""In which numbers the trunk is computed."""

from __future__ import annotations

import torch

from appliance.errors import ConfigError
from appliance.training.config import TrainingConfig


def autocast_dtype(config: TrainingConfig, device: torch.device) -> torch.dtype | None:
    """What the trunk is computed in; None leaves float32.

    "auto" is bfloat16 where it is faster: on a GPU, or a CPU with AMX units. A CPU without them emulates
    bfloat16 and is slower with it than without.

    Raises:
        ConfigError: float16 on a CPU.
    """
    if config.precision == "float16":
        if device.type != "cuda":
            raise ConfigError(
                "float16 needs a GPU",
                where="precision",
                got=f"device {device.type}",
                hint="Use precision auto, which takes bfloat16 where the CPU has units for it",
            )
        return torch.float16
    if config.precision == "auto":
        faster = device.type == "cuda" or cpu_has_amx()
        return torch.bfloat16 if faster else None
    return torch.bfloat16 if config.precision == "bfloat16" else None


def cpu_has_amx() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (Intel's AMX tiles)."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
