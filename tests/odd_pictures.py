"""Pictures as one meets them where many people upload: damaged, disguised, enormous."""

from __future__ import annotations

import struct
import zlib

from factories import encoded, jpeg_bytes, picture
from PIL import Image


def a_bomb() -> bytes:
    """A PNG of 60 kB that claims 30,000 x 30,000 pixels and has them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    side = 30_000
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side + 7) // 8 + 1) * side)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


GOOD = jpeg_bytes(seed=7)
FRAMES = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
ODD = {
    "1x1.png": encoded(Image.new("RGB", (1, 1)), "PNG"),
    "20000x10.png": encoded(Image.new("RGB", (20_000, 10)), "PNG"),
    "animated.gif": encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    "bomb.png": a_bomb(),
    "cmyk.jpg": encoded(picture().convert("CMYK")),
    "cut.jpg": GOOD[: len(GOOD) // 2],
    "empty.jpg": b"",
    "large.png": encoded(Image.new("RGB", (9_000, 9_000), "red"), "PNG"),
    "large.webp": encoded(Image.new("RGB", (9_000, 9_000), "red"), "WEBP"),
    "really_a_png.jpg": encoded(picture(), "PNG"),
    "text.jpg": b"this is no picture",
}
KINDS = {
    "bomb.png": "too_large",
    "cut.jpg": "unreadable",
    "empty.jpg": "empty",
    "text.jpg": "unreadable",
}
