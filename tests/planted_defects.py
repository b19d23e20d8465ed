"""A dataset with every defect planted once, and the list of what a check must find in it.

Each planted picture shows an egg and milk besides, sound and big enough, so that no defect brings
another one with it.
"""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path

from factories import encoded, jpeg_bytes, picture
from PIL import Image

from appliance.annotations.formats import pascal_voc
from appliance.annotations.source import ObjectAnnotation, PictureAnnotation

SIZE_WH = (96, 64)
EGG = ("egg", (4, 4, 30, 30))
MILK = ("milk", (40, 10, 80, 50))

# Code, file below the data, object number. `train` has pictures of eggs and milk, `test` too.
PLANTED = [
    ("part-unreadable", "extra", None),
    ("no-objects", "val", None),
    ("picture-empty", "train/JPEGImages/empty.jpg", None),
    ("picture-unreadable", "train/JPEGImages/text.jpg", None),
    ("picture-damaged", "train/JPEGImages/truncated.jpg", None),
    ("picture-too-large", "train/JPEGImages/huge.png", None),
    ("picture-name-shared", "train/JPEGImages/twice.png", None),
    ("picture-without-annotation", "train/JPEGImages/bare.jpg", None),
    ("annotation-without-picture", "train/Annotations/alone.xml", None),
    ("annotation-unreadable", "train/Annotations/broken.xml", None),
    ("object-unreadable", "train/Annotations/unreadable.xml", 3),
    ("size-mismatch", "train/Annotations/resized.xml", None),
    ("box-inverted", "train/Annotations/inverted.xml", 3),
    ("box-without-area", "train/Annotations/flat.xml", 3),
    ("box-outside", "train/Annotations/outside.xml", 3),
    ("box-mostly-outside", "train/Annotations/mostly.xml", 3),
    ("box-over-edge", "train/Annotations/edge.xml", 3),
    ("object-doubled", "train/Annotations/double.xml", 3),
    ("object-contradicted", "train/Annotations/contradicted.xml", 3),
    ("object-tiny", "train/Annotations/tiny.xml", 3),
    ("object-covers-picture", "train/Annotations/covering.xml", 3),
    ("object-elongated", "train/Annotations/long.xml", 3),
    ("exif-ambiguous", "train/Annotations/turned.xml", None),
    ("picture-blank", "train/JPEGImages/blank.jpg", None),
    ("picture-doubled", "train/JPEGImages/p1_again.jpg", None),
    ("picture-contradicted", "train/JPEGImages/p2_other.jpg", None),
    ("picture-look-alike", "train/JPEGImages/p4_again.jpg", None),
    ("picture-leaked", "train/JPEGImages/p3.jpg", None),
    ("label-unknown", "test/Annotations/soap.xml", 3),
    ("label-variant", "train/Annotations/case.xml", 3),
    ("label-misspelt", "train/Annotations/spelling.xml", 3),
    ("label-rare", "train", None),
    ("label-not-tested", "test", None),
]

# What only other formats can have: planted in `test_checks_of_formats` and beside it.
PLANTED_IN_OTHER_FORMATS = [
    "annotation-id",
    "boxes-as-corners",
    "boxes-as-shares",
    "label-file-missing",
    "object-of-no-picture",
    "picture-outside",
    "picture-unnamed",
]


def add(folder, name, *objects, data=None, extension="jpg", size_hw=None, seed=None):
    """Writes a picture with its annotation; returns the path of the picture."""
    path = Path(folder) / "JPEGImages" / f"{name}.{extension}"
    path.parent.mkdir(parents=True, exist_ok=True)
    number = zlib.crc32(f"{folder}/{name}".encode()) if seed is None else seed
    path.write_bytes(jpeg_bytes(SIZE_WH, number) if data is None else data)
    annotate(folder, name, *objects, size_hw=size_hw)
    return path


def annotate(folder, name, *objects, size_hw=None):
    """Writes an annotation."""
    annotation = PictureAnnotation(tuple(ObjectAnnotation(*item) for item in objects), size_hw)
    pascal_voc.write(Path(folder) / "Annotations" / f"{name}.xml", annotation)


def plant_sound_pictures(folder, count):
    """Writes pictures p0, p1, ... without any defect."""
    for index in range(count):
        add(folder, f"p{index}", EGG, MILK)


