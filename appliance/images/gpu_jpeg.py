"""JPEGs decoded by the GPU, for where the CPU cores cannot decode as fast as the GPU detects.

Behind the extra `gpu-jpeg`: torchcodec, which calls nvJPEG. Only what it decodes as Pillow does comes here; the
rest, and all other formats, go the ordinary way. The values differ by a few levels of 255, since both round
differently, and more at the edges of colours where the file holds fewer of them than of brightness.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from appliance.errors import ConfigError

_END_OF_IMAGE = b"\xff\xd9"
_EXIF, _NOT_EXIF = re.compile(rb"\xff\xe1(?=..Exif\0)", re.DOTALL), b"\xff\xef"
_ADOBE_RGB = 0  # of the tag `adobe_transform`: the file holds RGB itself


class GpuJpegDecoder:
    """Decodes JPEGs on a device; safe to call from many threads.

    Args:
        device: Where to decode, and where the pixels stay. On the CPU, torchcodec's own decoder runs.

    Raises:
        ConfigError: torchcodec is not installed, or does not load.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            from torchcodec.decoders import decode_jpeg  # type: ignore[attr-defined, unused-ignore]
        except (ImportError, RuntimeError, OSError) as error:
            raise ConfigError(
                "Decoding JPEGs on the GPU needs torchcodec",
                got=str(error).strip().partition("\n")[0],
                hint="Install the extra gpu-jpeg: pip install 'detection-appliance[gpu-jpeg]'",
            ) from None
        self.device = device
        self._decode: Callable[..., Any] = decode_jpeg

    @classmethod
    def beside(cls, device: torch.device) -> GpuJpegDecoder:
        """The decoder for a network that computes on that device.

        Raises:
            ConfigError: It is no GPU; or as for `GpuJpegDecoder`.
        """
        if device.type != "cuda":
            raise ConfigError(
                "JPEGs can be decoded on the GPU only where it detects, too",
                got=f"device {device}",
                hint="Leave gpu_jpeg out, or choose a GPU",
            )
        return cls(device)

    def __call__(self, data: bytes, image: Image.Image) -> torch.Tensor | None:
        """Decodes a whole picture as it is stored, not turned.

        Args:
            data: The file.
            image: The same, opened by Pillow, of which nothing but the header has been read.

        Returns:
            uint8 RGB `[3, h, w]` on the device; None where the ordinary way is the right one: another format
            or colour space, a damaged file (so that its error is always told in the same words).
        """
        if not _is_plain(data, image):
            return None
        try:
            # On the CPU it would turn the picture by its EXIF, on a GPU not: whoever calls this does.
            stored = _EXIF.sub(_NOT_EXIF, data)  # the name of another segment
            pixels = self._decode(stored, mode="RGB", device=self.device)
        except RuntimeError:  # whatever is wrong with it, Pillow says it better, or reads it
            return None
        return pixels if tuple(pixels.shape) == (3, image.height, image.width) else None


def averaged(pixels: torch.Tensor, factor: int) -> torch.Tensor:
    """Scaled down by a whole number, each pixel the mean of a square; at the far edges of what is left of one.

    Args:
        pixels: uint8 `[3, h, w]`.
        factor: At least 1.

    Returns:
        uint8 `[3, ceil(h / factor), ceil(w / factor)]`.
    """
    if factor == 1:
        return pixels
    means = F.avg_pool2d(pixels[None].float(), factor, ceil_mode=True)[0]
    return means.add_(0.5).to(torch.uint8)


def _is_plain(data: bytes, image: Image.Image) -> bool:
    """Whether nvJPEG can be trusted with it: grey or YCbCr, and complete, for it fills up what is missing."""
    return (
        image.format == "JPEG"
        and image.mode in ("L", "RGB")
        and image.info.get("adobe_transform") != _ADOBE_RGB
        and data.rstrip(b"\0\r\n").endswith(_END_OF_IMAGE)
    )
