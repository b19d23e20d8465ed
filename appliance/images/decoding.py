"""The one way from encoded bytes to pixels.

Every picture the appliance sees, for training, batch, stream or online, passes through `decode_image`:
the header is checked against the limits before a pixel is decoded, EXIF orientation is applied to the
pixels, every colour mode becomes RGB, alpha is composed on white. Pillow does the decoding, or of JPEGs the
GPU when the caller asks for it; pictures are scaled down on the way, with proper filtering, when the caller
says how small they may become.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from appliance.errors import ConfigError, ImageError
from appliance.images.gpu_jpeg import GpuJpegDecoder, averaged
from appliance.images.orientation import orientation_of, stored_hw, upright, upright_hw

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class ImageLimits:
    """What is refused before decoding.

    Attributes:
        max_bytes: Largest encoded size in bytes.
        max_pixels: Largest width x height.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 100_000_000


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """Pixels, and the size that detections refer to.

    Attributes:
        pixels: uint8 RGB `[3, h, w]`; in memory the channels come last, unless a GPU decoded it, where it
            then is. May be smaller than the original when it was scaled while decoding.
        size_hw: Height and width of the ORIGINAL picture with EXIF orientation applied, pixels.
    """

    pixels: torch.Tensor
    size_hw: tuple[int, int]

    @classmethod
    def of(cls, image: object) -> DecodedImage:
        """A picture that somebody else has decoded: RGB as uint8, `[3, h, w]` of torch or `[h, w, 3]` of numpy.

        Raises:
            ConfigError: It is something else.
        """
        pixels = image.pixels if isinstance(image, cls) else image
        if isinstance(pixels, np.ndarray) and pixels.ndim == 3 and pixels.dtype == np.uint8:
            pixels = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
        if (
            not isinstance(pixels, torch.Tensor)
            or pixels.dtype != torch.uint8
            or pixels.dim() != 3
            or pixels.shape[0] != 3
            or not pixels.numel()
        ):
            got = type(pixels).__name__
            if isinstance(pixels, torch.Tensor | np.ndarray):
                got = f"{pixels.dtype} of shape {tuple(pixels.shape)}"
            raise ConfigError(
                "This is no decoded picture",
                got=got,
                expected="RGB as uint8: a tensor [3, height, width] or an array [height, width, 3]",
                hint="Read a file with decode_image, or give its path to FasterRCNN.score",
            )
        if isinstance(image, cls):
            return image
        return cls(pixels, (pixels.shape[1], pixels.shape[2]))


def decode_image(
    data: bytes,
    *,
    source: str,
    limits: ImageLimits = ImageLimits(),
    min_shorter_side_px: int | None = None,
    gpu_jpeg: GpuJpegDecoder | None = None,
) -> DecodedImage:
    """Decodes one picture to RGB.

    Args:
        data: The encoded file.
        source: Name for error messages: a URI, or the name of an upload.
        limits: What to refuse.
        min_shorter_side_px: The picture may be decoded at 1/2, 1/3, 1/4, ... of its size as long as its
            shorter side stays at least so long: JPEGs while they are decoded (DCT scaling), the rest by
            averaging squares of pixels afterwards. None decodes at full size.
        gpu_jpeg: Decodes those JPEGs that it can.

    Raises:
        ImageError: The bytes are empty, too many, no picture, damaged, or of a format not read.
    """
    if not data:
        raise ImageError("The picture is empty", kind="empty", where=source, got="0 bytes")
    if len(data) > limits.max_bytes:
        raise ImageError(
            "The picture is too large",
            kind="too_large",
            where=source,
            got=f"{len(data):,} bytes",
            expected=f"at most {limits.max_bytes:,}",
        )
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; ours is the limit that counts, and it is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_pixels(image, source, limits)
                decoded = None if gpu_jpeg is None else gpu_jpeg(data, image)
                if decoded is not None:
                    return _finish_on_device(decoded, image, min_shorter_side_px)
                return _decode(image, min_shorter_side_px)
    except UnidentifiedImageError:
        raise ImageError(
            "Not a picture",
            kind="unreadable",
            where=source,
            got=f"{len(data):,} bytes beginning {data[:8]!r}",
            expected="JPEG, PNG, WebP, BMP, TIFF or GIF",
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(
            "The picture is too large", kind="too_large", where=source, got=error
        ) from None
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError) as error:
        # What Pillow's decoders raise on damaged files, by their own documentation and by fuzzing.
        raise ImageError(
            "The picture is damaged",
            kind="unreadable",
            where=source,
            got=str(error) or type(error).__name__,
        ) from None


