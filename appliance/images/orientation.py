"""The one home of EXIF orientation: how a picture must be turned to stand as its taker saw it."""

from __future__ import annotations

import torch
from PIL import ExifTags, Image, TiffImagePlugin

UPRIGHT = 1
_SWAPS_SIDES = (5, 6, 7, 8)
# After swapping the sides where that is due: which axes of `[3, h, w]` are mirrored.
_MIRRORED = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}
_TAG = ExifTags.Base.Orientation


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation 1 to 8 of an opened picture; 1 where it gives none, or one that does not exist.

    Decodes no pixels: a PNG that states it behind its pixels must have been loaded before.
    """
    # Pillow's PNG reader would decode the pixels to look behind them; its base class does not.
    orientation = Image.Image.getexif(image).get(_TAG, UPRIGHT)
    return orientation if orientation in range(1, 9) else UPRIGHT


def stored_hw(image: Image.Image) -> tuple[int, int]:
    """Height and width of an opened picture as its pixels are stored, before any turning."""
    # Of a TIFF, and of no other format, Pillow gives the size that it has when it is shown.
    shown = isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_TAG) in (
        _SWAPS_SIDES
    )
    return (image.width, image.height) if shown else (image.height, image.width)


def upright_hw(stored: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Height and width after turning; four of the eight orientations swap the sides."""
    return stored[::-1] if orientation in _SWAPS_SIDES else stored


def upright(pixels: torch.Tensor, orientation: int) -> torch.Tensor:
    """Pixels `[3, h, w]` turned to stand as their taker saw them."""
    if orientation in _SWAPS_SIDES:
        pixels = pixels.transpose(1, 2)
    return pixels.flip(_MIRRORED[orientation]) if orientation in _MIRRORED else pixels
