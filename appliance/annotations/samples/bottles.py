"""The groceries of the sample scenes that come in bottles and jars, drawn upright."""

from __future__ import annotations

import random

from PIL import Image

from appliance.annotations.samples.painting import DARK, WHITE, Canvas, mix, vary


def ketchup(rng: random.Random, height_px: int) -> Image.Image:
    """A red squeeze bottle with a cap, sometimes standing on it."""
    canvas = Canvas(height_px, rng.uniform(0.38, 0.46))
    red = vary(rng, (196, 26, 24), 0.6)
    cap = vary(rng, rng.choice([(238, 238, 234), (150, 14, 16), (60, 120, 56)]), 0.5)
    shoulder, waist = rng.uniform(0.36, 0.44), rng.uniform(0.38, 0.46)
    body = canvas.turned(
        [(0.14, 0.17), (0.2, 0.2), (shoulder, 0.49), (0.66, waist), (0.92, 0.49), (1, 0.42)]
    )
    canvas.paint(body, red, "cylinder")
    upside_down = rng.random() < 0.35
    canvas.paint(
        canvas.turned([(0.02, 0.11), (0.05, 0.17), (0.15, 0.21), (0.17, 0.23)]), cap, "cylinder"
    )
    canvas.paint(canvas.lines([((0.28, 0.172), (0.72, 0.172))], 0.01), DARK, opacity=0.5)
    if upside_down:
        canvas.image = canvas.image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        body = body.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    middle = rng.uniform(0.58, 0.66) if not upside_down else rng.uniform(0.36, 0.44)
    half = rng.uniform(0.1, 0.15)
    paper = vary(rng, rng.choice([(244, 240, 228), (244, 226, 160)]), 0.4)
    if rng.random() < 0.5:
        label = canvas.ellipse((0.1, middle - half, 0.9, middle + half))
    else:
        label = canvas.rounded((0, middle - half, 1, middle + half), 0)
    canvas.paint(label, paper, "cylinder", inside=body)
    canvas.paint(canvas.dots([(0.5, middle + 0.03)], 0.055), (206, 44, 34), "sphere")
    leaves = [((0.42, middle - 0.02), (0.5, middle)), ((0.58, middle - 0.02), (0.5, middle))]
    canvas.paint(canvas.lines(leaves, 0.016), (60, 122, 50))
    word = rng.choice(("TOM", "Ketchup", "57", "red"))
    canvas.paint(canvas.text(word, (0.5, middle - half * 0.55), 0.06), red, inside=body)
    return canvas.image


def mustard(rng: random.Random, height_px: int) -> Image.Image:
    """A yellow jar with a lid, or a yellow squeeze bottle with a pointed nozzle."""
    yellow = vary(rng, (226, 178, 24), 0.7)
    paper = vary(rng, rng.choice([(248, 240, 210), (120, 34, 30), (40, 84, 52)]), 0.5)
    if rng.random() < 0.6:
        canvas = Canvas(height_px, rng.uniform(0.62, 0.76))
        body = canvas.turned([(0.12, 0.38), (0.2, 0.41), (0.3, 0.5), (0.86, 0.48), (1, 0.4)])
        lid = vary(
            rng, rng.choice([(206, 168, 60), (150, 30, 28), (52, 96, 56), (50, 50, 54)]), 0.5
        )
        lid_mask = canvas.rounded((0.09, 0.0, 0.91, 0.17), 0.03)
        middle, half = rng.uniform(0.58, 0.64), rng.uniform(0.15, 0.2)
        canvas.paint(body, yellow, "cylinder")
        canvas.paint(lid_mask, lid, "cylinder")
        ridges = [((x / 14, 0.03), (x / 14, 0.15)) for x in range(2, 13)]
        canvas.paint(canvas.lines(ridges, 0.01), mix(lid, DARK, 0.5), opacity=0.6)
    else:
        canvas = Canvas(round(height_px * 1.15), rng.uniform(0.44, 0.52))
        body = canvas.turned([(0.2, 0.3), (0.26, 0.36), (0.36, 0.5), (0.93, 0.49), (1, 0.42)])
        nozzle = vary(rng, rng.choice([(240, 200, 30), (150, 30, 28), (238, 238, 232)]), 0.5)
        middle, half = rng.uniform(0.6, 0.68), rng.uniform(0.11, 0.16)
        canvas.paint(body, yellow, "cylinder")
        canvas.paint(
            canvas.turned([(0, 0.05), (0.12, 0.12), (0.13, 0.3), (0.22, 0.33)]), nozzle, "cylinder"
        )
    label = canvas.rounded((0, middle - half, 1, middle + half), 0)
    canvas.paint(label, paper, "cylinder", inside=body)
    ink = DARK if sum(paper) > 450 else (246, 226, 150)
    word = rng.choice(("Senf", "DIJON", "mild", "hot"))
    canvas.paint(canvas.text(word, (0.5, middle - half * 0.3), half * 0.8), ink, inside=body)
    seeds = [(rng.uniform(0.2, 0.8), middle + half * rng.uniform(0.35, 0.8)) for _ in range(8)]
    canvas.paint(canvas.dots(seeds, 0.016), yellow, inside=body)
    return canvas.image


