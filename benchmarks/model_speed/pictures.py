"""The pictures of the benchmark: sample scenes alone, and shelves of four scenes with dozens of objects.

Drawn once from a seed and kept as JPEGs, so that every side of every round decodes the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
from PIL import Image

from appliance import storage
from appliance.annotations.annotated_image import AnnotatedImage
from appliance.annotations.samples.scenes import LABELS, SceneObject, draw_scene
from appliance.evaluation.metrics.matching import GroundTruth
from appliance.labels import LabelMap

LABEL_MAP = LabelMap(LABELS)
JPEG_QUALITY = 90

Part = Literal["train", "test"]


@dataclass(frozen=True)
class PictureSet:
    """Which pictures.

    Attributes:
        part: Pictures of "train" are never among those of "test".
        count: How many.
        size_wh: Width and height in pixels.
    """

    part: Part
    count: int
    size_wh: tuple[int, int]


def draw_pictures(wanted: PictureSet, cache_dir: Path) -> list[AnnotatedImage]:
    """The pictures, drawn unless they lie in the cache already.

    Every second one is a shelf of four scenes at half their size, with about 32 objects; the others are
    one scene each, with about 8.

    Args:
        wanted: Which.
        cache_dir: Gets one folder for each size and part.

    Raises:
        StorageError: The folder cannot be written.
    """
    width, height = wanted.size_wh
    # Pillow draws the text of labels and blurs; another version may do so a little differently.
    folder = cache_dir / f"pictures-{width}x{height}-pillow{PIL.__version__}" / wanted.part
    # Pillow lets go of the interpreter while it draws.
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda index: _picture(folder, wanted, index), range(wanted.count)))


def ground_truth_of(image: AnnotatedImage) -> GroundTruth:
    """What the metrics compare detections of this picture with."""
    return GroundTruth(
        image.boxes_xyxy,
        np.array([LABEL_MAP.id_of(name) for name in image.label_names], np.int64),
        image.difficult,
        image.name,
    )


def _picture(folder: Path, wanted: PictureSet, index: int) -> AnnotatedImage:
    path = folder / f"{index:04d}.jpg"
    truth_path = path.with_suffix(".json")
    if not truth_path.exists():
        print(f"drawing {wanted.part} picture {index}", file=sys.stderr)
        drawn, objects = _draw(_seed(wanted.part, index), wanted.size_wh, is_shelf=index % 2 == 1)
        stream = io.BytesIO()
        drawn.save(stream, "JPEG", quality=JPEG_QUALITY)
        storage.write_bytes(path, stream.getvalue())
        # The truth comes last: where it lies, the picture is complete.
        storage.write_bytes(truth_path, json.dumps(objects).encode())
    objects = json.loads(truth_path.read_text())
    return AnnotatedImage(
        storage_path=str(path),
        name=path.name,
        size_hw=wanted.size_wh[::-1],
        boxes_xyxy=np.array([box for _, box in objects], np.float32),
        label_names=tuple(label for label, _ in objects),
        difficult=np.zeros(len(objects), np.bool_),
    )


def _draw(
    seed: int, size_wh: tuple[int, int], *, is_shelf: bool
) -> tuple[Image.Image, Sequence[SceneObject]]:
    if not is_shelf:
        return draw_scene(seed, size_wh)
    half_wh = size_wh[0] // 2, size_wh[1] // 2
    shelf = Image.new("RGB", size_wh)
    objects: list[SceneObject] = []
    for quarter in range(4):
        left, top = (quarter % 2) * half_wh[0], (quarter // 2) * half_wh[1]
        scene, here = draw_scene(seed + quarter + 1, half_wh)
        shelf.paste(scene, (left, top))
        objects += [
            (label, (x1 + left, y1 + top, x2 + left, y2 + top)) for label, (x1, y1, x2, y2) in here
        ]
    return shelf, objects


def _seed(part: str, index: int) -> int:
    digest = hashlib.sha256(f"model speed/{part}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
