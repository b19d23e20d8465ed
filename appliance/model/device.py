"""Where a network computes."""

from __future__ import annotations

import torch

from appliance.errors import ConfigError


def resolve_device(device: str) -> torch.device:
    """The torch device of a name; "auto" is the GPU where there is one.

    Raises:
        ConfigError: There is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ConfigError("Unknown device", got=device, expected="auto, cpu or cuda") from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("No GPU here", got=device, hint="Use device cpu or auto")
    return resolved
