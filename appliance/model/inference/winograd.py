"""3 x 3 convolutions with a quarter of the multiplications: Winograd's F(4 x 4, 3 x 3), in plain torch.

    pixels -> 6 x 6 tiles, transformed -> 36 matrix products -> transformed back -> pixels

Each tile of 4 x 4 outputs costs 36 multiplications per pair of channels instead of 144. Both transforms
are sums of a few pixels with fixed weights, along columns and then along rows, so each is two embedding lookups
with weights, as in `roi_align`: vectorised over channels, on all cores, with no copy of the overlapping tiles;
borders are pixels left out of a sum. The products are one convolution of 36 groups. Long pictures go through in
strips, so that what lies between the steps stays small.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (arXiv 1509.09308), section 4.3.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from appliance.model.inference.laid_out_weights import Geometry, LaidOutWeights

TILE = 4
"""Outputs along each side of a tile; it reads two pixels more."""
TAPS = TILE + 2
STRIP_BYTES = 8 * 2**20
"""How large a transformed strip may get: within it, the caches of a processor still help."""
_LEAST = {"AVX2": (64, 12), "AVX512": (96, 24)}
LEAST_CHANNELS, LEAST_TILES = _LEAST.get(torch.backends.cpu.get_cpu_capability(), (96, 24))
"""With fewer channels the transforms cost more than the multiplications saved; with fewer tiles, reading 36 instead
of 9 weights per pair of channels does. Both come later where multiplying directly is faster."""

# Interpolation at 0, 1, -1, 2, -2 and infinity.
_OF_PIXELS = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_OF_WEIGHTS = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OF_OUTPUTS = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
_ALL_ONES = 1 * TAPS + 1
"""The product that every output of a tile contains exactly once: where the bias is added."""


def can_transform(convolution: nn.Conv2d) -> bool:
    """Whether this convolution has the form and the channels, and this processor the instructions, for it."""
    return (
        convolution.kernel_size == (3, 3)
        and convolution.stride == (1, 1)
        and convolution.padding == (1, 1)
        and convolution.dilation == (1, 1)
        and convolution.groups == 1
        and min(convolution.in_channels, convolution.out_channels) >= LEAST_CHANNELS
        # Elsewhere torch's embedding lookup is not vectorised.
        and torch.backends.cpu.get_cpu_capability() in _LEAST
        # Whole vectors, whatever their length: oneDNN's code for groups of other sizes is slow.
        and convolution.in_channels % 16 == convolution.out_channels % 16 == 0
    )


class WinogradConvolution:
    """A zero-padded 3 x 3 convolution of stride 1, for inference on a CPU.

    Equal to the direct one within float32 rounding: about 1e-5 of the largest output.

    Args:
        weight: float32 `[O, C, 3, 3]`.
        bias: float32 `[O]` or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        transform = torch.tensor(_OF_WEIGHTS, dtype=torch.float64)
        both = torch.kron(transform, transform)
        self._outputs, channels = weight.shape[:2]
        transformed = (both @ weight.detach().double().reshape(-1, 9).T).float()
        kernels = transformed.reshape(TAPS**2 * self._outputs, channels, 1, 1)
        self._geometry = Geometry([0, 0], [1, 1], [1, 1], groups=TAPS**2)
        self._weights = LaidOutWeights(kernels, self._geometry)
        self._bias = None
        if bias is not None:
            self._bias = torch.zeros(TAPS**2, self._outputs)
            self._bias[_ALL_ONES] = bias.detach()
            self._bias = self._bias.flatten()

    @staticmethod
    def pays(values: torch.Tensor) -> bool:
        """Whether inputs `[B, C, h, w]` are large enough for this to be the faster way."""
        batch, _, height, width = values.shape
        return batch * _tiles(height) * _tiles(width) >= LEAST_TILES

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """float32 `[B, O, h, w]` from float32 `[B, C, h, w]`, both channels last in memory."""
        batch, channels, height, width = values.shape
        widest = max(channels, self._outputs)
        rows = values.permute(0, 2, 3, 1).contiguous()
        row_bytes = TAPS**2 * _tiles(width) * widest * values.element_size()
        tile_rows = max(1, STRIP_BYTES // row_bytes)
        at_once = max(1, tile_rows // _tiles(height))
        step = tile_rows * TILE
        strips = []
        for first in range(0, batch, at_once):
            for top in range(0, height, step):
                # One row more on each side, as far as there is one.
                strip = rows[first : first + at_once, max(0, top - 1) : top + step + 1]
                outputs = min(step, height - top)
                strips.append(self._strip(strip, at_top=top == 0, outputs=outputs))
        joined = strips[0] if len(strips) == 1 else torch.cat(strips)
        return joined.view(batch, height, width, -1).permute(0, 3, 1, 2)

    def _strip(self, rows: torch.Tensor, *, at_top: bool, outputs: int) -> torch.Tensor:
        """float32 `[n * outputs * w, O]` from rows `[n, h, w, C]` of pictures."""
        count, height, width, channels = rows.shape
        sums = _strip_sums(count, height, width, outputs, at_top)
        tiles = sums.across(sums.down(rows.reshape(-1, channels)))
        products = self._multiply(tiles.view(-1, TAPS**2 * channels))
        return sums.back_across(sums.back_down(products.view(-1, self._outputs)))

    def _multiply(self, tiles: torch.Tensor) -> torch.Tensor:
        """float32 `[T, 36 * O]` from `[T, 36 * C]`: for each frequency the product with its weights."""
        values = tiles[None, None].permute(0, 3, 1, 2)
        products = torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001 - as torch's compiler does
            values,
            self._weights.laid_out_for(values),
            self._bias,
            *self._geometry,
            "none",
            [],
            "",
        )
        return torch.as_tensor(products).permute(0, 2, 3, 1)


class _WeightedSums(NamedTuple):
    """Sums of weighted rows of a table: the rows of each sum, where each sum begins, and the weights."""

    rows: torch.Tensor
    starts: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor, weights: torch.Tensor) -> _WeightedSums:
        """From int64 and float64 `[..., n]`, n rows for each sum; weight 0 leaves one out."""
        rows, weights = torch.broadcast_tensors(rows, weights)
        used = weights != 0
        starts = torch.zeros(used[..., 0].numel() + 1, dtype=torch.int32)
        starts[1:] = used.flatten(0, -2).sum(-1).cumsum(0)
        return cls(rows[used].int(), starts, weights[used].float())

    def __call__(self, table: torch.Tensor) -> torch.Tensor:
        """float32 `[sums, C]` from `[rows, C]`."""
        result: torch.Tensor = F.embedding_bag(
            self.rows,
            table,
            self.starts,
            mode="sum",
            per_sample_weights=self.weights,
            include_last_offset=True,
        )
        return result


