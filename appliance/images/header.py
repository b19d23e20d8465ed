"""What a picture says of itself before a pixel is decoded; of a remote file only a few kilobytes are read."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from appliance import storage
from appliance.errors import DatasetError
from appliance.images.decoding import FORMATS
from appliance.images.orientation import UPRIGHT, orientation_of, stored_hw, upright_hw

_PNG_HEAD_BYTES = 33  # signature and IHDR
_PNG_TAIL_BYTES = 64 * 2**10
_WEBP_HEAD_BYTES = 30
_MAX_METADATA_BYTES = 2**20


@dataclass(frozen=True)
class PictureHeader:
    """What the first bytes of a picture tell.

    Attributes:
        stored_hw: Height and width of the pixels as stored.
        orientation: EXIF orientation, 1 to 8.
    """

    stored_hw: tuple[int, int]
    orientation: int

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the picture as it is decoded: upright."""
        return upright_hw(self.stored_hw, self.orientation)

    @classmethod
    def read(cls, path: str) -> PictureHeader:
        """Reads the header only, no pixels.

        Raises:
            DatasetError: The file is no picture, or cannot be read.
            StorageError: The address of the file cannot be opened.
        """
        reason: object
        try:
            with storage.open_input(path) as stream, warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                return cls(*_read(stream))
        except UnidentifiedImageError:
            reason = "no picture that can be read"
        except (
            Image.DecompressionBombError,
            OSError,
            ValueError,
            SyntaxError,
            EOFError,
            IndexError,
            struct.error,
        ) as error:
            reason = str(error) or type(error).__name__
        raise DatasetError(
            "A picture of the dataset cannot be read",
            where=path,
            got=reason,
            hint="Repair it, or remove it together with its annotation",
        )


def _read(stream: BinaryIO) -> tuple[tuple[int, int], int]:
    head = stream.read(_WEBP_HEAD_BYTES)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        size_hw = _webp_hw(head)
        if size_hw is not None:
            return size_hw, _webp_orientation(stream, head)
    stream.seek(0)
    with Image.open(stream, formats=FORMATS) as image:
        orientation = orientation_of(image)
        if image.format == "PNG" and "exif" not in image.info:
            orientation = _png_orientation_behind_the_pixels(stream, orientation)
        return stored_hw(image), orientation


def _webp_hw(head: bytes) -> tuple[int, int] | None:
    """The size in one of the three kinds of WebP; Pillow would read the whole file to tell it."""
    chunk, data = head[12:16], head[20:]
    if chunk == b"VP8X" and len(data) == 10:
        return _little(data[7:10]) + 1, _little(data[4:7]) + 1
    if chunk == b"VP8 " and data[3:6] == b"\x9d\x01\x2a":
        return _little(data[8:10]) & 0x3FFF, _little(data[6:8]) & 0x3FFF
    if chunk == b"VP8L" and data[:1] == b"\x2f":
        bits = _little(data[1:5])
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    return None


def _webp_orientation(stream: BinaryIO, head: bytes) -> int:
    """From the metadata behind the pixels, which only the extended kind has, where its flags say so."""
    if head[12:16] != b"VP8X" or not head[20] & 0b1100:
        return UPRIGHT
    metadata = Image.new("1", (1, 1))
    end = 12
    while len(chunk := _read_at(stream, end, 8)) == 8:
        begin, size = end + 8, _little(chunk[4:])
        key = {b"EXIF": "exif", b"XMP ": "xmp"}.get(chunk[:4])
        if key is not None:
            metadata.info[key] = _read_at(stream, begin, min(size, _MAX_METADATA_BYTES))
        end = begin + size + size % 2
    return orientation_of(metadata)


def _png_orientation_behind_the_pixels(stream: BinaryIO, otherwise: int) -> int:
    """From EXIF or XMP between the last pixels and the end of a PNG, where some tools put them.

    The file is not walked, for that would read all of it: chunks are searched in its last bytes, and are
    what they seem if their checksum agrees. Pillow reads them from a PNG that begins with them.
    """
    start = max(stream.seek(0, io.SEEK_END) - _PNG_TAIL_BYTES, _PNG_HEAD_BYTES)
    tail = _read_at(stream, start, _PNG_TAIL_BYTES)
    chunks = b""
    for found in re.finditer(b"eXIf|iTXt", tail):
        begin = found.start()
        end = found.end() + int.from_bytes(tail[max(begin - 4, 0) : begin], "big")
        if zlib.crc32(tail[begin:end]).to_bytes(4, "big") == tail[end : end + 4]:
            chunks += tail[begin - 4 : end + 4]
    if not chunks:
        return otherwise
    head = _read_at(stream, 0, _PNG_HEAD_BYTES)
    with Image.open(io.BytesIO(head + chunks + b"\0\0\0\0IDAT"), formats=("PNG",)) as image:
        return orientation_of(image)


def _read_at(stream: BinaryIO, position: int, size: int) -> bytes:
    stream.seek(position)
    return stream.read(size)


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
