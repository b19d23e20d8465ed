"""Where a network computes."""

from __future__ import annotations

import torch

from appliance.errors import ConfigError


def resolve_device(device: str | torch.device) -> torch.device:
    """The torch device of a name; "auto" is the GPU where there is one.

    Raises:
        ConfigError: There is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        resolved = None
    if resolved is None or resolved.type not in ("cpu", "cuda"):
        raise ConfigError("Unknown device", got=device, expected="auto, cpu or cuda")
    gpus = torch.cuda.device_count() if resolved.type == "cuda" else 1
    if not gpus:
        raise ConfigError("No GPU here", got=device, hint="Use device cpu or auto")
    if (resolved.index or 0) >= gpus:
        raise ConfigError(
            "There is no such device", got=device, expected=f"cuda:0 to cuda:{gpus - 1}"
        )
    return resolved
