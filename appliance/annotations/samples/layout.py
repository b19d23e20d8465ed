"""Where things stand in a sample scene, and what one can see of each.

Knows shelves, rows, stacks and things in front; knows neither colours nor light.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from appliance.annotations.samples.backgrounds import CLUTTER, price_tag, rail
from appliance.annotations.samples.objects import GROCERIES

# From 90 on a pixel of a translucent bottle counts as there; below 9 nothing is seen at all.
_SOLID = [255 * (alpha >= 90) for alpha in range(256)]
_TOUCHED = [255 * (alpha > 8) for alpha in range(256)]
_MIN_VISIBLE = 0.45
_MIN_OBJECTS, _MAX_OBJECTS = 6, 10
_LAYOUT_ATTEMPTS = 5
_MOVES = 12
_STACKABLE = ("eggBox", "joghurt", "mushroom", "orange")


@dataclass(frozen=True)
class Shelf:
    """One shelf; all values are rows of the scene in pixels, from the top.

    Attributes:
        ceiling: Where the room above the shelf begins.
        back: Where the board meets the wall.
        edge: Its front edge.
        bottom: Where its front face ends.
    """

    ceiling: int
    back: int
    edge: int
    bottom: int


@dataclass(eq=False)
class Thing:
    """A picture in the scene; `label` is None for what is not annotated, `stands` is False for what hangs."""

    label: str | None
    sprite: Image.Image
    corner: tuple[int, int]
    support: Thing | None = None
    on_top: Thing | None = None
    stands: bool = True
    mask: Image.Image = field(init=False)
    area_px: int = field(init=False)

    def __post_init__(self) -> None:
        solid = self.sprite.getchannel("A").point(_SOLID)
        self.mask = solid
        self.area_px = max(solid.histogram()[255], 1)

    def shift(self, dx: int) -> None:
        """Moves it sideways with what stands on it."""
        self.corner = self.corner[0] + dx, self.corner[1]
        if self.on_top is not None:
            self.on_top.shift(dx)


def plan_shelves(rng: random.Random, height_px: int) -> list[Shelf]:
    """Two shelves, one above the other."""
    shelves: list[Shelf] = []
    ceiling = 0
    for middle in (0.475, 0.945):
        edge = round(height_px * (middle + rng.uniform(-0.02, 0.02)))
        back = edge - round(height_px * rng.uniform(0.04, 0.075))
        bottom = min(edge + round(height_px * rng.uniform(0.025, 0.045)), height_px)
        shelves.append(Shelf(ceiling, back, edge, bottom))
        ceiling = bottom
    return shelves


def arrange(rng: random.Random, scene_wh: tuple[int, int], shelves: Sequence[Shelf]) -> list[Thing]:
    """Things from back to front; everything labelled is at least 45 % visible."""
    best: list[Thing] = []
    for _ in range(_LAYOUT_ATTEMPTS):
        things = _arrange_once(rng, scene_wh, shelves)
        if _labelled(things) >= _labelled(best):
            best = things
        if _labelled(best) >= _MIN_OBJECTS:
            break
    return best


def visible_boxes(
    things: Sequence[Thing], scene_wh: tuple[int, int]
) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Label and tight box of the visible part of each labelled thing, pixels of the scene."""
    owners = _owners(things, scene_wh)
    found: list[tuple[str, tuple[int, int, int, int]]] = []
    for index, thing in enumerate(things, start=1):
        if thing.label is None:
            continue
        x1, y1, x2, y2 = _extent(thing, scene_wh)
        seen = owners[y1:y2, x1:x2] == index
        columns = np.flatnonzero(seen.any(axis=0)).tolist()
        rows = np.flatnonzero(seen.any(axis=1)).tolist()
        box = (x1 + columns[0], y1 + rows[0], x1 + columns[-1] + 1, y1 + rows[-1] + 1)
        found.append((thing.label, box))
    return found


def _labelled(things: Sequence[Thing]) -> int:
    return sum(thing.label is not None for thing in things)


def _arrange_once(
    rng: random.Random, scene_wh: tuple[int, int], shelves: Sequence[Shelf]
) -> list[Thing]:
    labels = rng.sample(sorted(GROCERIES), len(GROCERIES))
    labels = (labels + rng.sample(labels, 2))[: rng.randint(_MIN_OBJECTS, _MAX_OBJECTS)]
    rng.shuffle(labels)
    split = len(labels) // 2 + rng.choice((0, 0, len(labels) % 2))
    zoom = rng.uniform(0.82, 1.04)
    things: list[Thing] = []
    for shelf, here in zip(shelves, (labels[:split], labels[split:]), strict=True):
        things += _clutter(rng, scene_wh, shelf)
        things += _row(rng, scene_wh, shelf, here, zoom)
    things += _things_in_front(rng, scene_wh, shelves)
    for _ in range(_MOVES):
        hidden = _hidden(things, scene_wh)
        if not hidden:
            return things
        for thing in hidden:
            mover = thing.support or thing
            width = mover.sprite.width
            mover.shift(rng.randint(0, max(scene_wh[0] - width, 1)) - mover.corner[0])
    while hidden := _hidden(things, scene_wh):
        gone = set(hidden) | {thing.on_top for thing in hidden}
        things = [thing for thing in things if thing not in gone]
    return things


def _hidden(things: Sequence[Thing], scene_wh: tuple[int, int]) -> list[Thing]:
    owners = _owners(things, scene_wh)
    hidden: list[Thing] = []
    for index, thing in enumerate(things, start=1):
        if thing.label is not None:
            x1, y1, x2, y2 = _extent(thing, scene_wh)
            seen_px = int(np.count_nonzero(owners[y1:y2, x1:x2] == index))
            if seen_px < _MIN_VISIBLE * thing.area_px:
                hidden.append(thing)
    return hidden


