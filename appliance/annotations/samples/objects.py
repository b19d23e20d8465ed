"""The eight groceries of the sample scenes, each drawn upright on a canvas of its own.

Every drawing varies shade, label and proportions within its class; what makes the class (silhouette and
main colour) stays. Place, tilt and light come later.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageChops

from appliance.annotations.samples.bottles import ketchup, mustard, water
from appliance.annotations.samples.painting import DARK, WHITE, Canvas, mix, noise_picture, vary


def egg_box(rng: random.Random, height_px: int) -> Image.Image:
    """A carton: cups below, bumps above, a paper label between."""
    canvas = Canvas(height_px, rng.uniform(1.7, 2.15))
    base = rng.choice([(168, 160, 150), (186, 160, 128), (154, 166, 150), (150, 156, 168)])
    colour = vary(rng, base, 0.6)
    cups = rng.choice((4, 5, 6))
    pitch = 0.92 / cups
    tray = canvas.polygon([(0.03, 0.52), (0.97, 0.52), (0.9, 1), (0.1, 1)])
    canvas.paint(tray, mix(colour, DARK, 0.42))
    for index in range(cups):
        left = 0.04 + index * pitch
        slant = (0.5 - (left + pitch / 2)) * 0.08
        cup = canvas.rounded((left + 0.008 + slant, 0.5, left + pitch - 0.008 + slant, 1), 0.16)
        canvas.paint(cup, mix(colour, DARK, 0.1), "cylinder", inside=tray)
    lid = canvas.polygon([(0.02, 0.55), (0.98, 0.55), (0.94, 0.2), (0.06, 0.2)])
    for index in range(cups):
        left = 0.055 + index * 0.89 / cups
        bump = canvas.ellipse((left, 0.0, left + 0.89 / cups, 0.52))
        lid = ImageChops.lighter(lid, bump)
    canvas.paint(lid, colour)
    for index in range(cups):
        left = 0.055 + index * 0.89 / cups
        canvas.paint(
            canvas.ellipse((left, 0.0, left + 0.89 / cups, 0.52)),
            mix(colour, WHITE, 0.12),
            "sphere",
            opacity=0.6,
        )
    canvas.paint(canvas.rounded((0, 0.48, 1, 0.58), 0.04), mix(colour, WHITE, 0.22))
    canvas.paint(canvas.lines([((0.01, 0.585), (0.99, 0.585))], 0.02), mix(colour, DARK, 0.55))
    if rng.random() < 0.7:
        middle, half = rng.uniform(0.38, 0.62), rng.uniform(0.13, 0.24)
        paper = vary(
            rng, rng.choice([(232, 206, 84), (96, 158, 92), (230, 226, 214), (206, 88, 70)])
        )
        canvas.paint(canvas.rounded((middle - half, 0.14, middle + half, 0.47), 0.03), paper)
        word = rng.choice(("EGGS", "6 fresh", "BIO", "farm", "10"))
        canvas.paint(canvas.text(word, (middle, 0.3), 0.2), mix(paper, DARK, 0.75))
    canvas.texture(noise_picture(rng, canvas.size_wh, (60, 36), 7), canvas.image.getchannel("A"))
    return canvas.image


def joghurt(rng: random.Random, height_px: int) -> Image.Image:
    """A white cup, wider above, with a foil lid and a band of fruit."""
    canvas = Canvas(height_px, rng.uniform(0.78, 0.98))
    narrow = rng.uniform(0.1, 0.17)
    cup = canvas.polygon([(0.045, 0.08), (0.955, 0.08), (1 - narrow, 0.985), (narrow, 0.985)])
    canvas.paint(cup, vary(rng, (242, 240, 234), 0.3), "cylinder")
    fruit = vary(
        rng,
        rng.choice([(214, 62, 92), (116, 74, 150), (236, 160, 74), (88, 150, 206), (120, 170, 70)]),
    )
    top = rng.uniform(0.5, 0.62)
    canvas.paint(canvas.rounded((0, top, 1, 0.92), 0.0), fruit, "cylinder", inside=cup)
    spots = [(rng.uniform(0.15, 0.85), rng.uniform(top - 0.05, 0.86)) for _ in range(7)]
    canvas.paint(canvas.dots(spots, 0.06), mix(fruit, DARK, 0.25), opacity=0.85, inside=cup)
    canvas.paint(canvas.dots(spots, 0.025), mix(fruit, WHITE, 0.5), opacity=0.8, inside=cup)
    word = rng.choice(("Jogh", "yo!", "Natur", "fruit", "mild"))
    canvas.paint(canvas.text(word, (0.5, rng.uniform(0.28, 0.38)), 0.2), mix(fruit, DARK, 0.35))
    foil = fruit if rng.random() < 0.4 else vary(rng, (200, 204, 210), 0.4)
    canvas.paint(canvas.rounded((0.0, 0.0, 1.0, 0.1), 0.04), foil, "cylinder")
    canvas.paint(canvas.lines([((0.03, 0.115), (0.97, 0.115))], 0.02), (120, 120, 124), opacity=0.5)
    return canvas.image


def mushroom(rng: random.Random, height_px: int) -> Image.Image:
    """A punnet with a heap of mushrooms."""
    canvas = Canvas(height_px, rng.uniform(1.25, 1.55))
    cap = vary(rng, rng.choice([(236, 226, 208), (226, 212, 190), (188, 148, 110)]), 0.5)
    tray_colour = vary(
        rng, rng.choice([(40, 84, 168), (44, 108, 176), (40, 44, 52), (52, 110, 66)]), 0.7
    )
    canvas.paint(canvas.ellipse((0.1, 0.3, 0.9, 0.8)), mix(cap, DARK, 0.6))
    rows = [(0.3, 3, 0.12), (0.42, 4, 0.0), (0.54, 4, 0.06)]
    for y, count, inset in rows:
        for index in rng.sample(range(count), count):
            x = 0.14 + inset + (0.72 - 2 * inset) * index / (count - 1) + rng.uniform(-0.03, 0.03)
            y_here = y + rng.uniform(-0.04, 0.04)
            half_w, half_h = rng.uniform(0.115, 0.15), rng.uniform(0.15, 0.2)
            shade = mix(cap, DARK, rng.uniform(0, 0.1))
            if rng.random() < 0.3:
                stem = (x - 0.045, y_here, x + 0.045, y_here + half_h * 1.25)
                canvas.paint(canvas.rounded(stem, 0.06), mix(shade, WHITE, 0.3), "cylinder")
            y_top = max(y_here - half_h, 0.0)
            disc = canvas.ellipse((x - half_w, y_top, x + half_w, y_top + 2 * half_h))
            canvas.paint(disc, mix(shade, DARK, 0.5), opacity=0.55)
            dome = (x - half_w * 0.95, y_top, x + half_w * 0.95, y_top + 1.8 * half_h)
            canvas.paint(canvas.ellipse(dome), shade, "sphere")
    wall_top = rng.uniform(0.52, 0.6)
    tray = canvas.polygon([(0.02, wall_top), (0.98, wall_top), (0.9, 1), (0.1, 1)])
    canvas.paint(tray, tray_colour)
    ribs = [
        ((x, wall_top), (0.5 + (x - 0.5) * 0.84, 1.0)) for x in (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
    ]
    canvas.paint(canvas.lines(ribs, 0.025), mix(tray_colour, WHITE, 0.25), opacity=0.7, inside=tray)
    canvas.paint(
        canvas.rounded((0, wall_top - 0.04, 1, wall_top + 0.06), 0.04), mix(tray_colour, WHITE, 0.2)
    )
    if rng.random() < 0.45:
        paper = canvas.rounded((0.34, wall_top + 0.1, 0.66, 0.94), 0.03)
        canvas.paint(paper, vary(rng, (240, 236, 220), 0.4))
        canvas.paint(canvas.text("250g", (0.5, (wall_top + 1.04) / 2), 0.16), DARK)
    film = canvas.polygon([(0.12, 0.5), (0.3, 0.12), (0.36, 0.12), (0.2, 0.55)])
    canvas.paint(film, WHITE, opacity=0.22, inside=canvas.image.getchannel("A"))
    return canvas.image


def orange(rng: random.Random, height_px: int) -> Image.Image:
    """A dimpled orange ball with its stem end."""
    canvas = Canvas(height_px, rng.uniform(0.97, 1.1))
    colour = vary(rng, (242, 132, 20), 0.7)
    ball = canvas.ellipse((0, 0.0, 1, 1))
    canvas.paint(ball, colour, "sphere")
    canvas.texture(noise_picture(rng, canvas.size_wh, (34, 34), 9), ball)
    x, y = rng.uniform(0.3, 0.7), rng.uniform(0.08, 0.4)
    canvas.paint(canvas.dots([(x, y)], 0.06), mix(colour, DARK, 0.35), opacity=0.7, inside=ball)
    canvas.paint(canvas.dots([(x, y)], 0.03), (94, 104, 44), inside=ball)
    if rng.random() < 0.25:
        leaf = canvas.polygon(
            [(x, y), (x + 0.08, y - 0.09), (x + 0.28, y - 0.06), (x + 0.12, y + 0.04)]
        )
        canvas.paint(leaf, (70, 120, 44))
    return canvas.image


def squash(rng: random.Random, height_px: int) -> Image.Image:
    """A tan butternut squash: slim neck, round belly, a woody stem."""
    canvas = Canvas(height_px, rng.uniform(0.6, 0.72))
    colour = vary(rng, (218, 168, 108), 0.7)
    neck, waist = rng.uniform(0.24, 0.31), rng.uniform(0.26, 0.34)
    canvas.paint(
        canvas.turned([(0, 0.07), (0.04, 0.055), (0.12, 0.1)]), vary(rng, (112, 92, 56)), "cylinder"
    )
    body = canvas.turned(
        [
            (0.075, 0.1),
            (0.12, neck * 0.9),
            (0.24, neck),
            (0.42, waist),
            (0.72, 0.5),
            (0.9, 0.43),
            (1, 0.16),
        ]
    )
    canvas.paint(body, colour, "cylinder")
    canvas.paint(
        canvas.ellipse((0.0, 0.45, 1, 1)),
        mix(colour, WHITE, 0.06),
        "sphere",
        opacity=0.55,
        inside=body,
    )
    for bend in (-0.3, -0.12, 0.1, 0.28):
        groove = [
            ((0.5 + bend * 0.6, 0.12), (0.5 + bend * 0.7, 0.45)),
            ((0.5 + bend * 0.7, 0.45), (0.5 + bend * 1.3, 0.92)),
        ]
        canvas.paint(canvas.lines(groove, 0.012), mix(colour, DARK, 0.4), opacity=0.3, inside=body)
    if rng.random() < 0.5:
        canvas.paint(
            canvas.ellipse((0.1, 0.8, 0.9, 1.1)),
            (120, 140, 70),
            opacity=rng.uniform(0.15, 0.4),
            inside=body,
        )
    canvas.texture(noise_picture(rng, canvas.size_wh, (14, 22), 8), body)
    return canvas.image


@dataclass(frozen=True)
class Grocery:
    """How one class is drawn.

    Attributes:
        draw: (random numbers, height in pixels) -> RGBA picture with a transparent background.
        height: Usual height as a share of the height between two shelves.
        flat_top: Whether other things can stand on it.
    """

    draw: Callable[[random.Random, int], Image.Image]
    height: float
    flat_top: bool = False


GROCERIES: dict[str, Grocery] = {
    "eggBox": Grocery(egg_box, 0.36, flat_top=True),
    "joghurt": Grocery(joghurt, 0.45),
    "ketchup": Grocery(ketchup, 0.8),
    "mushroom": Grocery(mushroom, 0.42),
    "mustard": Grocery(mustard, 0.56),
    "orange": Grocery(orange, 0.34),
    "squash": Grocery(squash, 0.64),
    "water": Grocery(water, 0.93),
}
