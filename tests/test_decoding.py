"""The one decode path: orientations, colour modes, limits, damage, scaling while decoding."""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import zlib

import factories
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from appliance.errors import ImageError
from appliance.images.decoding import EXTENSIONS, FORMATS, DecodedImage, ImageLimits, decode_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
COLORS = dict(zip("abcdef", (RED, GREEN, BLUE, WHITE, (0, 0, 0), (255, 255, 0)), strict=True))
# The stored picture, two wide and three high, and what a viewer shows of it for each orientation.
STORED = "ab cd ef"
SHOWN = {
    1: "ab cd ef",
    2: "ba dc fe",
    3: "fe dc ba",
    4: "ef cd ab",
    5: "ace bdf",
    6: "eca fdb",
    7: "fdb eca",
    8: "bdf ace",
}


def colored(letters: str) -> np.ndarray:
    return np.array([[COLORS[letter] for letter in row] for row in letters.split()], np.uint8)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def pixels_hwc(decoded: DecodedImage) -> np.ndarray:
    return decoded.pixels.permute(1, 2, 0).numpy()


def decode(data: bytes, **options) -> np.ndarray:
    return pixels_hwc(decode_image(data, source="a", **options))


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and has no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + b"\0" * 16


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_every_exif_orientation_is_applied_to_the_pixels(orientation, image_format):
    stored = Image.fromarray(colored(STORED))
    lossless = {"lossless": True} if image_format == "WEBP" else {}
    data = factories.encoded(stored, image_format, exif=exif(orientation), **lossless)
    decoded = decode_image(data, source="a")
    expected = colored(SHOWN[orientation])
    np.testing.assert_array_equal(pixels_hwc(decoded), expected)
    assert decoded.size_hw == expected.shape[:2]


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_orientations_that_do_not_exist_change_nothing(orientation):
    data = factories.encoded(Image.fromarray(colored(STORED)), "PNG", exif=exif(orientation))
    np.testing.assert_array_equal(decode(data), colored(STORED))


def test_pixels_are_uint8_rgb_with_the_channels_last_in_memory():
    decoded = decode_image(factories.jpeg_bytes((96, 64)), source="a")
    assert decoded.pixels.dtype == torch.uint8
    assert decoded.pixels.shape == (3, 64, 96)
    assert decoded.size_hw == (64, 96)
    assert decoded.pixels.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_gives_the_same_picture(image_format):
    image = factories.picture()
    shown = decode(factories.encoded(image, image_format)).astype(int)
    assert np.abs(shown - np.asarray(image)).mean() < 4
    assert any(Image.EXTENSION[extension] == image_format for extension in EXTENSIONS)


def test_cmyk_jpegs_keep_their_colours():
    image = Image.fromarray(np.repeat(np.repeat(colored(STORED), 16, 0), 16, 1))
    shown = decode(factories.encoded(image.convert("CMYK"), "JPEG", quality=95))
    np.testing.assert_allclose(shown[8::16, 8::16].astype(int), colored(STORED), atol=12)


def test_transparent_palette_entries_become_white():
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([*RED, *GREEN, *BLUE])
    opaque = decode(factories.encoded(image, "PNG"))
    np.testing.assert_array_equal(opaque, [[RED, GREEN], [BLUE, GREEN]])
    shown = decode(factories.encoded(image, "PNG", transparency=1))
    np.testing.assert_array_equal(shown, [[RED, WHITE], [BLUE, WHITE]])


def test_alpha_is_composed_on_white():
    rgba = np.array([[(255, 0, 0, 255), (255, 0, 0, 128), (9, 9, 9, 0)]], np.uint8)
    shown = decode(factories.encoded(Image.fromarray(rgba), "PNG"))
    np.testing.assert_array_equal(shown, [[RED, (255, 127, 127), WHITE]])
    grey = Image.fromarray(np.array([[(100, 255), (100, 0)]], np.uint8), "LA")
    np.testing.assert_array_equal(decode(factories.encoded(grey, "PNG")), [[(100,) * 3, WHITE]])


@pytest.mark.parametrize(
    ("stored", "image_format", "shown"),
    [
        (np.array([[0, 25700, 65535]], np.uint16), "PNG", [0, 100, 255]),
        (np.array([[0, 25700, 65535]], np.uint16), "TIFF", [0, 100, 255]),
        (np.array([[0, 100, 255]], np.uint8), "PNG", [0, 100, 255]),
        (np.array([[False, True]]), "PNG", [0, 255]),
        (np.array([[0, 100, 255]], np.int32), "TIFF", [0, 100, 255]),
        (np.array([[-5, 500, 1000]], np.int32), "TIFF", [0, 127, 255]),
        (np.array([[-1, 40, 510]], np.float32), "TIFF", [0, 20, 255]),
        (np.array([[np.nan, np.inf, -np.inf, 100]], np.float32), "TIFF", [0, 0, 0, 100]),
    ],
)
def test_greys_of_every_depth_become_rgb(stored, image_format, shown):
    decoded = decode(factories.encoded(Image.fromarray(stored), image_format))
    np.testing.assert_array_equal(decoded, np.array([[(value,) * 3 for value in shown]]))