def _owners(things: Sequence[Thing], scene_wh: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """For each pixel the number, from 1, of the thing that one sees there."""
    owners = Image.new("L", scene_wh)
    for index, thing in enumerate(things, start=1):
        owners.paste(index, thing.corner, thing.mask)
    return np.asarray(owners)


def _extent(thing: Thing, scene_wh: tuple[int, int]) -> tuple[int, int, int, int]:
    x, y = thing.corner
    right, bottom = x + thing.sprite.width, y + thing.sprite.height
    return max(x, 0), max(y, 0), min(right, scene_wh[0]), min(bottom, scene_wh[1])


def _tilted(rng: random.Random, sprite: Image.Image, most_degrees: float) -> Image.Image:
    angle = rng.gauss(0, most_degrees / 2)
    turned = sprite.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    return turned.crop(turned.getchannel("A").point(_TOUCHED).getbbox())


def _row(
    rng: random.Random, scene_wh: tuple[int, int], shelf: Shelf, labels: Sequence[str], zoom: float
) -> list[Thing]:
    width_px, room_px = scene_wh[0], shelf.edge - shelf.ceiling
    sprites: list[tuple[str, Image.Image]] = []
    for label in labels:
        height = room_px * 0.9 * zoom * GROCERIES[label].height * rng.uniform(0.86, 1.12)
        sprite = GROCERIES[label].draw(rng, round(min(height, room_px * 0.86)))
        sprites.append((label, _tilted(rng, sprite, 5.0)))
    piles = _piles(rng, sprites, room_px)
    free_px = width_px - sum(bottom[1].width for bottom, _ in piles)
    shares = [rng.uniform(0.1, 1) for _ in range(len(piles) + 1)]
    x = shares[0] * free_px / sum(shares)
    back_row: list[Thing] = []
    front_row: list[Thing] = []
    for ((label, sprite), upper), share in zip(piles, shares[1:], strict=True):
        in_front = rng.random() < 0.4
        depth = rng.uniform(0.6, 0.95) if in_front else rng.uniform(0.1, 0.45)
        floor = shelf.back + round((shelf.edge - shelf.back) * depth)
        nudge = rng.uniform(-0.3, 0.3) * sprite.width if rng.random() < 0.35 else 0
        left = round(min(max(x + nudge, -0.12 * sprite.width), width_px - 0.88 * sprite.width))
        base = Thing(label, sprite, (left, floor - sprite.height))
        row = front_row if in_front else back_row
        row.append(base)
        if upper is not None:
            row.append(_put_on(rng, base, *upper))
        x += sprite.width + share * free_px / sum(shares)
    return back_row + front_row


_Pile = tuple[tuple[str, Image.Image], tuple[str, Image.Image] | None]


def _piles(
    rng: random.Random, sprites: Sequence[tuple[str, Image.Image]], room_px: int
) -> list[_Pile]:
    """Each thing alone, or with one other on top of it."""
    waiting = list(sprites)
    piles: list[_Pile] = []
    while waiting:
        label, sprite = waiting.pop(0)
        upper = None
        if GROCERIES[label].flat_top and rng.random() < 0.5:
            for candidate in waiting:
                fits = candidate[1].height + sprite.height < room_px * 0.85
                if candidate[0] in _STACKABLE and fits:
                    upper = candidate
                    waiting.remove(candidate)
                    break
        piles.append(((label, sprite), upper))
    return piles


def _put_on(rng: random.Random, base: Thing, label: str, sprite: Image.Image) -> Thing:
    play = (base.sprite.width - sprite.width) / 2
    left = base.corner[0] + play + rng.uniform(-0.6, 0.6) * abs(play)
    top = base.corner[1] - sprite.height + round(base.sprite.height * 0.08)
    base.on_top = Thing(label, sprite, (round(left), top), support=base)
    return base.on_top


def _clutter(rng: random.Random, scene_wh: tuple[int, int], shelf: Shelf) -> list[Thing]:
    room_px = shelf.edge - shelf.ceiling
    things: list[Thing] = []
    for _ in range(rng.choice((0, 1, 1, 2))):
        draw, height = rng.choice(CLUTTER)
        sprite = _tilted(rng, draw(rng, round(room_px * height * rng.uniform(0.7, 0.9))), 3.0)
        left = rng.randint(0, max(scene_wh[0] - sprite.width, 1))
        floor = shelf.back + round((shelf.edge - shelf.back) * 0.1)
        things.append(Thing(None, sprite, (left, floor - sprite.height)))
    return things


def _things_in_front(
    rng: random.Random, scene_wh: tuple[int, int], shelves: Sequence[Shelf]
) -> list[Thing]:
    width_px, height_px = scene_wh
    things: list[Thing] = []
    for shelf in shelves:
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            tag = price_tag(rng, round(height_px * rng.uniform(0.045, 0.075)))
            top = shelf.edge - round(tag.height * rng.uniform(-0.1, 0.5))
            things.append(
                Thing(None, tag, (rng.randint(0, width_px - tag.width), top), stands=False)
            )
        if rng.random() < 0.15:
            bar = rail(rng, width_px, round(height_px * rng.uniform(0.012, 0.02)), upright=False)
            top = shelf.edge - round(height_px * rng.uniform(0.05, 0.1))
            things.append(Thing(None, bar, (0, top), stands=False))
    if rng.random() < 0.15:
        bar = rail(rng, round(width_px * rng.uniform(0.01, 0.02)), height_px, upright=True)
        things.append(Thing(None, bar, (rng.randint(0, width_px - bar.width), 0), stands=False))
    return things
