"""Convolutions whose weights are laid out for their input, and the pyramid, against torch and torchvision."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from appliance.model.inference.laid_out_weights import Geometry, LaidOutWeights
from appliance.model.inference.onednn import OneDnnConv2d
from appliance.model.inference.pyramid import FastPyramid

SIZES_HW = [(10, 10), (12, 16), (25, 34), (3, 50)]


def pixels(channels: int, size_hw: tuple[int, int], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(1, channels, *size_hw, generator=generator)
    return values.contiguous(memory_format=torch.channels_last)


def kernel(**settings) -> nn.Conv2d:
    torch.manual_seed(0)
    usual = {"in_channels": 512, "out_channels": 512, "kernel_size": 3, "padding": 1, "stride": 2}
    return nn.Conv2d(**usual | settings).requires_grad_(False)


def order_of(weights: torch.Tensor) -> bytes:
    return bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(weights).numpy())


@pytest.mark.parametrize("settings", [{}, {"kernel_size": 1, "padding": 0}, {"groups": 512}])
def test_weights_have_the_order_that_every_input_wants(settings) -> None:
    convolution = kernel(**settings)
    geometry = Geometry.of(convolution)
    weights = LaidOutWeights(convolution.weight, geometry)
    orders = set()
    for size_hw in SIZES_HW * 2:
        values = pixels(512, size_hw)
        wanted = torch.ops.mkldnn._reorder_convolution_weight(
            convolution.weight.clone(), *geometry, list(values.shape)
        )
        laid_out = weights.laid_out_for(values)
        orders.add(order_of(laid_out))
        assert order_of(laid_out) == order_of(wanted)
        assert torch.equal(laid_out.to_dense(), convolution.weight)
        assert weights.laid_out_for(values) is laid_out
    # Each order is kept once, however many inputs want it.
    assert len({id(weights.laid_out_for(pixels(512, size_hw))) for size_hw in SIZES_HW}) == len(
        orders
    )


def test_an_answer_does_not_depend_on_what_came_before() -> None:
    convolution = kernel()
    with torch.inference_mode():
        alone = {size_hw: OneDnnConv2d(convolution)(pixels(512, size_hw)) for size_hw in SIZES_HW}
        used = OneDnnConv2d(convolution)
        for size_hw in (*SIZES_HW, *reversed(SIZES_HW)):
            found = used(pixels(512, size_hw))
            assert torch.equal(found, alone[size_hw])
            expected = convolution.double()(pixels(512, size_hw).double())
            convolution.float()
            torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "sizes_hw",
    [
        ((24, 32), (12, 16), (6, 8)),  # each half of the one before
        ((12, 16), (6, 8), (6, 8)),  # as MobileNet v3 of torchvision has it
        ((23, 31), (12, 16), (5, 8)),  # whatever else
    ],
)
def test_the_pyramid_is_torchvisions(sizes_hw) -> None:
    torch.manual_seed(0)
    pyramid = FeaturePyramidNetwork([8, 16, 32], 24, extra_blocks=LastLevelMaxPool())
    pyramid = pyramid.to(memory_format=torch.channels_last).requires_grad_(False)
    features = {
        name: pixels(channels, size_hw)
        for name, channels, size_hw in zip("abc", (8, 16, 32), sizes_hw, strict=True)
    }
    before = {name: values.clone() for name, values in features.items()}
    found = FastPyramid(pyramid)(features)
    expected = pyramid(before)
    assert list(found) == list(expected) == ["a", "b", "c", "pool"]
    torch.testing.assert_close(found, dict(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features, before, rtol=0, atol=0)