def tiff(
    pixels: bytes, *, size_wh, bits, photometric: int, sample_format: int = 1, order: str = "<"
) -> bytes:
    """A TIFF of one uncompressed strip, written by hand."""
    width, height = size_wh
    samples = len(bits)
    tags = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, bits),
        (259, 3, [1]),
        (262, 3, [photometric]),
        (273, 4, [8]),  # the strip follows the header
        (277, 3, [samples]),
        (278, 4, [height]),
        (279, 4, [len(pixels)]),
        (339, 3, [sample_format] * samples),
    ]
    outside = b""
    directory = struct.pack(f"{order}H", len(tags))
    begin = 8 + len(pixels) + len(pixels) % 2
    for tag, kind, values in tags:
        packed = struct.pack(f"{order}{len(values)}{'HI'[kind - 3]}", *values)
        if len(packed) > 4:
            address = begin + 2 + 12 * len(tags) + 4 + len(outside)
            outside += packed
            packed = struct.pack(f"{order}I", address)
        directory += struct.pack(f"{order}HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    padding = b"\0" * (len(pixels) % 2)
    return (
        mark + struct.pack(f"{order}I", begin) + pixels + padding + directory + bytes(4) + outside
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("bits", "photometric", "stored", "shown"),
    [
        ([16], 1, [0, 25700, 65535], [(0,) * 3, (100,) * 3, WHITE]),
        ([16] * 3, 2, [65535, 0, 0, 0, 25700, 65535], [RED, (0, 100, 255)]),
        ([8] * 3, 2, [255, 0, 0, 0, 100, 255], [RED, (0, 100, 255)]),
        # Ink, not light: no ink is white, and cyan ink takes the red away.
        ([8] * 4, 5, [0, 0, 0, 0, 255, 0, 0, 0], [WHITE, (0, 255, 255)]),
        ([8] * 4, 5, [0, 0, 0, 255, 0, 255, 255, 0], [(0, 0, 0), RED]),
        ([8], 0, [0, 155, 255], [WHITE, (100,) * 3, (0, 0, 0)]),  # white is zero
    ],
)
def test_tiffs_written_by_hand(bits, photometric, stored, shown, order):
    code = "H" if bits[0] == 16 else "B"
    pixels = struct.pack(f"{order}{len(stored)}{code}", *stored)
    data = tiff(pixels, size_wh=(len(shown), 1), bits=bits, photometric=photometric, order=order)
    np.testing.assert_array_equal(decode(data), [shown])


@pytest.mark.parametrize(("photometric", "one"), [(0, 0), (1, 255)])
def test_scans_of_one_bit(photometric, one):
    data = tiff(bytes([0b10100000]), size_wh=(4, 1), bits=[1], photometric=photometric)
    zero = 255 - one
    np.testing.assert_array_equal(
        decode(data), [[(one,) * 3, (zero,) * 3, (one,) * 3, (zero,) * 3]]
    )


def test_tiffs_in_luma_and_chroma():
    # Luma and chroma of red, green and blue by the formula of the standard (ITU-R BT.601).
    levels = [(76, 85, 255), (150, 44, 21), (29, 255, 107)]
    data = tiff(
        bytes(value for level in levels for value in level),
        size_wh=(3, 1),
        bits=[8] * 3,
        photometric=6,
    )
    shown = decode(data).astype(int)
    np.testing.assert_allclose(shown, [[RED, GREEN, BLUE]], atol=3)
    compressed = Image.new("YCbCr", (32, 32), (76, 85, 255))
    red = decode(factories.encoded(compressed, "TIFF", compression="jpeg")).astype(int)
    np.testing.assert_allclose(red, np.broadcast_to(RED, (32, 32, 3)), atol=3)


def test_cmyk_tiffs_keep_their_colours():
    image = Image.fromarray(colored(STORED)).convert("CMYK")
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate"):
        shown = decode(factories.encoded(image, "TIFF", compression=compression))
        np.testing.assert_array_equal(shown, colored(STORED))


def png(pixels: bytes, *, size_wh, bit_depth: int, color_type: int, **chunks: bytes) -> bytes:
    """A PNG of unfiltered rows, written by hand."""
    width, height = size_wh
    row = len(pixels) // height
    rows = b"".join(b"\0" + pixels[row * y : row * (y + 1)] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    parts = {"IHDR": header, **chunks, "IDAT": zlib.compress(rows), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data))
        + name.encode()
        + data
        + struct.pack(">I", zlib.crc32(name.encode() + data))
        for name, data in parts.items()
    )


