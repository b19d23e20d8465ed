"""A convolution on a CPU with what follows it, as one operation of oneDNN, its weights laid out for the input.

These are the operators that torch's own compiler emits for CPUs. Large 3 x 3 convolutions take Winograd's way
instead (see `winograd`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from appliance.model.inference.laid_out_weights import Geometry, LaidOutWeights
from appliance.model.inference.winograd import WinogradConvolution, can_transform

_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
}


class OneDnnConv2d(nn.Module):
    """A convolution with its activation, and optionally the addition before it, as one operation of oneDNN.

    Args:
        convolution: Zero-padded; its weights are shared.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self._activation = "none"
        self._limits: list[float] = []
        self._bias = None if convolution.bias is None else convolution.bias.detach()
        self._geometry = Geometry.of(convolution)
        self._weights = LaidOutWeights(convolution.weight.detach(), self._geometry)
        self._winograd = (
            WinogradConvolution(convolution.weight, convolution.bias)
            if can_transform(convolution)
            else None
        )

    @staticmethod
    def is_available() -> bool:
        """Whether this torch has the fused operators."""
        operators = torch.ops.mkldnn
        return torch.backends.mkldnn.is_available() and hasattr(operators, "_convolution_pointwise")

    def take_over(self, activation: nn.Module) -> bool:
        """Does the work of the activation that follows too, if it can; answers whether it does."""
        known = type(activation) in _ACTIVATIONS
        if known:
            self._activation, self._limits = _ACTIVATIONS[type(activation)]
        return known

    def forward(self, values: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """`activation(convolution(values) + added)`, `[B, C, h, w]`."""
        if self._winograd is not None and self._winograd.pays(values):
            result = self._winograd(values)
            return self._activate_in_place(result if added is None else result.add_(added))
        operation = torch.ops.mkldnn._convolution_pointwise  # noqa: SLF001 - as the compiler does
        shared = (self._weights.laid_out_for(values), self._bias, *self._geometry)
        if added is None:
            result = operation(values, *shared, self._activation, self._limits, "")
        else:
            result = operation.binary(
                values, added, *shared, "add", 1.0, self._activation, self._limits, ""
            )
        return torch.as_tensor(result)

    def _activate_in_place(self, values: torch.Tensor) -> torch.Tensor:
        if self._activation == "relu":
            return values.relu_()
        if self._activation == "hardtanh":
            return F.hardtanh_(values, *self._limits)
        return F.hardswish(values, inplace=True) if self._activation == "hardswish" else values
