"""Fewer passes over memory: BatchNorm folded into convolutions, activations and additions fused with them.

Folding works anywhere. Fusing calls oneDNN's convolution with post-operations through the operators that
torch's own compiler emits for CPUs, with the weights laid out for them once; it needs no tracing, so any
input shape runs at once. Where torch lacks those operators the network stays as it is, only slower. Large
3 x 3 convolutions take Winograd's way instead (see `winograd`).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from appliance.model.inference.winograd import WinogradConvolution, can_transform

_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
}


def fold_batch_norms(module: nn.Module) -> None:
    """Folds every BatchNorm that follows a convolution into it, in place. For eval mode only."""
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if _is_batch_norm(child) and previous and isinstance(previous[1], nn.Conv2d):
            # A frozen BatchNorm has the same statistics and factors under the same names.
            folded = fuse_conv_bn_eval(previous[1], cast("_BatchNorm", child))
            # In Sequential too, a child is replaced by setting the attribute of its name.
            setattr(module, previous[0], folded)
            setattr(module, name, nn.Identity())
        else:
            fold_batch_norms(child)
        previous = (name, child)


def can_fuse() -> bool:
    """Whether this torch has the fused operators."""
    operators = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and hasattr(operators, "_convolution_pointwise")


def fuse_convolutions(module: nn.Module) -> None:
    """Replaces convolutions by fused ones, in place. On a CPU, after folding; for inference only."""
    children = [(n, c) for n, c in module.named_children() if not isinstance(c, nn.Identity)]
    for position, (name, child) in enumerate(children):
        if isinstance(child, nn.Conv2d):
            following = children[position + 1 : position + 2]
            fused = FusedConv2d(child)
            if following and isinstance(module, nn.Sequential | IntermediateLayerGetter):
                # Here, and only here, what stands next is also what runs next.
                after_name, after = following[0]
                if type(after) in _ACTIVATIONS:
                    fused.activation, fused.limits = _ACTIVATIONS[type(after)]
                    setattr(module, after_name, nn.Identity())
            setattr(module, name, fused)
        elif isinstance(child, BasicBlock | Bottleneck):
            setattr(module, name, _FusedResidual(child))
        else:
            fuse_convolutions(child)


class FusedConv2d(nn.Module):
    """A convolution with its activation, and optionally the addition before it, as one operation.

    Args:
        convolution: Zero-padded. Its weights are shared until the first call, whose input decides how
            they are laid out from then on: for equal answers of equal models, make it a fixed one.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.activation = "none"
        self.limits: list[float] = []
        self._bias = None if convolution.bias is None else convolution.bias.detach()
        geometry = (convolution.padding, convolution.stride, convolution.dilation)
        self._geometry = (*(list(values) for values in geometry), convolution.groups)
        self._weight = convolution.weight.detach()
        self._winograd = (
            WinogradConvolution(convolution.weight, convolution.bias)
            if can_transform(convolution)
            else None
        )

    def forward(self, values: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """`activation(convolution(values) + added)`, `[B, C, h, w]`."""
        # Laid out for one size, 1 x 1 kernels are up to 20 times slower at some others; as they are, they
        # lose a few hundredths at most.
        if max(self._weight.shape[-2:]) > 1 and not self._weight.is_mkldnn:
            self._lay_out_weights(values)
        if self._winograd is not None and self._winograd.pays(values):
            result = self._winograd(values)
            return self._activate_in_place(result if added is None else result.add_(added))
        operation = torch.ops.mkldnn._convolution_pointwise  # noqa: SLF001 - as the compiler does
        shared = (self._weight, self._bias, *self._geometry)
        if added is None:
            result = operation(values, *shared, self.activation, self.limits, "")
        else:
            result = operation.binary(
                values, added, *shared, "add", 1.0, self.activation, self.limits, ""
            )
        return torch.as_tensor(result)

    def _activate_in_place(self, values: torch.Tensor) -> torch.Tensor:
        if self.activation == "relu":
            return values.relu_()
        if self.activation == "hardtanh":
            return F.hardtanh_(values, *self.limits)
        return F.hardswish(values, inplace=True) if self.activation == "hardswish" else values

    def _lay_out_weights(self, values: torch.Tensor) -> None:
        lay_out = torch.ops.mkldnn._reorder_convolution_weight  # noqa: SLF001 - as above
        with torch.inference_mode(False), torch.no_grad():
            self._weight = lay_out(self._weight.clone(), *self._geometry, list(values.shape))


class _FusedResidual(nn.Module):
    """A block of a ResNet whose last convolution adds the shortcut and applies ReLU itself."""

    def __init__(self, block: BasicBlock | Bottleneck) -> None:
        super().__init__()
        names = [name for name in ("conv1", "conv2", "conv3") if hasattr(block, name)]
        convolutions = [FusedConv2d(getattr(block, name)) for name in names]
        for convolution in convolutions:
            convolution.activation = "relu"
        self.convolutions = nn.ModuleList(convolutions)
        self.shortcut = None if block.downsample is None else FusedConv2d(block.downsample[0])

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        shortcut = values if self.shortcut is None else self.shortcut(values)
        for convolution in self.convolutions[:-1]:
            values = convolution(values)
        return torch.as_tensor(self.convolutions[-1](values, shortcut))


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)
