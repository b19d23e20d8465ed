"""Strokes that the sample scenes are painted with: masks, shaded fills, textures.

A `Canvas` is a transparent RGBA picture with coordinates from 0 to 1; everything it draws is lit from one
side, so that objects look round. Nothing here knows what is drawn.
"""

from __future__ import annotations

import colorsys
import functools
import random
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]
Factors = npt.NDArray[np.float32]
Shading = Literal["flat", "cylinder", "sphere"]

WHITE: Colour = (246, 246, 242)
DARK: Colour = (42, 40, 40)

_SPHERE_GRID_PX = 40
_TWICE = [min(value * 2 - 1, 255) for value in range(1, 257)]


def vary(rng: random.Random, colour: Colour, amount: float = 1.0) -> Colour:
    """`colour` with its hue, saturation and brightness shifted a little."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))
    hue = (hue + rng.uniform(-0.018, 0.018) * amount) % 1
    saturation = min(max(saturation * (1 + rng.uniform(-0.2, 0.15) * amount), 0), 1)
    value = min(max(value * (1 + rng.uniform(-0.16, 0.12) * amount), 0), 1)
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` blended with `share` (0..1) of `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


@functools.lru_cache(maxsize=1024)
def _flat(height_px: int) -> Factors:
    """Paper: slightly darker towards the bottom."""
    return np.linspace(1.05, 0.9, height_px, dtype=np.float32)[:, None]


@functools.lru_cache(maxsize=1024)
def _cylinder(width_px: int) -> Factors:
    """A standing cylinder lit from the upper left, in front of a dark room."""
    across = np.linspace(-1, 1, width_px, dtype=np.float32)[None, :]
    depth = np.sqrt(np.maximum(1 - (across * 0.97) ** 2, 0))
    light = 0.42 + 0.72 * np.maximum(depth * 0.84 - across * 0.5, 0)
    return np.asarray(light + 0.45 * np.exp(-(((across + 0.52) / 0.09) ** 2)), np.float32)


@functools.cache
def _sphere() -> Factors:
    """A ball lit from the upper left."""
    across = np.linspace(-1, 1, _SPHERE_GRID_PX, dtype=np.float32)[None, :]
    down = np.linspace(-1, 1, _SPHERE_GRID_PX, dtype=np.float32)[:, None]
    depth = np.sqrt(np.maximum(1 - across**2 - down**2, 0))
    light = 0.4 + 0.75 * np.maximum(depth * 0.72 - across * 0.42 - down * 0.55, 0)
    spot = np.exp(-((across + 0.4) ** 2 + (down + 0.45) ** 2) / 0.03)
    return np.asarray(light + 0.35 * spot, np.float32)


def shaded(colour: Colour, size_wh: tuple[int, int], shading: Shading) -> Image.Image:
    """An RGB picture of one colour in the light of `shading`; highlights run over into white."""
    width, height = size_wh
    if shading == "flat":
        factors = _flat(height)
    else:
        factors = _cylinder(width) if shading == "cylinder" else _sphere()
    lit = np.minimum(factors, 1.12)[..., None] * np.array(colour, np.float32)
    lit += (np.maximum(factors - 1.05, 0) * 300)[..., None]
    small = Image.fromarray(np.minimum(lit, 255).astype(np.uint8))
    return small.resize(size_wh, Image.Resampling.BILINEAR)


def noise_picture(
    rng: random.Random, size_wh: tuple[int, int], grains_wh: tuple[int, int], strength: float
) -> Image.Image:
    """Grey (mode L) around 128 with blotches; few grains across make wide blotches."""
    generator = np.random.default_rng(rng.getrandbits(32))
    grains = generator.normal(128, strength, (grains_wh[1], grains_wh[0]))
    small = Image.fromarray(np.clip(grains, 0, 255).astype(np.uint8))
    return small.resize(size_wh, Image.Resampling.BILINEAR)


def roughened(image: Image.Image, noise: Image.Image) -> Image.Image:
    """An RGB picture multiplied by a grey one of its size: 128 changes nothing, 255 is the brightest."""
    bright = noise.point(_TWICE)
    return ImageChops.multiply(image, Image.merge("RGB", (bright, bright, bright)))


@functools.cache
def font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    return ImageFont.load_default(size_px)


class Canvas:
    """A transparent picture to paint one object on.

    Args:
        height_px: Its height.
        aspect: Width divided by height.
    """

    def __init__(self, height_px: int, aspect: float) -> None:
        self.size_wh = max(round(height_px * aspect), 4), max(height_px, 4)
        self.image = Image.new("RGBA", self.size_wh)

    def polygon(self, points: Sequence[Point]) -> Image.Image:
        """Mask of a polygon."""
        mask, draw = self._mask()
        draw.polygon([self._px(point) for point in points], fill=255)
        return mask

    def ellipse(self, box: Box) -> Image.Image:
        """Mask of an ellipse."""
        mask, draw = self._mask()
        draw.ellipse(self._px_box(box), fill=255)
        return mask

    def rounded(self, box: Box, radius: float) -> Image.Image:
        """Mask of a rectangle with round corners; `radius` is a share of the canvas height."""
        mask, draw = self._mask()
        draw.rounded_rectangle(self._px_box(box), radius * self.size_wh[1], fill=255)
        return mask

    def lines(self, lines: Sequence[tuple[Point, Point]], width: float) -> Image.Image:
        """Mask of strokes; `width` is a share of the canvas height."""
        mask, draw = self._mask()
        for start, end in lines:
            draw.line([self._px(start), self._px(end)], 255, max(round(width * self.size_wh[1]), 1))
        return mask

    def dots(self, centres: Sequence[Point], radius: float) -> Image.Image:
        """Mask of round spots; `radius` is a share of the canvas height."""
        mask, draw = self._mask()
        radius_px = max(radius * self.size_wh[1], 0.6)
        for x, y in (self._px(centre) for centre in centres):
            draw.ellipse((x - radius_px, y - radius_px, x + radius_px, y + radius_px), fill=255)
        return mask

    def turned(self, outline: Sequence[tuple[float, float]]) -> Image.Image:
        """Mask of a body turned on a lathe.

        Args:
            outline: (y, half width) from top to bottom, joined by a smooth curve.
        """
        knots_y, knots_half = np.array(outline, np.float64).T
        slopes = np.diff(knots_half) / np.diff(knots_y)
        before, after = slopes[:-1], slopes[1:]
        # Harmonic mean where the outline keeps its direction, flat at its bulges: no overshoot.
        rising = before * after > 0
        inner = np.where(rising, 2 * before * after / np.where(rising, before + after, 1), 0)
        tangents = np.concatenate([slopes[:1], inner, slopes[-1:]])
        y = np.linspace(knots_y[0], knots_y[-1], 48)
        index = np.clip(np.searchsorted(knots_y, y, "right") - 1, 0, len(slopes) - 1)
        span = np.diff(knots_y)[index]
        t = (y - knots_y[index]) / span
        half = (
            (1 + 2 * t) * (1 - t) ** 2 * knots_half[index]
            + t * (1 - t) ** 2 * span * tangents[index]
            + t * t * (3 - 2 * t) * knots_half[index + 1]
            + t * t * (t - 1) * span * tangents[index + 1]
        )
        left = list(zip((0.5 - half).tolist(), y.tolist(), strict=True))
        return self.polygon(left + [(1 - x, y) for x, y in reversed(left)])

    def text(self, text: str, centre: Point, height: float) -> Image.Image:
        """Mask of a word; `height` is a share of the canvas height."""
        mask, draw = self._mask()
        draw.text(
            self._px(centre), text, 255, font(max(round(height * self.size_wh[1]), 6)), anchor="mm"
        )
        return mask

    def paint(
        self,
        mask: Image.Image,
        colour: Colour,
        shading: Shading = "flat",
        *,
        opacity: float = 1.0,
        inside: Image.Image | None = None,
    ) -> None:
        """Fills `mask` with a lit colour, at most where `inside` is set."""
        if inside is not None:
            mask = ImageChops.multiply(mask, inside)
        box = mask.getbbox()
        if box is None:
            return
        alpha = mask.crop(box)
        layer = shaded(colour, alpha.size, shading)
        if opacity < 1:
            alpha = ImageChops.multiply(alpha, Image.new("L", alpha.size, round(opacity * 255)))
        layer.putalpha(alpha)
        self.image.alpha_composite(layer, box[:2])

    def texture(self, noise: Image.Image, inside: Image.Image) -> None:
        """Multiplies the colours inside a mask by a noise picture around 128."""
        red, green, blue, alpha = self.image.split()
        rgb = Image.merge("RGB", (red, green, blue))
        rough = roughened(rgb, noise)
        rgb.paste(rough, mask=inside)
        self.image = rgb
        self.image.putalpha(alpha)

    def _mask(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        mask = Image.new("L", self.size_wh)
        return mask, ImageDraw.Draw(mask)

    def _px(self, point: Point) -> Point:
        return point[0] * (self.size_wh[0] - 1), point[1] * (self.size_wh[1] - 1)

    def _px_box(self, box: Box) -> Box:
        return *self._px(box[:2]), *self._px(box[2:])
