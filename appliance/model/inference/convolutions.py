"""Fewer passes over memory: BatchNorm folded into convolutions, activations and additions fused with them.

Folding works anywhere. Fused convolutions are oneDNN's on a CPU and cuDNN's on a GPU; neither needs tracing, so
any input shape runs at once. Where torch lacks their operators the network stays as it is, only slower.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from appliance.model.inference.cudnn import CudnnConv2d
from appliance.model.inference.onednn import OneDnnConv2d


class NormedConvolution(NamedTuple):
    """A convolution with the BatchNorm that follows it, both children of `parent`."""

    parent: nn.Module
    convolution_name: str
    convolution: nn.Conv2d
    norm_name: str
    norm: _BatchNorm


def normed_convolutions(module: nn.Module) -> Iterator[NormedConvolution]:
    """Every convolution that a BatchNorm follows."""
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if _is_batch_norm(child) and previous and isinstance(previous[1], nn.Conv2d):
            # A frozen BatchNorm has the same statistics and factors under the same names.
            norm = cast("_BatchNorm", child)
            yield NormedConvolution(module, previous[0], previous[1], name, norm)
        else:
            yield from normed_convolutions(child)
        previous = (name, child)


def fold_batch_norms(module: nn.Module) -> None:
    """Folds every BatchNorm that follows a convolution into it, in place. For eval mode only."""
    for found in list(normed_convolutions(module)):
        folded = fuse_conv_bn_eval(found.convolution, found.norm)
        # In Sequential too, a child is replaced by setting the attribute of its name.
        setattr(found.parent, found.convolution_name, folded)
        setattr(found.parent, found.norm_name, nn.Identity())


def can_fuse(device: torch.device) -> bool:
    """Whether this torch has the fused operators for this kind of device."""
    return _fused_type(device).is_available()


def _fused_type(device: torch.device) -> type[CudnnConv2d | OneDnnConv2d]:
    return CudnnConv2d if device.type == "cuda" else OneDnnConv2d


def fuse_convolutions(module: nn.Module, device: torch.device) -> None:
    """Replaces convolutions by fused ones, in place. After folding; for inference only."""
    fused_type = _fused_type(device)
    children = [(n, c) for n, c in module.named_children() if not isinstance(c, nn.Identity)]
    for position, (name, child) in enumerate(children):
        if isinstance(child, nn.Conv2d):
            following = children[position + 1 : position + 2]
            fused = fused_type(child)
            if following and isinstance(module, nn.Sequential | IntermediateLayerGetter):
                # Here, and only here, what stands next is also what runs next.
                after_name, after = following[0]
                if fused.take_over(after):
                    setattr(module, after_name, nn.Identity())
            setattr(module, name, fused)
        elif isinstance(child, BasicBlock | Bottleneck):
            setattr(module, name, _FusedResidual(child, fused_type))
        else:
            fuse_convolutions(child, device)


class _FusedResidual(nn.Module):
    """A block of a ResNet whose last convolution adds the shortcut and applies ReLU itself."""

    def __init__(
        self, block: BasicBlock | Bottleneck, fused_type: type[CudnnConv2d | OneDnnConv2d]
    ) -> None:
        super().__init__()
        names = [name for name in ("conv1", "conv2", "conv3") if hasattr(block, name)]
        convolutions = [fused_type(getattr(block, name)) for name in names]
        for convolution in convolutions:
            convolution.take_over(block.relu)
        self.convolutions = nn.ModuleList(convolutions)
        self.shortcut = None if block.downsample is None else fused_type(block.downsample[0])
        last = convolutions[-1]
        if isinstance(self.shortcut, CudnnConv2d) and isinstance(last, CudnnConv2d):
            self.shortcut.move_bias_to(last)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        shortcut = values if self.shortcut is None else self.shortcut(values)
        for convolution in self.convolutions[:-1]:
            values = convolution(values)
        return torch.as_tensor(self.convolutions[-1](values, shortcut))


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)
