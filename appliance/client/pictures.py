"""What callers give as a picture, and what of it is sent."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from appliance import storage
from appliance.client.access import without_secrets
from appliance.errors import ConfigError, ImageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

MAX_PICTURE_BYTES = 64 * 2**20
DEFAULT_NAME = "upload"
_MAX_NAME_CHARACTERS = 1024
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_PNG_LEVEL = 1  # of zlib: the network is seldom as slow as a harder search


@dataclass(frozen=True)
class Url:
    """A picture that the SERVICE is to fetch, from a host that its operator allows.

    An address given as plain text is fetched by the client itself, and the picture sent.
    """

    url: str


Picture: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | Url | Image.Image | npt.NDArray[np.uint8]"
"""A path or URI, an `http(s)://` address, an encoded file, a `Url`, a picture of Pillow, or RGB pixels as uint8
`[height, width, 3]`."""


@dataclass(frozen=True)
class ReadyPicture:
    """A picture as it is sent.

    Attributes:
        name: Becomes `image_uri` of its record.
        data: The encoded file; empty where the service fetches it.
        url: Where the service is to fetch it.
    """

    name: str
    data: bytes = b""
    url: str | None = None


def is_web_address(picture: object) -> bool:
    """Whether it is text that names a picture of the web."""
    return isinstance(picture, str) and picture[:8].lower().startswith(("http://", "https://"))


def default_name(picture: object, otherwise: str = DEFAULT_NAME) -> str:
    """What a picture is called unless the caller says: its path or address, if it has one."""
    if isinstance(picture, Url):
        name = without_secrets(picture.url)
    elif is_web_address(picture):
        name = without_secrets(str(picture))
    elif isinstance(picture, str | os.PathLike):
        name = os.fspath(picture)
    else:
        name = str(getattr(picture, "filename", "") or "")  # of Pillow
    return name[-_MAX_NAME_CHARACTERS:] or otherwise


def ready_picture(picture: Picture, name: str) -> ReadyPicture:
    """Reads or encodes a picture. May take a while: it reads files, also of object stores.

    Args:
        picture: Anything but a web address as text.
        name: What it is called.

    Raises:
        ConfigError: It is nothing that can be a picture.
        ImageError: It is too large, or cannot be encoded.
        StorageError: The file cannot be read.
    """
    if isinstance(picture, Url):
        return ReadyPicture(name, url=_web_address(picture.url))
    if isinstance(picture, bytes | bytearray | memoryview):
        return ReadyPicture(name, bytes(picture))
    if isinstance(picture, str | os.PathLike):
        # One byte more than allowed tells what is too large without reading all of it.
        data = storage.read_bytes(picture, max_bytes=MAX_PICTURE_BYTES + 1)
        return ReadyPicture(name, within_limit(data, name))
    if _is(picture, "PIL.Image", "Image"):
        return ReadyPicture(name, _png_of_image(picture, name))
    if _is(picture, "numpy", "ndarray"):
        return ReadyPicture(name, _png_of_pixels(picture, name))
    raise ConfigError(
        "This is no picture",
        got=f"a {type(picture).__name__}",
        expected="a path, an address, bytes, a picture of Pillow, or an array [height, width, 3]",
    )


def resized(picture: ReadyPicture, size_wh: Sequence[int]) -> ReadyPicture:
    """The picture scaled to a size, upright, as PNG.

    Args:
        picture: Whose file is at hand.
        size_wh: Width and height in pixels.

    Raises:
        ConfigError: The size is none.
        ImageError: The file is no picture.
    """
    from PIL import Image, ImageOps

    if len(size_wh) != 2 or not all(isinstance(side, int) and side >= 1 for side in size_wh):
        raise ConfigError(
            "image_resize_dims is no size", got=size_wh, expected="(width, height) in pixels"
        )
    try:
        with Image.open(io.BytesIO(picture.data)) as image:
            scaled = ImageOps.exif_transpose(image).convert("RGB").resize((size_wh[0], size_wh[1]))
    except (OSError, ValueError, Image.DecompressionBombError):
        raise ImageError("Not a picture", where=picture.name, kind="unreadable") from None
    return ReadyPicture(picture.name, _png_of_image(scaled, picture.name))


def within_limit(data: bytes, name: str) -> bytes:
    """The same bytes.

    Raises:
        ImageError: They are too many.
    """
    if len(data) > MAX_PICTURE_BYTES:
        raise ImageError(
            "The file is too large for a picture",
            where=name,
            expected=f"at most {MAX_PICTURE_BYTES:,} bytes",
            kind="too_large",
        )
    return data


def _is(value: object, module: str, name: str) -> bool:
    """Whether it is of a class of a library that only who uses it has imported."""
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], name))


def _web_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            "The service fetches pictures of the web", got=url, expected="https://..."
        )
    return url


def _png_of_image(image: Any, name: str) -> bytes:
    """As the caller sees its pixels: EXIF turns the file that it came from, not the picture."""
    buffer = io.BytesIO()
    try:
        shown = image if image.mode in _PNG_MODES else image.convert("RGB")
        shown.save(buffer, "PNG", compress_level=_PNG_LEVEL, exif=b"")
    except (OSError, ValueError) as error:
        raise ImageError(
            "The picture cannot be encoded", where=name, got=str(error), kind="unreadable"
        ) from None
    return buffer.getvalue()


def _png_of_pixels(pixels: Any, name: str) -> bytes:
    if pixels.dtype != "uint8" or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ConfigError(
            "This array is no picture",
            where=name,
            got=f"{pixels.dtype} of shape {pixels.shape}",
            expected="RGB as uint8 of shape (height, width, 3)",
        )
    from PIL import Image

    return _png_of_image(Image.fromarray(pixels), name)
