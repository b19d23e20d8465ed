"""The pictures of a load: those of a folder in a realistic mix of sizes, each encoded once before the load begins."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from appliance.errors import ConfigError

DEFAULT_SIZES = "640:5,1280:3,320:1,1920:1"
"""Half as web pages have them, a third as cameras on shelves send them, and the small and large ends."""
OWN_SIZES = "own"
SAMPLE_DIR = Path(__file__).resolve().parents[2] / ".cache" / "load_pictures"
_SAMPLES = 12
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_JPEG_QUALITY = 88


@dataclass(frozen=True)
class Picture:
    """A picture as it is sent.

    Attributes:
        name: Of its file, and its size: no two have the same.
        jpeg: Encoded.
        size_wh: Width and height in pixels.
    """

    name: str
    jpeg: bytes
    size_wh: tuple[int, int]


class PictureMix:
    """Draws pictures at random, as often as their weights say; equal seeds draw the same.

    Args:
        pictures: Each with its weight.
        seed: Of the draw.
    """

    def __init__(self, pictures: Mapping[Picture, float], seed: int) -> None:
        self.pictures = tuple(pictures)
        self._weights = tuple(pictures.values())
        self._random = random.Random(seed)

    @classmethod
    def of_folder(cls, folder: Path, sizes: str, seed: int = 0) -> PictureMix:
        """All pictures of a folder, each in each of the sizes.

        Args:
            folder: Of pictures that Pillow reads, to any depth.
            sizes: Longer sides in pixels with their weights, such as `640:5,1280:3`; `own` leaves the files
                as they are.
            seed: Of the draw.

        Raises:
            ConfigError: There is none, one cannot be read, or the sizes are no list of sizes.
        """
        weights = parse_sizes(sizes)
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not files:
            raise ConfigError(
                "No pictures in the folder",
                where=folder,
                expected=f"files that end in {', '.join(_SUFFIXES)}",
            )
        found: dict[Picture, float] = {}
        for path in files:
            for side_px, weight in weights.items():
                found[_picture(path, path.relative_to(folder).as_posix(), side_px)] = weight
        return cls(found, seed)

    def draw(self, count: int = 1) -> Sequence[Picture]:
        """So many of them."""
        return self._random.choices(self.pictures, self._weights, k=count)

    @property
    def mean_bytes(self) -> int:
        """Of a JPEG, as often as each is drawn."""
        whole = sum(self._weights)
        sizes = (len(picture.jpeg) for picture in self.pictures)
        return round(sum(size * w for size, w in zip(sizes, self._weights, strict=True)) / whole)


def parse_sizes(text: str) -> dict[int | None, float]:
    """Longer side in pixels -> weight; None stands for the file as it is.

    Raises:
        ConfigError: It is no list of sizes.
    """
    if text.strip() == OWN_SIZES:
        return {None: 1.0}
    found: dict[int | None, float] = {}
    for part in text.split(","):
        side, _, weight = part.partition(":")
        try:
            found[int(side)] = float(weight or 1)
            wrong = not 16 <= int(side) <= 8192 or not 0 < found[int(side)] < 1e6
        except ValueError:
            wrong = True
        if wrong:
            raise ConfigError(
                "The sizes of the pictures cannot be read",
                got=text,
                expected=f"longer sides in pixels (16 to 8192) and weights, as in {DEFAULT_SIZES}, or {OWN_SIZES}",
            )
    return found


def sample_folder(folder: Path = SAMPLE_DIR) -> Path:
    """A folder of drawn scenes, for who has no pictures; drawn once and kept.

    Args:
        folder: Where they lie.
    """
    pictures = folder / "train" / "JPEGImages"
    if not pictures.is_dir():
        command = [sys.executable, "-m", "appliance.cli.main", "data", "sample", str(folder)]
        command += ["--train", str(_SAMPLES), "--test", "1"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return pictures


def _picture(path: Path, name: str, side_px: int | None) -> Picture:
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened)
            if side_px is None and opened.format == "JPEG":
                return Picture(name, path.read_bytes(), upright.size)
            scale = 1 if side_px is None else side_px / max(upright.size)
            size_wh = tuple(max(1, round(side * scale)) for side in upright.size)
            resized = upright.convert("RGB").resize(size_wh)
    except OSError as error:
        raise ConfigError("A picture cannot be read", where=path, got=str(error)) from None
    stream = io.BytesIO()
    resized.save(stream, "JPEG", quality=_JPEG_QUALITY)
    return Picture(f"{name} at {max(resized.size)} px", stream.getvalue(), resized.size)