def decoded_bytes(data: bytes, min_shorter_side_px: int | None = None) -> int:
    """About how much memory `decode_image` will need for a picture, by its header; 0 if it is none.

    Args:
        data: The encoded file.
        min_shorter_side_px: As there.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if min_shorter_side_px is not None:
                    image.draft(None, _draft_wh(stored_hw(image), min_shorter_side_px))
                # With the fourth channel that some have until they are RGB.
                return 4 * image.width * image.height
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError):
        return 0  # it is no picture, and `decode_image` will say so
    except Image.DecompressionBombError:
        return 0  # it is refused unread


def _check_pixels(image: Image.Image, source: str, limits: ImageLimits) -> None:
    height, width = stored_hw(image)
    if width * height > limits.max_pixels:
        raise ImageError(
            "The picture is too large",
            kind="too_large",
            where=source,
            got=f"{width}x{height} pixels",
            expected=f"at most {limits.max_pixels:,} pixels",
        )


def _decode(image: Image.Image, min_shorter_side_px: int | None) -> DecodedImage:
    stored = stored_hw(image)
    if image.format == "PNG":
        image.load()  # its orientation may stand behind its pixels
    size_hw = upright_hw(stored, orientation_of(image))
    if min_shorter_side_px is not None:
        # Pillow picks the smallest DCT scale that is still at least this size; no-op except for JPEG.
        image.draft(None, _draft_wh(stored, min_shorter_side_px))
    rgb = _to_rgb(ImageOps.exif_transpose(image))
    if min_shorter_side_px is not None and min(rgb.size) >= 2 * min_shorter_side_px:
        rgb = rgb.reduce(min(rgb.size) // min_shorter_side_px)
    pixels_hwc = torch.from_numpy(np.array(rgb))
    return DecodedImage(pixels_hwc.permute(2, 0, 1), size_hw)


def _draft_wh(stored: tuple[int, int], min_shorter_side_px: int) -> tuple[int, int]:
    """The width and height below which a picture should not be decoded."""
    height, width = stored
    scale = min(1.0, min_shorter_side_px / min(stored))
    return int(np.ceil(width * scale)), int(np.ceil(height * scale))


def _finish_on_device(
    pixels: torch.Tensor, image: Image.Image, min_shorter_side_px: int | None
) -> DecodedImage:
    """What `_decode` does besides decoding, with the same sizes as outcome."""
    stored, orientation = stored_hw(image), orientation_of(image)
    if min_shorter_side_px is not None:
        width, height = _draft_wh(stored, min_shorter_side_px)
        fitting = min(stored[0] // height, stored[1] // width)
        # By Pillow's rule for DCT scales.
        pixels = averaged(pixels, next(scale for scale in (8, 4, 2, 1) if scale <= fitting))
    pixels = upright(pixels, orientation)
    if min_shorter_side_px is not None:
        pixels = averaged(pixels, max(1, min(pixels.shape[1:]) // min_shorter_side_px))
    return DecodedImage(pixels, upright_hw(stored, orientation))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion would clip everything above 255 to white.
        image = Image.fromarray((np.asarray(image, np.uint16) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        # 32-bit greys carry no range of their own; theirs is stretched over 8 bits when it exceeds them.
        grey = np.asarray(image, np.float64)
        grey = np.where(np.isfinite(grey), grey, 0.0)
        grey = grey * (255.0 / max(float(grey.max()), 255.0))
        image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
