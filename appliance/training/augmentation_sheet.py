"""A sheet that shows what a configuration does to given pictures, exactly as training would see them.

    one row a picture: as annotated | variant | variant | variant | ...

Boxes that augmentation drops are counted below each variant; what lies beyond a small sample is padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.errors import ConfigError
from appliance.images import drawing
from appliance.images.fonts import Font, font_for
from appliance.model.spec import ModelSpec
from appliance.training.augmentation import Picture, Sample, augment, partners
from appliance.training.config import AUGMENTATION_SETTINGS, TrainingConfig
from appliance.training.data import decode_to_learn, picture_to_learn

MOST_PICTURES = 40
MOST_VARIANTS = 12
# Of more objects in one small picture the captions would hide what they name; the colours stay.
MOST_CAPTIONS = 20

_TILE_WIDTH_PX = 360
_GAP_PX = 14
_MARGIN_PX = 26
_CAPTION_PX = 26
_PAPER, _INK, _PALE_INK = (255, 255, 255), (36, 41, 47), (101, 109, 118)
_PADDING, _WARNING = (225, 229, 234), (176, 48, 0)


def draw_augmentation_sheet(
    dataset: ObjectDetectionDataset,
    config: TrainingConfig,
    *,
    count: int = 4,
    variants: int = 4,
    spec: ModelSpec | None = None,
) -> tuple[Image.Image, int, int]:
    """Draws some pictures and random variants of each.

    Args:
        dataset: The annotated pictures.
        config: What is done to them; its seed decides which pictures and which variants.
        count: At most so many pictures.
        variants: Of each picture.
        spec: Says at which size pictures enter the network; by default the default model's.

    Returns:
        The sheet; how many objects the variants show; how many were dropped.

    Raises:
        ConfigError: `count` or `variants` is out of range.
        ImageError, StorageError, DatasetError: A picture cannot be read.
    """
    for name, value, most in (
        ("count", count, MOST_PICTURES),
        ("variants", variants, MOST_VARIANTS),
    ):
        if not 1 <= value <= most:
            raise ConfigError(f"{name} is out of range", got=value, expected=f"1 to {most}")
    spec = spec or ModelSpec.of(dataset.label_map)
    rng = np.random.default_rng((config.seed, 2))
    chosen = sorted(rng.choice(len(dataset), min(count, len(dataset)), replace=False).tolist())
    rows = [_row(dataset, index, variants, spec, config) for index in chosen]
    shown = sum(len(sample.class_ids) for _, samples in rows for sample in samples)
    dropped = sum(sample.dropped for _, samples in rows for sample in samples)
    names = {class_id: name for name, class_id in dataset.label_map.class_map.items()}
    tiles = []
    for index, (picture, samples) in zip(chosen, rows, strict=True):
        tiles.append([_original(picture, dataset.images[index].name, names)])
        tiles[-1] += [_variant(sample, picture, spec, names) for sample in samples]
    title = f"{dataset.name}: {variants} variants of {len(chosen)} pictures"
    total = f"{shown:,} objects kept, {dropped:,} dropped"
    return _arrange(tiles, title, f"{_in_words(config)}   |   {total}"), shown, dropped


def _row(
    dataset: ObjectDetectionDataset,
    index: int,
    variants: int,
    spec: ModelSpec,
    config: TrainingConfig,
) -> tuple[Picture, list[Sample]]:
    def picture_at(index: int) -> Picture:
        image = dataset.images[index]
        pixels = decode_to_learn(image, spec, config)
        return picture_to_learn(image, pixels, dataset.label_map.class_map)

    picture = picture_at(index)
    samples = []
    for variant in range(variants):
        rng = np.random.default_rng((config.seed, variant, index, 3))
        others = [picture_at(other) for other in partners(len(dataset), config, rng)]
        samples.append(augment(picture, spec, config, rng, others))
    return picture, samples


def _original(picture: Picture, name: str, names: dict[int, str]) -> Image.Image:
    height = _tile_height(picture.size_hw)
    shown = _to_image(picture.pixels).resize((_TILE_WIDTH_PX, height), Image.Resampling.LANCZOS)
    scale = np.array([_TILE_WIDTH_PX / picture.size_hw[1], height / picture.size_hw[0]] * 2)
    drawn = _with_boxes(shown, picture.boxes_xyxy * scale, picture.class_ids.tolist(), names)
    return _captioned(drawn, name, f"{len(picture.class_ids)} objects", _PALE_INK)


def _variant(
    sample: Sample, picture: Picture, spec: ModelSpec, names: dict[int, str]
) -> Image.Image:
    """A sample on a ground as large as the input, at the same scale in every column."""
    sample_height, sample_width = sample.pixels.shape[1:]
    input_height, input_width = spec.resized_hw(picture.size_hw)
    height = _tile_height(picture.size_hw)
    scale = min(
        _TILE_WIDTH_PX / max(input_width, sample_width), height / max(input_height, sample_height)
    )
    size_wh = (max(1, round(sample_width * scale)), max(1, round(sample_height * scale)))
    shown = _to_image(sample.pixels.clamp(0, 255).round().to(torch.uint8))
    shown = shown.resize(size_wh, Image.Resampling.LANCZOS)
    boxes = sample.boxes_xyxy.numpy() * scale
    drawn = _with_boxes(shown, boxes, sample.class_ids.tolist(), names)
    ground = Image.new("RGB", (_TILE_WIDTH_PX, height), _PADDING)
    ground.paste(drawn)
    text = f"{len(sample.class_ids)} objects"
    if not sample.dropped:
        return _captioned(ground, text, "", _PALE_INK)
    return _captioned(ground, text, f"{sample.dropped} dropped", _WARNING)


def _with_boxes(
    image: Image.Image, boxes: np.ndarray, class_ids: Sequence[int], names: dict[int, str]
) -> Image.Image:
    captions = [names[i] if len(class_ids) <= MOST_CAPTIONS else "" for i in class_ids]
    return drawing.draw_detections(image, boxes, captions, class_ids)


def _captioned(
    image: Image.Image, left: str, right: str, colour: tuple[int, int, int]
) -> Image.Image:
    """A picture with a line below it; its parts are cut where the picture ends."""
    tile = Image.new("RGB", (image.width, image.height + _CAPTION_PX), _PAPER)
    tile.paste(image)
    draw = ImageDraw.Draw(tile)
    font = font_for([left], 15)
    room = image.width - (font.getlength(right) + 12 if right else 0)
    draw.text((0, image.height + 5), drawing.shortened(left, font, room), _INK, font)
    draw.text((image.width, image.height + 5), right, colour, font, anchor="ra")
    return tile


def _arrange(tiles: Sequence[Sequence[Image.Image]], title: str, subtitle: str) -> Image.Image:
    columns = len(tiles[0])
    width = 2 * _MARGIN_PX + columns * _TILE_WIDTH_PX + (columns - 1) * _GAP_PX
    heights = [max(tile.height for tile in row) for row in tiles]
    lines = _wrapped(subtitle, ImageFont.load_default(16), width - 2 * _MARGIN_PX)
    top = _MARGIN_PX + 36 + 22 * len(lines) + 14
    height = top + sum(heights) + _GAP_PX * (len(tiles) - 1) + _MARGIN_PX
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    title_font = font_for([title], 26)
    heading = drawing.shortened(title, title_font, width - 2 * _MARGIN_PX)
    draw.text((_MARGIN_PX, _MARGIN_PX - 6), heading, _INK, title_font)
    for number, line in enumerate(lines):
        place = (_MARGIN_PX, _MARGIN_PX + 32 + 22 * number)
        draw.text(place, line, _PALE_INK, ImageFont.load_default(16))
    for row, row_height in zip(tiles, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (_MARGIN_PX + column * (_TILE_WIDTH_PX + _GAP_PX), top))
        top += row_height + _GAP_PX
    return sheet


def _wrapped(text: str, font: Font, room_px: float) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if font.getlength(f"{lines[-1]} {word}") > room_px:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".lstrip()
    return lines


def _in_words(config: TrainingConfig) -> str:
    """The settings that do something."""
    values = {name: getattr(config, name) for name in AUGMENTATION_SETTINGS}
    if not config.crop:
        del values["crop_smallest"]
    return ", ".join(f"{name} {value:g}" for name, value in values.items() if value)


def _tile_height(size_hw: tuple[int, int]) -> int:
    return max(1, min(math.ceil(_TILE_WIDTH_PX * size_hw[0] / size_hw[1]), 2 * _TILE_WIDTH_PX))


def _to_image(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
