"""Weights of a convolution in the order that oneDNN wants for an input."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn


class Geometry(NamedTuple):
    """How a convolution walks over its input, as oneDNN's operators take it."""

    padding: list[int]
    stride: list[int]
    dilation: list[int]
    groups: int

    @classmethod
    def of(cls, convolution: nn.Conv2d) -> Geometry:
        """That of a module padded with zeros."""
        padding = [int(side) for side in convolution.padding]
        return cls(
            padding, list(convolution.stride), list(convolution.dilation), convolution.groups
        )


class LaidOutWeights:
    """The weights of a convolution in the orders that oneDNN wants for the inputs seen so far.

    Which order is fast depends on the input's size and on the number of threads: in the order of another one,
    oneDNN falls back to code that is up to 20 times slower. The order follows from these alone, so that equal
    inputs have equal answers whatever came before. There are a few orders at most, and each is kept once. Safe
    for threads that compute side by side: at worst two find out the same.

    Args:
        weight: float32 `[O, C / groups, h, w]`.
        geometry: Padding, stride, dilation, groups.
    """

    def __init__(self, weight: torch.Tensor, geometry: Geometry) -> None:
        self._geometry = geometry
        self._any: torch.Tensor = weight
        self._by_input: dict[tuple[torch.Size, int], torch.Tensor] = {}
        self._by_order: dict[bytes, torch.Tensor] = {}

    def laid_out_for(self, values: torch.Tensor) -> torch.Tensor:
        """The weights for this input."""
        key = values.shape, torch.get_num_threads()
        known = self._by_input.get(key)
        if known is None:
            known = self._by_input[key] = self._lay_out(values.shape)
        return known

    def _lay_out(self, shape: torch.Size) -> torch.Tensor:
        operators = torch.ops.mkldnn
        with torch.inference_mode(False), torch.no_grad():
            kept = self._any
            plain = kept.to_dense() if kept.is_mkldnn else kept.clone()
            laid_out = operators._reorder_convolution_weight(  # noqa: SLF001 - as the compiler does
                plain, *self._geometry, list(shape)
            )
            order = operators._get_mkldnn_serialized_md(laid_out)  # noqa: SLF001
            # From here on any order will do to make another from: the plain one need not be kept.
            laid_out = self._by_order.setdefault(bytes(order.numpy()), laid_out)
            self._any = laid_out
        return laid_out