def water(rng: random.Random, height_px: int) -> Image.Image:
    """A bluish, translucent bottle with a cap, ribs and a label."""
    canvas = Canvas(height_px, rng.uniform(0.3, 0.38))
    blue = vary(rng, rng.choice([(128, 186, 222), (110, 176, 214), (150, 204, 218)]), 0.7)
    neck = rng.uniform(0.15, 0.19)
    body = canvas.turned(
        [
            (0.07, neck),
            (0.14, neck),
            (0.33, 0.48),
            (0.5, 0.47),
            (0.72, 0.49),
            (0.95, 0.48),
            (1, 0.43),
        ]
    )
    canvas.paint(body, blue, "cylinder", opacity=rng.uniform(0.62, 0.82))
    level = rng.uniform(0.15, 0.3)
    canvas.paint(
        canvas.rounded((0, level, 1, 1), 0),
        mix(blue, (30, 90, 160), 0.5),
        opacity=0.22,
        inside=body,
    )
    canvas.paint(
        canvas.ellipse((0.1, level - 0.012, 0.9, level + 0.012)), WHITE, opacity=0.5, inside=body
    )
    ribs = [((0.02, y), (0.98, y)) for y in (0.36, 0.4, 0.78, 0.83, 0.88, 0.93)]
    canvas.paint(
        canvas.lines(ribs, 0.009), mix(blue, (20, 60, 120), 0.6), opacity=0.45, inside=body
    )
    canvas.paint(
        canvas.lines([((x, y + 0.01), (z, y + 0.01)) for (x, y), (z, _) in ribs], 0.006),
        WHITE,
        opacity=0.4,
        inside=body,
    )
    streak = canvas.rounded((0.16, 0.3, 0.25, 0.95), 0.03)
    canvas.paint(streak, WHITE, opacity=0.55, inside=body)
    top, bottom = rng.uniform(0.44, 0.5), rng.uniform(0.64, 0.74)
    paper = vary(rng, rng.choice([(34, 92, 178), (238, 244, 248), (40, 140, 160)]), 0.6)
    canvas.paint(
        canvas.rounded((0, top, 1, bottom), 0), paper, "cylinder", opacity=0.95, inside=body
    )
    ink = (30, 80, 160) if sum(paper) > 500 else WHITE
    hill = [
        (0.1, bottom - 0.02),
        (0.36, top + 0.1),
        (0.5, bottom - 0.06),
        (0.66, top + 0.08),
        (0.9, bottom - 0.02),
    ]
    canvas.paint(canvas.polygon(hill), mix(paper, ink, 0.5), inside=body)
    canvas.paint(
        canvas.text(rng.choice(("aqua", "H2O", "spring", "still")), (0.5, top + 0.05), 0.06),
        ink,
        inside=body,
    )
    cap = vary(rng, rng.choice([(36, 96, 190), (240, 242, 244), (60, 160, 200)]), 0.5)
    half = neck + 0.03
    canvas.paint(canvas.rounded((0.5 - half, 0, 0.5 + half, 0.085), 0.015), cap, "cylinder")
    canvas.paint(canvas.lines([((0.5 - half, 0.1), (0.5 + half, 0.1))], 0.012), mix(cap, DARK, 0.2))
    return canvas.image
