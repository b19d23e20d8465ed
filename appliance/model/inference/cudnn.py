"""A convolution on a GPU with what follows it, as one operation of cuDNN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class CudnnConv2d(nn.Module):
    """A convolution with ReLU, and optionally the addition before it, as one operation of cuDNN.

    torch's own convolution adds the bias in a second pass over its result.

    Args:
        convolution: Zero-padded, on a GPU; its weights are shared.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self._has_relu = False
        self._weight = convolution.weight.detach()
        self._bias = None if convolution.bias is None else convolution.bias.detach()
        self._stride, self._padding = (
            list(convolution.stride),
            [int(side) for side in convolution.padding],
        )
        self._dilation, self._groups = list(convolution.dilation), convolution.groups
        # A product of matrices adds the bias by itself; it wants rows of whole 16 bytes.
        plain = (convolution.kernel_size, convolution.stride) == ((1, 1), (1, 1))
        aligned = convolution.in_channels % 8 == 0 and convolution.out_channels % 8 == 0
        self._is_product = plain and aligned and convolution.groups == 1

    @staticmethod
    def is_available() -> bool:
        """Whether this torch has the fused operators."""
        return torch.backends.cudnn.is_available() and hasattr(torch, "cudnn_convolution_add_relu")

    def take_over(self, activation: nn.Module) -> bool:
        """Does the work of the activation that follows too, if it is ReLU; answers whether it does."""
        self._has_relu = type(activation) is nn.ReLU
        return self._has_relu

    def move_bias_to(self, other: CudnnConv2d) -> None:
        """Lets another convolution, to whose result this one's is added, add this one's bias too."""
        if self._bias is not None:
            other._bias = self._bias if other._bias is None else self._bias + other._bias
        self._bias = None

    def forward(self, values: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """ReLU, where it is taken over, of `convolution(values) + added`, `[B, C, h, w]`."""
        geometry = (self._stride, self._padding, self._dilation, self._groups)
        if self._has_relu:
            shared = (self._bias, *geometry)
            if added is None:
                return torch.cudnn_convolution_relu(values, self._weight, *shared)
            return torch.cudnn_convolution_add_relu(values, self._weight, added, 1.0, *shared)
        if self._is_product and values.is_contiguous(memory_format=torch.channels_last):
            rows = F.linear(values.permute(0, 2, 3, 1), self._weight.flatten(1), self._bias)
            result = rows.permute(0, 3, 1, 2)
        else:
            result = F.conv2d(values, self._weight, self._bias, *geometry)
        return result if added is None else result.add_(added)
