"""The optimizer of a run."""

from __future__ import annotations

import torch
from torchvision.models.detection import FasterRCNN

from appliance.training.config import TrainingConfig


def build_optimizer(
    network: FasterRCNN, config: TrainingConfig, device: torch.device
) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay on matrices and kernels, none on biases and norms.

    On a GPU one kernel changes all weights.
    """
    learning = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # None leaves the choice to torch, which takes the plain loop on a CPU.
    fused = True if device.type == "cuda" else None
    if config.optimizer == "adamw":
        betas = (config.momentum, 0.999)
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=fused)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, fused=fused)
