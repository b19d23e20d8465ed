"""Winograd's convolutions against torch's direct ones in double precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from appliance.model.inference import winograd
from appliance.model.inference.onednn import OneDnnConv2d
from appliance.model.inference.winograd import (
    LEAST_CHANNELS,
    LEAST_TILES,
    STRIP_BYTES,
    TAPS,
    TILE,
    WinogradConvolution,
    can_transform,
)


def convolution(channels: int, outputs: int, *, bias: bool = True, seed: int = 0) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(channels, outputs, 3, padding=1, bias=bias).requires_grad_(False)


def pixels(batch: int, channels: int, height: int, width: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, channels, height, width, generator=generator)
    return values.contiguous(memory_format=torch.channels_last)


def assert_equal_to_direct(result: torch.Tensor, direct: nn.Conv2d, values: torch.Tensor) -> None:
    expected = direct.double()(values.double())
    error = (result - expected).abs().max() / expected.abs().max()
    assert error < 3e-5
    assert result.is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 5),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from((3, 16, 33)),
    bias=st.booleans(),
)
def test_any_shape_gives_what_the_direct_convolution_gives(
    batch: int, height: int, width: int, channels: int, bias: bool
) -> None:
    direct = convolution(channels, 24, bias=bias)
    values = pixels(batch, channels, height, width)
    result = WinogradConvolution(direct.weight, direct.bias)(values)
    assert result.shape == (batch, 24, height, width)
    assert_equal_to_direct(result, direct, values)


@pytest.mark.parametrize("height", [61, 64, 66])
@pytest.mark.parametrize("rows_a_strip", [1, 5])
def test_a_long_picture_in_strips_is_as_whole(
    monkeypatch: pytest.MonkeyPatch, height: int, rows_a_strip: int
) -> None:
    direct = convolution(8, 8)
    values = pixels(2, 8, height, 20)
    row_bytes = TAPS**2 * (20 // TILE) * 8 * 4
    monkeypatch.setattr(winograd, "STRIP_BYTES", rows_a_strip * row_bytes)
    result = WinogradConvolution(direct.weight, direct.bias)(values)
    monkeypatch.setattr(winograd, "STRIP_BYTES", STRIP_BYTES)
    whole = WinogradConvolution(direct.weight, direct.bias)(values)
    torch.testing.assert_close(result, whole)
    assert_equal_to_direct(result, direct, values)


@pytest.mark.parametrize("module", [nn.Identity(), nn.ReLU(), nn.ReLU6(), nn.Hardswish()])
@pytest.mark.parametrize("side", [4, 24])
def test_what_follows_is_as_after_the_direct_convolution(module: nn.Module, side: int) -> None:
    direct = convolution(LEAST_CHANNELS, LEAST_CHANNELS)
    fused = OneDnnConv2d(direct)
    assert fused.take_over(module) != isinstance(module, nn.Identity)
    values = pixels(1, LEAST_CHANNELS, side, side)
    added = 5 * pixels(*values.shape, seed=2)
    before = values.clone(), added.clone()
    with torch.inference_mode():
        result = fused(values)
        torch.testing.assert_close(result, module(direct(values)), rtol=1e-4, atol=1e-4)
        if isinstance(module, nn.ReLU):  # the only one that residual blocks need
            result = fused(values, added)
            torch.testing.assert_close(result, module(direct(values) + added), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((values, added), before, rtol=0, atol=0)


def test_only_convolutions_of_its_form_are_transformed() -> None:
    usual = {"in_channels": 96, "out_channels": 96, "kernel_size": 3, "padding": 1}
    others = [
        {"stride": 2},
        {"padding": 0},
        {"dilation": 2},
        {"groups": 96},
        {"kernel_size": 1},
        {"in_channels": LEAST_CHANNELS - 1},
        {"out_channels": 3},
        {"out_channels": 100},
    ]
    vectorised = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    assert can_transform(nn.Conv2d(**usual)) == vectorised
    assert not any(can_transform(nn.Conv2d(**usual | other)) for other in others)


def test_small_inputs_take_the_direct_way() -> None:
    tiles = LEAST_TILES // 4
    assert WinogradConvolution.pays(torch.empty(4, 1, TILE, tiles * TILE))
    assert not WinogradConvolution.pays(torch.empty(3, 1, TILE, tiles * TILE))
