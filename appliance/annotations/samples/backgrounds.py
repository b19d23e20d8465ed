"""What stands around the groceries of the sample scenes: rooms, shelves, other goods, things in front."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw

from appliance.annotations.samples.painting import (
    DARK,
    WHITE,
    Canvas,
    Colour,
    mix,
    noise_picture,
    roughened,
    shaded,
    vary,
)

_BOARD_SHADOW = [(255 - value) * 2 // 5 for value in range(256)]


@dataclass(frozen=True)
class Room:
    """The look of a scene.

    Attributes:
        wall: Colour of the wall behind the shelves.
        board: Colour of the shelf boards.
        grains_wh: Blotches of the texture across and down; few in one direction make long grain.
        roughness: How strong the texture is.
    """

    wall: Colour
    board: Colour
    grains_wh: tuple[int, int]
    roughness: float


ROOMS = (
    Room((226, 230, 232), (206, 220, 226), (12, 15), 3),  # fridge, glass boards
    Room((198, 206, 214), (236, 238, 240), (12, 23), 3),  # fridge, white boards
    Room((150, 112, 76), (178, 132, 84), (115, 9), 9),  # wood
    Room((92, 66, 48), (132, 94, 62), (115, 9), 10),  # dark wood
    Room((150, 156, 162), (120, 126, 132), (5, 230), 6),  # brushed metal
    Room((64, 70, 78), (96, 102, 110), (6, 192), 7),  # dark metal
    Room((206, 194, 172), (150, 122, 92), (46, 61), 6),  # plaster and wood
)


def paint_wall(rng: random.Random, room: Room, size_wh: tuple[int, int]) -> Image.Image:
    """The wall behind the shelves: RGB."""
    width, height = size_wh
    wall = shaded(vary(rng, room.wall, 0.7), size_wh, "flat")
    draw = ImageDraw.Draw(wall)
    pattern = rng.random()
    line = mix(room.wall, DARK, 0.22)
    if pattern < 0.3:  # boards or panels
        pitch = rng.uniform(0.1, 0.2) * width
        for index in range(12):
            x = (index + 0.3) * pitch
            draw.line((x, 0, x, height), line, max(width // 300, 1))
    elif pattern < 0.45:  # perforated sheet
        pitch = width / rng.randint(20, 30)
        for row in range(round(height / pitch)):
            for column in range(round(width / pitch)):
                x, y = column * pitch, row * pitch
                draw.ellipse((x, y, x + pitch * 0.3, y + pitch * 0.3), mix(room.wall, DARK, 0.35))
    noise = noise_picture(rng, size_wh, room.grains_wh, room.roughness)
    return roughened(wall, noise)


def paint_board(
    rng: random.Random, scene: Image.Image, room: Room, top: int, edge: int, bottom: int
) -> None:
    """Paints one shelf board.

    Args:
        rng: Random numbers.
        scene: RGB, painted on.
        room: The look.
        top: Where the standing surface begins, at the wall; pixels.
        edge: Where it ends, at the front.
        bottom: Where the front face ends.
    """
    width = scene.width
    colour = vary(rng, room.board, 0.4)
    surface = shaded(mix(colour, DARK, 0.12), (width, edge - top), "flat")
    surface = surface.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    noise = noise_picture(rng, surface.size, (40, 4), room.roughness)
    scene.paste(roughened(surface, noise), (0, top))
    scene.paste(shaded(mix(colour, WHITE, 0.15), (width, bottom - edge), "flat"), (0, edge))
    draw = ImageDraw.Draw(scene)
    draw.line((0, edge, width, edge), mix(colour, WHITE, 0.6), max(width // 300, 1))
    # The board throws a shadow on the wall below it.
    depth = round(scene.height * 0.05)
    below = (0, bottom, width, min(bottom + depth, scene.height))
    if below[3] > bottom:
        fade = Image.linear_gradient("L").resize((width, below[3] - bottom))
        scene.paste((12, 12, 16), below, fade.point(_BOARD_SHADOW))


def tin(rng: random.Random, height_px: int) -> Image.Image:
    """A tin can with a paper label."""
    canvas = Canvas(height_px, rng.uniform(0.65, 0.85))
    canvas.paint(canvas.rounded((0, 0, 1, 1), 0.06), (176, 180, 184), "cylinder")
    paper = vary(rng, rng.choice([(70, 120, 80), (150, 60, 120), (40, 60, 110), (200, 196, 186)]))
    canvas.paint(canvas.rounded((0, 0.1, 1, 0.9), 0), paper, "cylinder")
    canvas.paint(canvas.ellipse((0.25, 0.3, 0.75, 0.7)), mix(paper, WHITE, 0.6), opacity=0.9)
    return canvas.image


def carton(rng: random.Random, height_px: int) -> Image.Image:
    """A drinks carton with a folded top."""
    canvas = Canvas(height_px, rng.uniform(0.4, 0.5))
    paper = vary(rng, rng.choice([(234, 236, 240), (150, 190, 120), (160, 130, 190)]))
    accent = vary(rng, rng.choice([(40, 90, 170), (60, 130, 60), (120, 60, 130)]))
    canvas.paint(canvas.rounded((0, 0.2, 1, 1), 0.01), paper)
    gable = canvas.polygon([(0, 0.21), (0.2, 0.06), (0.8, 0.06), (1, 0.21)])
    canvas.paint(gable, mix(paper, DARK, 0.15))
    canvas.paint(canvas.rounded((0.2, 0, 0.8, 0.07), 0), mix(paper, DARK, 0.05))
    canvas.paint(canvas.polygon([(0, 0.55), (1, 0.42), (1, 0.8), (0, 0.9)]), accent)
    canvas.paint(canvas.rounded((0.78, 0.2, 1, 1), 0), DARK, opacity=0.22)
    return canvas.image


def jam(rng: random.Random, height_px: int) -> Image.Image:
    """A dark jar with a chequered lid."""
    canvas = Canvas(height_px, rng.uniform(0.75, 0.9))
    fruit = vary(rng, rng.choice([(88, 24, 60), (60, 30, 90), (60, 80, 40)]))
    canvas.paint(canvas.rounded((0.02, 0.15, 0.98, 1), 0.12), fruit, "cylinder")
    canvas.paint(canvas.rounded((0.04, 0, 0.96, 0.2), 0.03), vary(rng, (220, 216, 210)), "cylinder")
    canvas.paint(canvas.rounded((0.2, 0.42, 0.8, 0.8), 0.02), (236, 230, 214))
    return canvas.image


def cereal(rng: random.Random, height_px: int) -> Image.Image:
    """A flat box."""
    canvas = Canvas(height_px, rng.uniform(0.6, 0.75))
    paper = vary(rng, rng.choice([(60, 110, 140), (130, 80, 60), (90, 130, 90), (170, 150, 190)]))
    canvas.paint(canvas.rounded((0, 0, 1, 1), 0.01), paper)
    canvas.paint(canvas.rounded((0.86, 0, 1, 1), 0.01), DARK, opacity=0.3)
    canvas.paint(canvas.ellipse((0.12, 0.4, 0.74, 0.85)), mix(paper, WHITE, 0.5))
    canvas.paint(canvas.rounded((0.1, 0.1, 0.75, 0.28), 0.02), mix(paper, DARK, 0.5))
    return canvas.image


def apple(rng: random.Random, height_px: int) -> Image.Image:
    """A green apple."""
    canvas = Canvas(height_px, rng.uniform(0.95, 1.1))
    green = vary(rng, (126, 166, 50))
    both = ImageChops.lighter(
        canvas.ellipse((0, 0.12, 0.64, 1)), canvas.ellipse((0.36, 0.12, 1, 1))
    )
    canvas.paint(both, green, "sphere")
    canvas.paint(canvas.lines([((0.5, 0.22), (0.56, 0))], 0.05), (92, 70, 40))
    return canvas.image


CLUTTER: tuple[tuple[Callable[[random.Random, int], Image.Image], float], ...] = (
    (tin, 0.5),
    (carton, 0.9),
    (jam, 0.45),
    (cereal, 0.85),
    (apple, 0.3),
)
"""Goods that are none of the classes, with their height as a share of the shelf's."""