def plant_everything(root):
    """Writes the parts `train`, `test` and `val` with all of `PLANTED`; returns the folders by part."""
    train, test, val = root / "train", root / "test", root / "val"
    plant_sound_pictures(train, 8)
    plant_sound_pictures(test, 3)
    _plant_boxes(train)
    _plant_pictures(train)
    _plant_labels(train, test)
    shutil.copy(train / "JPEGImages/p3.jpg", test / "JPEGImages/p0.jpg")
    add(val, "negative")
    return {"train": train, "test": test, "val": val, "extra": root / "extra"}


def found(root, findings):
    """Findings as `PLANTED` lists them."""
    return sorted(
        (finding.code, finding.file.removeprefix(f"{root}/"), finding.object_number)
        for finding in findings
    )


def codes(findings):
    """What kinds of defects they are, in their order."""
    return [finding.code for finding in findings]


def planted():
    """What must be found, sorted."""
    return sorted(PLANTED)


def _plant_boxes(train):
    for name, box in {
        "inverted": (50, 20, 10, 30),
        "flat": (50, 20, 50, 30),
        "outside": (200, 5, 210, 9),
        "mostly": (85, 20, 108, 64),
        "edge": (85, 20, 104, 67),
        "double": (5, 4, 30, 30),
        "tiny": (90, 55, 92, 57),
        "covering": (0, 0, 96, 64),
        "long": (2, 55, 92, 58),
    }.items():
        add(train, name, EGG, MILK, ("egg", box))
    add(train, "contradicted", EGG, MILK, ("milk", EGG[1]))
    add(train, "resized", EGG, MILK, size_hw=(50, 60))
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = jpeg_bytes(SIZE_WH, 1000, exif=exif)
    add(train, "turned", EGG, MILK, data=turned, size_hw=(64, 96))


def _plant_pictures(train):
    pictures = train / "JPEGImages"
    add(train, "empty", EGG, data=b"")
    add(train, "text", EGG, data=b"no picture at all")
    add(train, "truncated", EGG, data=jpeg_bytes(SIZE_WH, 1001)[:-300])
    add(train, "huge", EGG, data=_huge_png(), extension="png")
    add(train, "twice", EGG, MILK)
    (pictures / "twice.png").write_bytes(encoded(picture(SIZE_WH, 1002), "PNG"))
    (pictures / "bare.jpg").write_bytes(jpeg_bytes(SIZE_WH, 1003))
    annotate(train, "alone", EGG)
    add(train, "broken")
    (train / "Annotations/broken.xml").write_text("<annotation><object>")
    add(train, "unreadable", EGG, MILK, ("egg", (1, 2, 30, "nan")))
    blank = encoded(Image.new("RGB", SIZE_WH, (128, 128, 128)))
    add(train, "blank", EGG, MILK, data=blank)
    # The same pixels in another file, and the same file under another name.
    shutil.copy(pictures / "p1.jpg", pictures / "p1_again.jpg")
    with (pictures / "p1_again.jpg").open("ab") as stream:
        stream.write(b"a comment behind the picture")
    annotate(train, "p1_again", EGG, MILK)
    with Image.open(pictures / "p4.jpg") as again:
        add(train, "p4_again", EGG, MILK, data=encoded(again, quality=60))
    shutil.copy(pictures / "p2.jpg", pictures / "p2_other.jpg")
    annotate(train, "p2_other", EGG)


def _plant_labels(train, test):
    add(train, "case", EGG, MILK, ("Milk", (60, 52, 80, 62)))
    add(train, "spelling", EGG, MILK, ("mlik", (60, 52, 80, 62)))
    add(train, "rare", EGG, MILK, ("yak", (60, 52, 80, 62)))
    add(test, "rare", EGG, MILK, ("yak", (60, 52, 80, 62)))
    for index in range(5):
        add(train, f"tea{index}", EGG, MILK, ("tea", (60, 52, 80, 62)))
    add(test, "soap", EGG, MILK, ("soap", (60, 52, 80, 62)))


def _huge_png():
    """A small PNG whose header claims 20,000 x 20,000 pixels."""
    data = bytearray(encoded(picture(SIZE_WH, 1004), "PNG"))
    data[16:24] = struct.pack(">II", 20_000, 20_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)
