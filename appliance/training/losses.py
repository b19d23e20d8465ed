"""The training pass: pixels and targets in, four losses out."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList

from appliance.model.faster_rcnn import IMAGE_MEAN, IMAGE_STD


class DetectionLosses(nn.Module):
    """Normalise -> trunk -> RPN -> box head, as one module that can be wrapped for several workers.

    Args:
        network: The network to train; it stays reachable as `.network`.
        autocast_dtype: The trunk (backbone and pyramid) is computed in it; None keeps float32. RPN and
            box head stay in float32: box coordinates do not survive eight bits of mantissa.
    """

    _mean: torch.Tensor
    _std: torch.Tensor

    def __init__(self, network: FasterRCNN, autocast_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.network = network
        self._autocast_dtype = autocast_dtype
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (IMAGE_MEAN, IMAGE_STD))
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_std", std, persistent=False)

    def forward(
        self,
        pixels: torch.Tensor,
        sizes_hw: list[tuple[int, int]],
        targets: list[dict[str, torch.Tensor]],
    ) -> dict[str, torch.Tensor]:
        """Computes the losses of one batch.

        Args:
            pixels: float32 `[B, 3, H, W]`, 0..255.
            sizes_hw: Of each picture within `pixels`.
            targets: As in `Batch`.

        Returns:
            `loss_objectness`, `loss_rpn_box_reg`, `loss_classifier`, `loss_box_reg`.
        """
        normalised = (pixels - self._mean) / self._std
        inputs = normalised.contiguous(memory_format=torch.channels_last)
        with torch.autocast(
            inputs.device.type,
            dtype=self._autocast_dtype,
            enabled=self._autocast_dtype is not None,
        ):
            features = self.network.backbone(inputs)
        features = {level: values.float() for level, values in features.items()}
        images = ImageList(inputs, sizes_hw)
        proposals, rpn_losses = self.network.rpn(images, features, targets)
        _, roi_losses = self.network.roi_heads(features, proposals, sizes_hw, targets)
        return {**rpn_losses, **roi_losses}