def price_tag(rng: random.Random, height_px: int) -> Image.Image:
    """A tag as it hangs on the edge of a shelf."""
    canvas = Canvas(height_px, rng.uniform(1.3, 2.1))
    paper = vary(rng, rng.choice([(250, 250, 246), (250, 232, 110), (244, 244, 240)]), 0.3)
    canvas.paint(canvas.rounded((0, 0, 1, 1), 0.08), paper)
    price = f"{rng.randint(0, 4)}.{rng.choice((29, 49, 79, 99))}"
    canvas.paint(canvas.text(price, (0.5, 0.42), 0.52), DARK)
    canvas.paint(canvas.lines([((0.15, 0.82), (0.75, 0.82))], 0.05), (120, 120, 120))
    return canvas.image


def rail(rng: random.Random, width_px: int, height_px: int, *, upright: bool) -> Image.Image:
    """A metal bar that runs across the picture, or down it."""
    colour = vary(rng, rng.choice([(196, 200, 204), (96, 100, 106), (230, 232, 234)]), 0.4)
    long_px, thick_px = (height_px, width_px) if upright else (width_px, height_px)
    bar = shaded(colour, (max(thick_px, 3), long_px), "cylinder").convert("RGBA")
    return bar if upright else bar.transpose(Image.Transpose.ROTATE_270)
