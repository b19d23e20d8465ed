"""torchvision's own path, with nothing changed but the settings that torchvision has."""

from __future__ import annotations

import copy

import torch
from torchvision.models.detection import FasterRCNN

from appliance.model.spec import ModelSpec


def exact_network(network: FasterRCNN, spec: ModelSpec, device: torch.device) -> FasterRCNN:
    """A copy that is called as torchvision's models are, with a list of float pictures in 0..1."""
    copied: FasterRCNN = copy.deepcopy(network).eval().requires_grad_(False).to(device)
    copied.roi_heads.score_thresh = spec.score_threshold
    copied.roi_heads.nms_thresh = spec.nms_iou_threshold
    copied.roi_heads.detections_per_img = spec.max_detections
    # Inferred from the first picture it sees and kept: a very flat one would spoil all others.
    copied.roi_heads.box_roi_pool.scales = None
    copied.roi_heads.box_roi_pool.map_levels = None
    return copied
