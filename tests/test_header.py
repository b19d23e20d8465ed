"""What a picture's first bytes tell, how few of them are read, and boxes that stay where they were drawn."""

from __future__ import annotations

import struct
import zlib

import factories
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from appliance import storage
from appliance.annotations.placing import boxes_in_picture
from appliance.annotations.source import ObjectAnnotation, PictureAnnotation
from appliance.errors import DatasetError, StorageError
from appliance.images.decoding import FORMATS, decode_image
from appliance.images.header import PictureHeader

# A red square on grey, 160 wide and 96 high as stored; aligned to the blocks of a JPEG.
STORED_WH = (160, 96)
SQUARE = (16, 32, 64, 64)
# The same square in the upright picture, worked out by hand for each orientation.
UPRIGHT = {
    1: (16, 32, 64, 64),
    2: (96, 32, 144, 64),  # mirrored: 160 - 64, 160 - 16
    3: (96, 32, 144, 64),  # turned by half: x as mirrored, y 96 - 64, 96 - 32
    4: (16, 32, 64, 64),  # upside down: y 96 - 64, 96 - 32
    5: (32, 16, 64, 64),  # x and y exchanged
    6: (32, 16, 64, 64),  # x 96 - 64, 96 - 32; y as x was
    7: (32, 96, 64, 144),
    8: (32, 96, 64, 144),
}
FILES = {
    "JPEG": {"quality": 95},
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True},
}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def stored_picture() -> Image.Image:
    image = Image.new("RGB", STORED_WH, (90, 90, 90))
    image.paste((230, 20, 30), SQUARE)
    return image


@pytest.mark.parametrize("image_format", FILES)
@pytest.mark.parametrize(
    ("orientation", "seen_as_stored"),
    [*((orientation, False) for orientation in UPRIGHT), *((o, True) for o in (1, 5, 6, 7, 8))],
)
def test_a_box_covers_what_it_was_drawn_around(tmp_path, image_format, orientation, seen_as_stored):
    path = tmp_path / "picture"
    path.write_bytes(
        factories.encoded(
            stored_picture(), image_format, exif=exif(orientation), **FILES[image_format]
        )
    )
    upright_wh = STORED_WH[::-1] if orientation >= 5 else STORED_WH
    # The annotator's tool either ignored the orientation, or obeyed it.
    annotation = PictureAnnotation(
        (ObjectAnnotation("square", SQUARE if seen_as_stored else UPRIGHT[orientation]),),
        (STORED_WH if seen_as_stored else upright_wh)[::-1],
    )
    header = PictureHeader.read(str(path))
    assert header == PictureHeader(STORED_WH[::-1], orientation)
    assert header.size_hw == upright_wh[::-1]
    (box,) = boxes_in_picture(annotation, header, source="a").astype(int)
    assert box.tolist() == list(UPRIGHT[orientation])
    decoded = decode_image(path.read_bytes(), source="a")
    assert decoded.size_hw == header.size_hw
    x1, y1, x2, y2 = box
    red = (decoded.pixels[0].int() - decoded.pixels[1].int()).numpy() > 60
    covered = np.zeros_like(red)
    covered[y1:y2, x1:x2] = True
    np.testing.assert_array_equal(red, covered)


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_tells_its_size(tmp_path, image_format):
    (tmp_path / "a").write_bytes(factories.encoded(factories.picture((50, 30)), image_format))
    assert PictureHeader.read(str(tmp_path / "a")) == PictureHeader((30, 50), 1)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_orientations_that_do_not_exist_are_none(tmp_path, orientation):
    (tmp_path / "a").write_bytes(factories.jpeg_bytes((50, 30), exif=exif(orientation)))
    assert PictureHeader.read(str(tmp_path / "a")) == PictureHeader((30, 50), 1)


def noise(size_wh) -> Image.Image:
    """Pixels that do not compress."""
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (*size_wh[::-1], 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("JPEG", {"exif": exif(6)}),
        ("PNG", {"exif": exif(6)}),
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("GIF", {}),
        ("WEBP", {"lossless": True, "exif": exif(6)}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 95}),
    ],
)
def test_of_a_remote_picture_little_is_read(monkeypatch, tmp_path, image_format, options):
    uri = f"memory://{tmp_path}/a"
    data = factories.encoded(noise((900, 700)), image_format, **options)
    storage.write_bytes(uri, data)
    fetched: list[int] = []
    read_whole = storage._Ranges.readinto

    def counting(self, buffer):
        fetched.append(read_whole(self, buffer))
        return fetched[-1]

    monkeypatch.setattr(storage._Ranges, "readinto", counting)
    header = PictureHeader.read(uri)
    assert header == PictureHeader((700, 900), 6 if "exif" in options else 1)
    assert sum(fetched) <= 4 * 2**16 < len(data)
    assert len(fetched) <= 4


def chunk(name: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + checksum


@pytest.mark.parametrize(
    "metadata",
    [
        chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0")),
        chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'),
    ],
)
def test_an_orientation_behind_the_pixels_of_a_png_counts(tmp_path, metadata):
    data = factories.encoded(noise((300, 200)), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data[:-12] + metadata + data[-12:])
    assert PictureHeader.read(str(path)) == PictureHeader((200, 300), 6)
    assert decode_image(path.read_bytes(), source="a").size_hw == (300, 200)
    # What only looks like such a chunk is none.
    path.write_bytes(data[:-12] + chunk(b"tEXt", b"a\0" + metadata[:-2]) + data[-12:])
    assert PictureHeader.read(str(path)) == PictureHeader((200, 300), 1)


def test_an_orientation_in_the_xmp_of_a_webp_counts(tmp_path):
    data = factories.encoded(
        noise((60, 40)), "WEBP", lossless=True, xmp=b'<x tiff:Orientation="8"/>'
    )
    (tmp_path / "a.webp").write_bytes(data)
    assert PictureHeader.read(str(tmp_path / "a.webp")) == PictureHeader((40, 60), 8)
    assert decode_image(data, source="a").size_hw == (60, 40)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(FILES)), st.integers(1, 300), st.integers(1, 300), st.integers(1, 8))
def test_header_and_decoder_agree(tmp_path_factory, image_format, width, height, orientation):
    data = factories.encoded(
        Image.new("RGB", (width, height)), image_format, exif=exif(orientation)
    )
    path = tmp_path_factory.mktemp("header") / "a"
    path.write_bytes(data)
    header = PictureHeader.read(str(path))
    assert header.size_hw == decode_image(data, source="a").size_hw
    assert header.stored_hw == (height, width)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Dear Sir",
        b"RIFF\0\0\0\0WEBP",
        b"RIFF\0\0\0\0WEBPVP8 " + bytes(20),
        b"RIFF\0\0\0\0WEBPVP8L" + bytes(20),
        b"\x89PNG\r\n\x1a\n",
        factories.encoded(factories.picture(), "TIFF")[:100],
    ],
    ids=["empty", "text", "webp", "webp-lossy", "webp-lossless", "png", "tiff"],
)
def test_what_is_no_picture_is_named(tmp_path, data):
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(DatasetError, match=r"cannot be read: .*a\.jpg .got .*Repair it"):
        PictureHeader.read(str(tmp_path / "a.jpg"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"Cannot read the file: .*a\.jpg"):
        PictureHeader.read(str(tmp_path / "a.jpg"))