@pytest.mark.parametrize(
    ("color_type", "stored", "shown"),
    [
        (0, [0, 25700, 65535], [(0,) * 3, (100,) * 3, WHITE]),
        (2, [65535, 0, 0, 0, 25700, 65535], [RED, (0, 100, 255)]),
        (4, [25700, 65535, 25700, 0], [(100,) * 3, WHITE]),
        (6, [65535, 0, 0, 65535, 65535, 0, 0, 0], [RED, WHITE]),
        (6, [65535, 0, 0, 32896], [(255, 127, 127)]),
    ],
)
def test_pngs_of_16_bits(color_type, stored, shown):
    pixels = struct.pack(f">{len(stored)}H", *stored)
    data = png(pixels, size_wh=(len(shown), 1), bit_depth=16, color_type=color_type)
    np.testing.assert_array_equal(decode(data), [shown])


def test_palettes_with_an_alpha_for_each_entry():
    data = png(
        bytes([0, 1, 2, 3]),
        size_wh=(4, 1),
        bit_depth=8,
        color_type=3,
        PLTE=bytes([*RED, *RED, *BLUE, *GREEN]),
        tRNS=bytes([255, 128, 0]),  # further entries are opaque
    )
    np.testing.assert_array_equal(decode(data), [[RED, (255, 127, 127), WHITE, GREEN]])
    packed = png(
        bytes([0b00011011]),
        size_wh=(4, 1),
        bit_depth=2,
        color_type=3,
        PLTE=bytes([*RED, *GREEN, *BLUE, *WHITE]),
    )
    np.testing.assert_array_equal(decode(packed), [[RED, GREEN, BLUE, WHITE]])


def test_the_colour_that_a_png_names_as_transparent_becomes_white():
    data = png(
        bytes([*RED, *BLUE]),
        size_wh=(2, 1),
        bit_depth=8,
        color_type=2,
        tRNS=struct.pack(">HHH", *BLUE),
    )
    np.testing.assert_array_equal(decode(data), [[RED, WHITE]])


@pytest.mark.parametrize("image_format", ["WEBP", "TIFF"])
def test_alpha_is_composed_on_white_in_other_formats_too(image_format):
    rgba = np.array([[(255, 0, 0, 255), (255, 0, 0, 128), (9, 9, 9, 0)]], np.uint8)
    lossless = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
    data = factories.encoded(Image.fromarray(rgba), image_format, **lossless)
    np.testing.assert_array_equal(decode(data), [[RED, (255, 127, 127), WHITE]])


@pytest.mark.parametrize("image_format", ["TIFF", "WEBP", "MPO"])
def test_of_several_pages_the_first_counts(image_format):
    pages = [Image.new("RGB", (16, 8), color) for color in (RED, GREEN, BLUE)]
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = factories.encoded(
        pages[0], image_format, save_all=True, append_images=pages[1:], **options
    )
    np.testing.assert_allclose(decode(data).astype(int), np.broadcast_to(RED, (8, 16, 3)), atol=3)


def test_of_an_animated_gif_the_first_frame_counts():
    frames = [Image.new("RGB", (8, 6), color) for color in (RED, GREEN, BLUE)]
    data = factories.encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(data), np.full((6, 8, 3), RED))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"", "empty", "The picture is empty: a .got 0 bytes"),
        (
            b"Dear Sir or Madam",
            "unreadable",
            "Not a picture: a .got 17 bytes beginning b'Dear Sir'",
        ),
        (b"\xff\xd8\xff\xe0", "unreadable", "Not a picture"),
        (factories.jpeg_bytes()[:700], "unreadable", "The picture is damaged: a .got .*truncated"),
        (factories.encoded(factories.picture(), "PNG")[:200], "unreadable", "damaged"),
        (factories.encoded(factories.picture(), "PPM"), "unreadable", "expected JPEG, PNG"),
        (png_header(60_000, 60_000), "too_large", "The picture is too large: a"),
        (png_header(11_000, 11_000), "too_large", "got 11000x11000 .*at most 100,000,000 pixels"),
        (png_header(0, 5), "unreadable", "picture"),
        (png_header(40, 50), "unreadable", "damaged"),
    ],
)
def test_unusable_bytes_say_in_which_way(data, kind, message):
    with pytest.raises(ImageError, match=message) as caught:
        decode_image(data, source="a")
    assert caught.value.kind == kind


