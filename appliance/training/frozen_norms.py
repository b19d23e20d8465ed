"""BatchNorms that do not learn their statistics, computed as a part of the convolutions before them.

With fixed statistics, convolution and BatchNorm are one convolution whose weights are scaled channel by channel. That
saves a pass over what the convolution gives, and more in the backward pass; the factors and offsets of the BatchNorms
learn as before.

Source: equations 6 and 7 of arXiv 1806.08342, with fixed statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from appliance.model.inference.convolutions import NormedConvolution, normed_convolutions


class FrozenNorms:
    """The frozen BatchNorms of a network.

    Args:
        network: On its device, with the statistics that stay.
    """

    def __init__(self, network: nn.Module) -> None:
        self._pairs = [_Pair.of(found) for found in normed_convolutions(network)]

    @contextmanager
    def folded(self) -> Iterator[None]:
        """Within it, the network's forward pass takes each pair as one convolution; the modules stay as they are."""
        for pair in self._pairs:
            # On the instances, for the time of a pass: nobody copies or saves them meanwhile.
            pair.convolution.forward = pair.convolve  # type: ignore[method-assign, assignment]
            pair.norm.forward = _as_it_is
        try:
            yield
        finally:
            for pair in self._pairs:
                del pair.convolution.forward, pair.norm.forward


@dataclass(frozen=True, eq=False)
class _Pair:
    convolution: nn.Conv2d
    norm: nn.Module
    factor: torch.Tensor
    offset: torch.Tensor
    inverse_deviation: torch.Tensor
    scaled_mean: torch.Tensor

    @classmethod
    def of(cls, found: NormedConvolution) -> _Pair:
        # Without factors or without statistics it would be none that a detector has.
        values = (
            found.norm.weight,
            found.norm.bias,
            found.norm.running_var,
            found.norm.running_mean,
        )
        factor, offset, variance, mean = (torch.as_tensor(value) for value in values)
        inverse_deviation = (variance.detach() + found.norm.eps).rsqrt()
        scaled_mean = mean.detach() * inverse_deviation
        return cls(found.convolution, found.norm, factor, offset, inverse_deviation, scaled_mean)

    def convolve(self, values: torch.Tensor) -> torch.Tensor:
        convolution, scale = self.convolution, self.factor * self.inverse_deviation
        offset = torch.addcmul(self.offset, self.factor, self.scaled_mean, value=-1)
        if convolution.bias is not None:
            offset = torch.addcmul(offset, convolution.bias, scale)
        return F.conv2d(
            values,
            convolution.weight * scale[:, None, None, None],
            offset,
            convolution.stride,
            convolution.padding,
            convolution.dilation,
            convolution.groups,
        )


def _as_it_is(values: torch.Tensor) -> torch.Tensor:
    return values
