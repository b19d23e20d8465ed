"""Shelf scenes of eight groceries, drawn from a seed, with exact boxes.

The pictures are painted at twice their size and scaled down. What is in front is known for every pixel,
so each box is the tight box of what one can SEE of an object, tilted and behind whatever stands before
it. The same seed gives the same bytes with the same Pillow.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from appliance import storage
from appliance.annotations.formats import pascal_voc
from appliance.annotations.samples.backgrounds import ROOMS, paint_board, paint_wall
from appliance.annotations.samples.layout import Thing, arrange, plan_shelves, visible_boxes
from appliance.annotations.samples.objects import GROCERIES
from appliance.annotations.source import ObjectAnnotation, PictureAnnotation

logger = logging.getLogger(__name__)

LABELS = tuple(sorted(GROCERIES))
SceneObject = tuple[str, tuple[int, int, int, int]]

_SUPERSAMPLING = 2
_SHADOW_SCALE = 4


def make_sample_dataset(
    out_dir: str | os.PathLike[str],
    *,
    train: int = 120,
    test: int = 20,
    seed: int = 0,
    size_wh: tuple[int, int] = (384, 288),
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draws a training and a test folder in Pascal VOC layout.

    Args:
        out_dir: Gets `train/` and `test/`, each with `Annotations/*.xml` and `JPEGImages/*.jpg`.
        train: Number of scenes to train on.
        test: Number of scenes to test on; none of them is a training scene.
        seed: Decides every scene.
        size_wh: Width and height of the pictures in pixels.
        progress: Called with (scenes done, scenes in all) after each scene.

    Raises:
        StorageError: The folder cannot be written.
    """
    done = 0
    for part, count in (("train", train), ("test", test)):
        folder = Path(out_dir) / part
        for index in range(count):
            scene_seed = _scene_seed(seed, part, index)
            image, objects = draw_scene(scene_seed, size_wh)
            stream = io.BytesIO()
            image.save(stream, "JPEG", quality=random.Random(scene_seed).randint(50, 95))
            name = f"{part}_{index:04d}"
            storage.write_bytes(folder / "JPEGImages" / f"{name}.jpg", stream.getvalue())
            annotation = PictureAnnotation(
                objects=tuple(ObjectAnnotation(label, box) for label, box in objects),
                size_hw=(image.height, image.width),
                filename=f"{name}.jpg",
            )
            pascal_voc.write(folder / "Annotations" / f"{name}.xml", annotation)
            done += 1
            if progress is not None:
                progress(done, train + test)
    logger.info("Drew %d training and %d test scenes into %s", train, test, out_dir)


def draw_scene(
    seed: int, size_wh: tuple[int, int] = (384, 288)
) -> tuple[Image.Image, list[SceneObject]]:
    """Draws one scene.

    Args:
        seed: Decides everything.
        size_wh: Width and height in pixels.

    Returns:
        The RGB picture, and for each object its label and box (x1, y1, x2, y2) in whole pixels:
        tight around its visible part, `0 <= x1 < x2 <= W`, `0 <= y1 < y2 <= H`.
    """
    rng = random.Random(seed)
    big_wh = size_wh[0] * _SUPERSAMPLING, size_wh[1] * _SUPERSAMPLING
    shelves = plan_shelves(rng, big_wh[1])
    things = arrange(rng, big_wh, shelves)
    room = rng.choice(ROOMS)
    scene = paint_wall(rng, room, big_wh)
    for shelf in shelves:
        paint_board(rng, scene, room, shelf.back, shelf.edge, shelf.bottom)
    _cast_shadows(rng, scene, [thing for thing in things if thing.stands])
    for thing in things:
        scene.paste(thing.sprite, thing.corner, thing.sprite)
    objects = [
        (label, (x1 // 2, y1 // 2, (x2 + 1) // 2, (y2 + 1) // 2))
        for label, (x1, y1, x2, y2) in visible_boxes(things, big_wh)
    ]
    return _photograph(rng, scene.reduce(_SUPERSAMPLING)), objects


def _scene_seed(seed: int, part: str, index: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{part}/{index}".encode()).digest()[:8], "big")


def _cast_shadows(rng: random.Random, scene: Image.Image, things: Sequence[Thing]) -> None:
    """Darkens the wall beside things and the board under them."""
    small_wh = scene.width // _SHADOW_SCALE, scene.height // _SHADOW_SCALE
    shadow = Image.new("L", small_wh)
    draw = ImageDraw.Draw(shadow)
    dx, dy = rng.uniform(0.015, 0.04) * small_wh[0], rng.uniform(0, 0.03) * small_wh[1]
    on_wall, on_board = rng.randint(50, 110), rng.randint(110, 180)
    for thing in things:
        small = thing.mask.reduce(_SHADOW_SCALE)
        x, y = (value / _SHADOW_SCALE for value in thing.corner)
        shadow.paste(on_wall, (round(x + dx), round(y + dy)), small)
    for thing in things:
        x, y = (value / _SHADOW_SCALE for value in thing.corner)
        width, height = (side / _SHADOW_SCALE for side in thing.sprite.size)
        foot = y + height
        draw.ellipse((x + 0.02 * width, foot - 2.5, x + 1.08 * width, foot + 2.5), on_board)
    shadow = shadow.filter(ImageFilter.GaussianBlur(small_wh[1] / 90))
    scene.paste((10, 10, 14), mask=shadow.resize(scene.size, Image.Resampling.BILINEAR))


def _photograph(rng: random.Random, scene: Image.Image) -> Image.Image:
    """Light, lens and sensor: gradient, vignette, colour cast, contrast, blur, noise."""
    if rng.random() < 0.3:
        scene = scene.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.1) * scene.height / 288))
    width, height = scene.size
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    light = 1 + rng.uniform(-0.16, 0.16) * across + rng.uniform(-0.16, 0.16) * down
    light = light - rng.uniform(0, 0.16) * (across**2 + down**2)
    if rng.random() < 0.4:  # a lamp
        lamp_x, lamp_y = rng.uniform(-0.8, 0.8), rng.uniform(-1, 0.2)
        spot = np.exp(-((across - lamp_x) ** 2 + (down - lamp_y) ** 2) / 0.4)
        light = light + rng.uniform(0.1, 0.3) * spot
    light = light * rng.uniform(0.72, 1.14)
    warmth, tint = rng.gauss(0, 0.05), rng.gauss(0, 0.02)
    cast = np.array([1 + warmth, 1 + tint, 1 - warmth], np.float32)
    contrast = rng.uniform(0.85, 1.12)
    pixels = np.asarray(scene, np.float32) * light[..., None].astype(np.float32) * cast
    pixels = (pixels - 110) * contrast + 110
    generator = np.random.default_rng(rng.getrandbits(32))
    grain = generator.standard_normal(height * width, np.float32)
    grain *= rng.choice((1.0, 2.0, 3.0, 5.0, 7.0))
    for channel in range(3):  # the same grain elsewhere is as good as new, and much cheaper
        pixels[..., channel] += np.roll(grain, channel * 7919).reshape(height, width)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