def test_limits_are_inclusive():
    data = factories.jpeg_bytes((96, 64))
    at_limit = ImageLimits(max_bytes=len(data), max_pixels=96 * 64)
    assert decode(data, limits=at_limit).shape == (64, 96, 3)
    with pytest.raises(ImageError, match=f"got {len(data):,} bytes, expected at most"):
        decode(data, limits=ImageLimits(max_bytes=len(data) - 1))
    with pytest.raises(ImageError, match="got 96x64 pixels, expected at most 6,143 pixels"):
        decode(data, limits=ImageLimits(max_pixels=96 * 64 - 1))


@pytest.mark.parametrize(
    ("min_side_px", "shape"),
    [(75, (75, 100)), (76, (150, 200)), (299, (300, 400)), (600, (600, 800))],
)
def test_jpegs_are_scaled_while_they_are_decoded(min_side_px, shape):
    data = factories.jpeg_bytes((800, 600), quality=95)
    decoded = decode_image(data, source="a", min_shorter_side_px=min_side_px)
    assert decoded.pixels.shape == (3, *shape)
    assert decoded.size_hw == (600, 800)
    expected = factories.picture((800, 600)).resize(shape[::-1], Image.Resampling.BOX)
    assert np.abs(pixels_hwc(decoded).astype(int) - np.asarray(expected)).mean() < 3


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 400), st.integers(1, 8))
def test_scaling_keeps_size_orientation_and_the_shorter_side(
    width, height, min_side_px, orientation
):
    data = factories.jpeg_bytes((width, height), exif=exif(orientation))
    decoded = decode_image(data, source="a", min_shorter_side_px=min_side_px)
    size_hw = (width, height) if orientation >= 5 else (height, width)
    assert decoded.size_hw == size_hw
    scaled_hw = decoded.pixels.shape[1:]
    assert min(scaled_hw) >= min(min_side_px, *size_hw)
    assert min(scaled_hw) < 2 * max(min_side_px, 1) or tuple(scaled_hw) == size_hw


def test_what_is_no_jpeg_is_scaled_by_averaging_squares():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    data = factories.encoded(Image.fromarray(pixels), "PNG")
    assert decode(data, min_shorter_side_px=151).shape == (300, 400, 3)
    scaled = decode(data, min_shorter_side_px=100)
    assert scaled.shape == (100, 134, 3)
    expected = pixels[:, :399].reshape(100, 3, 133, 3, 3).mean((1, 3))
    np.testing.assert_allclose(
        scaled[:, :133].astype(float), expected, atol=1
    )  # rounded or cut off


@functools.cache
def sources() -> list[bytes]:
    image = factories.picture((48, 32))
    return [
        factories.encoded(image, "JPEG", exif=exif(6)),
        factories.encoded(image, "JPEG", progressive=True),
        factories.encoded(image.convert("CMYK"), "JPEG"),
        factories.encoded(image, "PNG", exif=exif(8)),
        factories.encoded(image.quantize(16), "PNG", transparency=3),
        factories.encoded(image.convert("RGBA"), "WEBP", lossless=True),
        factories.encoded(image, "GIF"),
        factories.encoded(image, "BMP"),
        factories.encoded(image, "TIFF", compression="tiff_lzw"),
        factories.encoded(Image.fromarray(np.eye(9, dtype=np.float32)), "TIFF"),
    ]


@st.composite
def damaged_files(draw) -> bytes:
    data = bytearray(draw(st.sampled_from(sources())))
    # Headers are where damage is most interesting.
    positions = st.integers(0, len(data) - 1) | st.integers(0, 60)
    for position, value in draw(st.lists(st.tuples(positions, st.integers(0, 255)), max_size=8)):
        data[position] = value
    start = draw(positions)
    data[start:start] = draw(st.binary(max_size=8))
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


def assert_decodes_or_says_why(data: bytes) -> None:
    limits = ImageLimits(max_pixels=1_000_000)
    with contextlib.suppress(ImageError):
        decoded = decode_image(data, source="a", limits=limits, min_shorter_side_px=8)
        assert decoded.pixels.ndim == 3
        assert decoded.pixels.shape[0] == 3


def test_undamaged_files_decode():
    for data in sources():
        with Image.open(io.BytesIO(data)) as image:
            assert decode(data).shape[:2] in (image.size, image.size[::-1])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(deadline=None, max_examples=300)
@given(damaged_files())
def test_damaged_files_decode_or_say_why(data):
    assert_decodes_or_says_why(data)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(deadline=None, max_examples=10_000)
@given(damaged_files() | st.binary(max_size=300))
def test_many_damaged_files_decode_or_say_why(data):
    assert_decodes_or_says_why(data)