class _StripSums(NamedTuple):
    """From pixels to tiles transformed along columns, then along rows, and from products to outputs likewise."""

    down: _WeightedSums
    across: _WeightedSums
    back_down: _WeightedSums
    back_across: _WeightedSums


@lru_cache(maxsize=64)
def _strip_sums(count: int, height: int, width: int, outputs: int, at_top: bool) -> _StripSums:
    """What to sum for a strip: `count` pictures of `height` input rows, for `outputs` rows of each.

    Kept for the shapes used last, about 5 KB a tile.
    """
    tile_rows, tile_columns = _tiles(outputs), _tiles(width)
    taps = torch.arange(TAPS)
    pictures = torch.arange(count)
    of_pixels = torch.tensor(_OF_PIXELS, dtype=torch.float64)
    of_outputs = torch.tensor(_OF_OUTPUTS, dtype=torch.float64)

    # [frequency, picture, tile row, x, tap]
    y = torch.arange(tile_rows)[:, None, None] * TILE + taps - int(at_top)
    inside = (y >= 0) & (y < height)
    x = torch.arange(width)[:, None]
    rows = (pictures[:, None, None, None] * height + y.clamp(0, height - 1)) * width + x
    down = _WeightedSums.of(rows, of_pixels[:, None, None, None] * inside)

    # [picture, tile row, tile column, frequency as before, frequency, tap]: those of a tile beside each other
    x = torch.arange(tile_columns)[:, None] * TILE + taps - 1
    inside = ((x >= 0) & (x < width))[:, None, None]
    lines = torch.arange(TAPS * count * tile_rows).view(TAPS, count, tile_rows).permute(1, 2, 0)
    rows = lines[:, :, None, :, None, None] * width + x.clamp(0, width - 1)[:, None, None]
    across = _WeightedSums.of(rows, of_pixels * inside)

    # [picture, y, tile column, frequency along x, frequency along y]
    y, columns = torch.arange(outputs), torch.arange(tile_columns)
    tiles = (pictures[:, None] * tile_rows + y // TILE)[..., None] * tile_columns + columns
    rows = tiles[..., None, None] * TAPS**2 + taps[:, None] + taps * TAPS
    back_down = _WeightedSums.of(rows, of_outputs[y % TILE][:, None, None])

    # [picture, y, x, frequency along x]
    x = torch.arange(width)
    lines = torch.arange(count * outputs).view(count, outputs, 1)
    rows = (lines * tile_columns + x // TILE)[..., None] * TAPS + taps
    back_across = _WeightedSums.of(rows, of_outputs[x % TILE])
    return _StripSums(down, across, back_down, back_across)


def _tiles(pixels: int) -> int:
    return -(-pixels // TILE)
