"""Model and pictures of the benchmarks of the service, in a folder for the time of a run."""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from appliance import storage
from appliance.model import model_file
from benchmarks.model_speed.cases import case_of, spec_of
from benchmarks.model_speed.pictures import PictureSet, draw_pictures
from benchmarks.model_speed.weights import trained_model

# Of a picture of a service's load, unless a benchmark is about another.
_SIZE_WH = (640, 480)
_SIZE_BYTES = 60_000
_DISTINCT = 16
_QUICK_BYTES = 20_000


@dataclass(frozen=True)
class Prepared:
    """Files of one run.

    Attributes:
        folder: Where they are; a benchmark may put its own there.
        model: The model file.
        pictures: Folder of JPEGs.
        mean_bytes: Their mean size.
        size_wh: Their width and height in pixels.
    """

    folder: Path
    model: str
    pictures: str
    mean_bytes: int
    size_wh: tuple[int, int]


@contextmanager
def prepared_for(
    options: argparse.Namespace,
    *,
    size_wh: tuple[int, int] = _SIZE_WH,
    size_bytes: int = _SIZE_BYTES,
) -> Iterator[Prepared]:
    """`prepare` by a benchmark's options `backbone`, `cache` and `quick`, in a folder that goes with the run."""
    with tempfile.TemporaryDirectory(prefix="serving-") as scratch:
        yield prepare(
            Path(scratch),
            backbone=options.backbone,
            size_wh=size_wh,
            size_bytes=size_bytes,
            cache=options.cache,
            quick=options.quick,
        )


def prepare(
    folder: Path,
    *,
    backbone: str,
    cache: Path,
    quick: bool,
    size_wh: tuple[int, int] = _SIZE_WH,
    size_bytes: int = _SIZE_BYTES,
) -> Prepared:
    """The compact network, trained as in `benchmarks.model_speed`, and pictures of about one size.

    Args:
        folder: Where the files go.
        backbone: Of the network.
        cache: Folder for weights and drawn pictures.
        quick: Hardly any training, and small files.
        size_wh: Width and height of the pictures in pixels.
        size_bytes: Of a JPEG; its quality is chosen so that it comes close.
    """
    spec = spec_of("fasterrcnn_compact", backbone, quick=quick)
    case = case_of("fasterrcnn_compact", "cpu", quick=quick)
    trained = trained_model(spec, case, torch.device("cpu"), cache)
    model = str(folder / "model.safetensors")
    model_file.save(model, trained.network, trained.spec, name="compact", info=trained.info)
    size_wh = case.size_wh if quick else size_wh
    drawn = draw_pictures(PictureSet("test", _DISTINCT, size_wh), cache)
    pictures = folder / "pictures"
    pictures.mkdir()
    sizes = []
    for index, image in enumerate(drawn):
        data = storage.read_bytes(image.storage_path)
        data = _jpeg_of(data, _QUICK_BYTES if quick else size_bytes)
        (pictures / f"{index:03d}.jpg").write_bytes(data)
        sizes.append(len(data))
    return Prepared(folder, model, str(pictures), sum(sizes) // len(sizes), size_wh)


def _jpeg_of(data: bytes, size_bytes: int) -> bytes:
    """The same picture as a JPEG of that size at least, or of the best quality."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    for quality in range(60, 101):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        if buffer.tell() >= size_bytes:
            break
    return buffer.getvalue()
