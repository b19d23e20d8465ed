"""Pictures with their annotation side by side on one sheet, with a legend of the labels.

Of all annotations only the labels are read, so that colours and counts are those of the whole data; of
the pictures only those that are drawn.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from PIL import Image, ImageDraw, ImageOps

from appliance import storage
from appliance.annotations.checks.findings import counted
from appliance.annotations.checks.objects import clipped, usable_objects
from appliance.annotations.placing import boxes_in_picture
from appliance.annotations.reading import read_in_order, with_bar
from appliance.annotations.source import AnnotationSource, Entry, PictureAnnotation
from appliance.errors import ApplianceError, ConfigError, DatasetError, LabelError
from appliance.images import drawing
from appliance.images.decoding import decode_image
from appliance.images.fonts import Font, font_for
from appliance.images.header import PictureHeader
from appliance.labels import LabelMap

MOST_PICTURES = 200

_TILE_PX = 420  # longest side of a picture on the sheet
_LEAST_TILE_PX = 180
_PROPORTIONS = 1.4
_GAP_PX = 16
_MARGIN_PX = 24
_PAPER, _INK, _PALE_INK = (255, 255, 255), (48, 54, 61), (110, 119, 129)
_EMPTY, _WARNING = (242, 244, 246), (179, 58, 0)
_TITLE_PX, _TEXT_PX = 26, 15
_CHIP_PX = 16
_CAPTION_PX = 2 * _TEXT_PX + 14


@dataclass(frozen=True)
class SheetEntry:
    """A picture of the data.

    Attributes:
        part: Of the data, "" where it is not divided.
        entry: The picture.
        labels: What is annotated on it.
    """

    part: str
    entry: Entry
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """A drawn sheet.

    Attributes:
        picture: The sheet.
        names: Names of the pictures on it.
        notes: What stands below each: how many objects were drawn, or why none was.
        label_counts: Label -> objects in all of the data, in the order of the class ids.
    """

    picture: Image.Image
    names: tuple[str, ...]
    notes: tuple[str, ...]
    label_counts: dict[str, int]


@dataclass(frozen=True)
class _Tile:
    picture: Image.Image
    name: str
    note: str
    warn: bool


def draw_sheet(
    sources: Mapping[str, AnnotationSource],
    name: str,
    *,
    count: int = 12,
    seed: int = 0,
    labels: Sequence[str] | None = None,
    columns: int | None = None,
) -> Sheet:
    """Draws some pictures of a dataset, chosen by `seed`.

    Args:
        sources: Part -> what was listed there; "" for data that is not divided.
        name: Of the data, for the heading.
        count: At most so many pictures.
        seed: Decides which; the same seed draws the same.
        labels: Only pictures with an object of one of these, and only those objects; None for all.
        columns: Pictures side by side; None takes what makes a sheet like a page on its side.

    Raises:
        ConfigError: `count` or `columns` is out of range.
        LabelError: The data knows none of `labels` by that name.
        DatasetError: There is no picture.
    """
    if not 1 <= count <= MOST_PICTURES:
        raise ConfigError("count is out of range", got=count, expected=f"1 to {MOST_PICTURES}")
    if columns is not None and columns < 1:
        raise ConfigError("columns is out of range", got=columns, expected="at least 1")
    entries = [entry for part, source in sources.items() for entry in _entries(part, source)]
    counts = Counter(label for entry in entries for label in entry.labels)
    declared = next((source.labels for source in sources.values() if source.labels), None)
    names = (*(declared or ()), *sorted(set(counts) - set(declared or ())))
    for label in labels or ():
        if label not in names:
            raise LabelError("Unknown label", where=label, expected=f"one of {', '.join(names)}")
    wanted = set(names if labels is None else labels)
    fitting = [entry for entry in entries if labels is None or wanted & set(entry.labels)]
    if not fitting:
        for source in sources.values():
            source.refuse_faults()  # says why there is none, where it knows
        raise DatasetError("There is no picture to show", where=name)
    chosen = random.Random(seed).sample(fitting, min(count, len(fitting)))
    chosen.sort(key=lambda item: (list(sources).index(item.part), item.entry.name))
    ids = LabelMap(names).class_map if names else {}
    tiles = [
        _tile(item, ids, wanted) for item in with_bar(chosen, total=len(chosen), what="drawing")
    ]
    which = "" if labels is None else f" with {' or '.join(labels)}"
    title = f"{name}: {len(chosen):,} of {counted(len(fitting), 'picture')}{which}"
    shown = Counter(label for item in chosen for label in item.labels)
    legend = [
        (label, ids[label], shown[label], counts[label]) for label in names if label in wanted
    ]
    picture = _arrange(tiles, title, legend, columns)
    return Sheet(
        picture,
        tuple(item.entry.name for item in chosen),
        tuple(tile.note for tile in tiles),
        {label: counts[label] for label in names},
    )


def _entries(part: str, source: AnnotationSource) -> Iterable[SheetEntry]:
    pictures = [entry for entry in source.entries if entry.picture_path is not None]
    labels = with_bar(
        read_in_order(_labels_of, pictures, root=source.root),
        total=len(pictures),
        what=f"reading the labels of {part or 'the data'}",
    )
    for entry, names in zip(pictures, labels, strict=True):
        yield SheetEntry(part, entry, names)


def _labels_of(entry: Entry) -> tuple[str, ...]:
    try:
        return tuple(item.label for item in entry.read().objects)
    except ApplianceError:
        return ()  # its tile says why, should it be drawn


def _tile(item: SheetEntry, ids: Mapping[str, int], wanted: set[str]) -> _Tile:
    """A picture with its boxes, or why there are none."""
    path = str(item.entry.picture_path)
    note, warn = "no object", False
    try:
        decoded = decode_image(storage.read_bytes(path), source=path, min_shorter_side_px=_TILE_PX)
        picture = Image.fromarray(decoded.pixels.permute(1, 2, 0).contiguous().numpy())
        picture = ImageOps.contain(picture, (_TILE_PX, _TILE_PX), Image.Resampling.LANCZOS)
    except ApplianceError as error:
        picture, note, warn = _unreadable(), error.what, True
    else:
        try:
            annotation = item.entry.read()
            picture, drawn = _with_boxes(picture, path, annotation, ids, wanted)
            note = counted(drawn, "object") if drawn else note
        except ApplianceError as error:
            note, warn = error.what, True
    name = item.entry.name + PurePath(path.partition("?")[0]).suffix
    return _Tile(picture, f"{item.part}/{name}" if item.part else name, note, warn)


def _with_boxes(
    picture: Image.Image,
    path: str,
    annotation: PictureAnnotation,
    ids: Mapping[str, int],
    wanted: set[str],
) -> tuple[Image.Image, int]:
    header = PictureHeader.read(path)
    boxes = boxes_in_picture(annotation, header, source=path)
    usable = usable_objects(boxes, header.size_hw)
    inside = clipped(boxes, header.size_hw) * (picture.width / header.size_hw[1])
    kept = [
        index
        for index, item in enumerate(annotation.objects)
        if usable[index] and item.label in wanted
    ]
    labels = [annotation.objects[index].label for index in kept]
    drawn = drawing.draw_detections(picture, inside[kept], labels, [ids[label] for label in labels])
    return drawn, len(kept)


def _unreadable() -> Image.Image:
    picture = Image.new("RGB", (_TILE_PX, _TILE_PX * 3 // 4), _EMPTY)
    draw = ImageDraw.Draw(picture)
    draw.line((0, 0, *picture.size), fill=(208, 215, 222), width=2)
    draw.line((0, picture.height, picture.width, 0), fill=(208, 215, 222), width=2)
    return picture


def _arrange(
    tiles: Sequence[_Tile],
    title: str,
    legend: Sequence[tuple[str, int, int, int]],
    columns: int | None,
) -> Image.Image:
    tile_width = max(*(tile.picture.width for tile in tiles), _LEAST_TILE_PX)
    if columns is None:
        proportions = max(tile.picture.height for tile in tiles) / tile_width
        columns = max(1, min(len(tiles), round(math.sqrt(_PROPORTIONS * len(tiles) * proportions))))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    width = 2 * _MARGIN_PX + columns * tile_width + (columns - 1) * _GAP_PX
    written = [entry[0] for entry in legend] + [tile.name for tile in tiles]
    font, title_font = font_for(written, _TEXT_PX), font_for([title], _TITLE_PX)
    chips = _legend_places(legend, width - 2 * _MARGIN_PX, font)
    legend_top = _MARGIN_PX + _TITLE_PX + 18
    top = legend_top + (chips[-1][1] + _CHIP_PX + 24 if chips else 0)
    heights = [max(tile.picture.height for tile in row) + _CAPTION_PX + _GAP_PX for row in rows]
    sheet = Image.new("RGB", (width, top + sum(heights) + _MARGIN_PX - _GAP_PX), _PAPER)
    draw = ImageDraw.Draw(sheet)
    heading = _fitted(title, title_font, width - 2 * _MARGIN_PX)
    draw.text((_MARGIN_PX, _MARGIN_PX - 4), heading, _INK, title_font)
    for (x, y, text), (_, class_id, _, _) in zip(chips, legend, strict=True):
        left, upper = _MARGIN_PX + x, legend_top + y
        colour = drawing.colour_of(class_id)
        draw.rectangle((left, upper, left + _CHIP_PX, upper + _CHIP_PX), colour, (20, 20, 20))
        draw.text((left + _CHIP_PX + 7, upper + _CHIP_PX // 2), text, _INK, font, anchor="lm")
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            corner = (_MARGIN_PX + column * (tile_width + _GAP_PX), top)
            _place(sheet, draw, tile, corner, tile_width, font)
        top += height
    return sheet


def _place(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    tile: _Tile,
    corner: tuple[int, int],
    width: int,
    font: Font,
) -> None:
    """A picture, and below it its name and how many objects it has."""
    left, top = corner
    sheet.paste(tile.picture, corner)
    below = top + tile.picture.height + 5
    draw.text((left, below), _fitted(tile.name, font, width), _INK, font)
    colour = _WARNING if tile.warn else _PALE_INK
    draw.text((left, below + _TEXT_PX + 3), _fitted(tile.note, font, width), colour, font)


def _legend_places(
    legend: Sequence[tuple[str, int, int, int]], room_px: int, font: Font
) -> list[tuple[int, int, str]]:
    """Where the chips of the legend go, (x, y, text), in as many lines as they need."""
    places: list[tuple[int, int, str]] = []
    x = y = 0
    for label, _, shown, count in legend:
        text = f"{label}  {shown:,} of {counted(count, 'object') if not places else f'{count:,}'}"
        width = _CHIP_PX + 7 + math.ceil(font.getlength(text)) + 22
        if x and x + width > room_px:
            x, y = 0, y + _CHIP_PX + 10
        places.append((x, y, text))
        x += width
    return places


def _fitted(text: str, font: Font, room_px: float) -> str:
    """The text, without its end where that does not fit."""
    if font.getlength(text) <= room_px:
        return text
    while text and font.getlength(f"{text}…") > room_px:
        text = text[:-1]
    return f"{text}…"
