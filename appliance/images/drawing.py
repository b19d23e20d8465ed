"""Boxes and captions on pictures, legible on any background and for the colour-blind."""

from __future__ import annotations

import colorsys
import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from appliance import storage
from appliance.errors import StorageError
from appliance.images.decoding import decode_image
from appliance.images.fonts import Font, font_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Colour = tuple[int, int, int]
_Rectangle = tuple[float, float, float, float]

# Okabe and Ito (2008), in an order that keeps neighbours apart, with a light grey for their black, which
# would drown in the dark edge of a box.
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (226, 226, 226),
)
_MIN_FONT_PX = 9


def colour_of(class_id: int) -> Colour:
    """The colour of a class: always the same, the first eight are safe for the colour-blind.

    Further classes take the same hues lighter, then darker.
    """
    if class_id <= len(PALETTE):
        return PALETTE[class_id - 1]
    turn, index = divmod(class_id - len(PALETTE) - 1, len(PALETTE) - 1)  # grey has no hue to vary
    red, green, blue = (channel / 255 for channel in PALETTE[index])
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    lightness += ((0.24, -0.16)[turn % 2] + 0.04 * (turn // 2)) * (1 - lightness)
    rgb = colorsys.hls_to_rgb(hue, min(max(lightness, 0.2), 0.88), saturation)
    return round(rgb[0] * 255), round(rgb[1] * 255), round(rgb[2] * 255)


def draw_detections(
    image: Image.Image | torch.Tensor,
    boxes_xyxy: npt.ArrayLike,
    captions: Sequence[str],
    class_ids: Sequence[int] | npt.NDArray[np.int64],
) -> Image.Image:
    """A copy of the picture with boxes and captions; line width and font grow with the picture.

    Args:
        image: A picture, or uint8 RGB `[3, H, W]`.
        boxes_xyxy: `[N, 4]` in pixels of `image`; the first lies on top.
        captions: N texts; an empty one draws no caption. Too long ones are cut.
        class_ids: N ids that choose the colours.

    Raises:
        ValueError: Lengths differ.
    """
    picture = _to_picture(image)
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    if not len(boxes) == len(captions) == len(class_ids):
        raise ValueError(
            f"boxes, captions and class_ids differ in length: "
            f"{len(boxes)}, {len(captions)}, {len(class_ids)}"
        )
    # Growing with the root keeps captions legible on thumbnails and modest on large pictures.
    root_px = min(picture.size) ** 0.5
    line_px = max(round(0.1 * root_px), 1)
    font = font_for(captions, max(round(0.66 * root_px), _MIN_FONT_PX))
    draw = ImageDraw.Draw(picture)
    colours = [colour_of(int(class_id)) for class_id in class_ids]
    for box, colour in reversed(list(zip(boxes, colours, strict=True))):
        _draw_box(draw, box, colour, line_px)
    occupied: list[_Rectangle] = [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes.tolist()]
    for box, caption, colour in zip(boxes, captions, colours, strict=True):
        if caption:
            chip = _draw_caption(draw, box, caption, colour, font, line_px, occupied)
            occupied += [chip] * 4  # to hide another caption is worse than to hide a part of a box
    return picture


def visualize(
    image_path: str | os.PathLike[str],
    detections: Mapping[str, Any],
    path_save: str | os.PathLike[str] | None = None,
    image_size: tuple[float, float] = (8, 12),
    score_threshold: float = 0.5,
    class_map: Mapping[str, int] | None = None,
) -> Axes:
    """Shows a picture with what `.score()` found on it.

    Args:
        image_path: The picture.
        detections: `detection_boxes` as [top, left, bottom, right] in 0..1, `detection_scores`,
            `detection_classes`, `num_detections`.
        path_save: Also saves the figure there; missing folders are made.
        image_size: Width and height of the figure in inches.
        score_threshold: Draws what scores at least so much, 0..1.
        class_map: Name -> class id, for captions; without it they show the id.

    Returns:
        The axes; `.get_figure()` is the figure.

    Raises:
        StorageError: The picture cannot be read, or the figure not be written.
        ImageError: It is no picture.
    """
    picture = load_picture(image_path)
    count = int(detections["num_detections"])
    scores = np.asarray(detections["detection_scores"], np.float64)[:count]
    class_ids = np.asarray(detections["detection_classes"], np.int64)[:count]
    boxes_tlbr = np.asarray(detections["detection_boxes"], np.float64).reshape(-1, 4)[:count]
    keep = scores >= score_threshold
    width, height = picture.size
    boxes_xyxy = boxes_tlbr[keep][:, [1, 0, 3, 2]] * [width, height, width, height]
    names = {class_id: name for name, class_id in (class_map or {}).items()}
    captions = [
        f"{names.get(int(class_id), f'class {class_id}')} {score:.2f}"
        for class_id, score in zip(class_ids[keep], scores[keep], strict=True)
    ]
    drawn = draw_detections(picture, boxes_xyxy, captions, class_ids[keep])
    axes = show(drawn, title=os.path.basename(os.fspath(image_path)), image_size=image_size)
    if path_save is not None:
        _save(axes, path_save)
    return axes


def load_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Reads a picture at full size, upright, RGB.

    Raises:
        StorageError: It cannot be read.
        ImageError: It is no picture.
    """
    source = os.fspath(path)
    return _to_picture(decode_image(storage.read_bytes(source), source=source).pixels)


def show(picture: Image.Image, *, title: str, image_size: tuple[float, float]) -> Axes:
    """A picture on matplotlib axes without ticks.

    Appears in a notebook, or wherever pyplot is already in use; elsewhere no window and no global
    backend is touched.

    Args:
        picture: What to show.
        title: Line above it.
        image_size: Width and height of the figure in inches.
    """
    if "matplotlib.pyplot" in sys.modules:
        import matplotlib.pyplot as plt

        figure: Any = plt.figure(figsize=image_size)
    else:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=image_size)
        FigureCanvasAgg(figure)
    axes: Axes = figure.add_subplot()
    axes.imshow(np.asarray(picture))
    axes.set_title(title)
    axes.set_axis_off()
    return axes


def _save(axes: Axes, path_save: str | os.PathLike[str]) -> None:
    path = storage.local_path(path_save)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        axes.figure.get_figure(root=True).savefig(path, bbox_inches="tight")
    except OSError as error:
        raise StorageError("Cannot write the figure", where=path, got=error.strerror) from None
    except ValueError as error:
        raise StorageError(
            "Cannot write the figure", where=path, got=error, hint="End the name in .png or .jpg"
        ) from None


def _to_picture(image: Image.Image | torch.Tensor) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def _draw_box(
    draw: ImageDraw.ImageDraw, box: npt.NDArray[np.float64], colour: Colour, line_px: int
) -> None:
    # The last pixel inside a box [x1, x2) is x2 - 1. The dark edge separates any colour from any ground.
    x1, y1, x2, y2 = box.tolist()
    right, bottom = max(x2 - 1, x1), max(y2 - 1, y1)
    casing = max(line_px // 2, 1)
    outer = (x1 - casing, y1 - casing, right + casing, bottom + casing)
    draw.rectangle(outer, outline=(20, 20, 20), width=line_px + 2 * casing)
    draw.rectangle((x1, y1, right, bottom), outline=colour, width=line_px)


def _ink_on(colour: Colour) -> Colour:
    """Black or white, whichever has the greater contrast as WCAG 2 measures it."""
    linear = [
        (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
        for c in (channel / 255 for channel in colour)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # (luminance + 0.05) / 0.05 against 1.05 / (luminance + 0.05)
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (255, 255, 255)


def _draw_caption(
    draw: ImageDraw.ImageDraw,
    box: npt.NDArray[np.float64],
    caption: str,
    colour: Colour,
    font: Font,
    line_px: int,
    occupied: Sequence[_Rectangle],
) -> _Rectangle:
    image_width, image_height = draw.im.size
    padding = line_px + 1
    caption = shortened(caption, font, image_width - 2 * padding)
    _, top, _, bottom = draw.textbbox((0, 0), "Ég", font=font)
    height = bottom - top + 2 * padding
    width = draw.textlength(caption, font=font) + 2 * padding
    x1, y1, x2, y2 = box.tolist()
    left = min(max(x1 - line_px, 0), max(image_width - width, 0))
    right_aligned = min(max(x2 + line_px - width, 0), max(image_width - width, 0))
    rows = (y1 - height - line_px, y1, y2 + line_px, y2 - height)
    options = [(x, y) for y in rows for x in (left, right_aligned)]
    inside = [(x, y) for x, y in options if 0 <= y and y + height <= image_height]
    inside = inside or [(left, min(max(y1, 0), max(image_height - height, 0)))]

    def hidden_px(corner: tuple[float, float]) -> float:
        x, y = corner
        return sum(
            max(min(x + width, right) - max(x, left), 0)
            * max(min(y + height, bottom) - max(y, top), 0)
            for left, top, right, bottom in occupied
        )

    x, y = min(inside, key=hidden_px)
    chip = (x, y, x + width, y + height)
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour, outline=(20, 20, 20))
    draw.text((x + padding, y + padding - top), caption, fill=_ink_on(colour), font=font)
    return chip


def shortened(text: str, font: Font, room_px: float) -> str:
    """The text, or so much of its beginning as fits; at least one character."""
    if font.getlength(text) <= room_px:
        return text
    for length in range(len(text) - 1, 0, -1):
        candidate = f"{text[:length].rstrip()}…"
        if font.getlength(candidate) <= room_px:
            return candidate
    return text[:1]


def save_picture(picture: Image.Image, path: str | os.PathLike[str]) -> None:
    """Writes a picture as its name asks for.

    Raises:
        StorageError: The name ends neither in .png nor in .jpg, or it cannot be written.
    """
    ending = os.path.splitext(os.fspath(path).partition("?")[0])[1].lower()
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(ending)
    if kind is None:
        raise StorageError(
            "Cannot write the picture", where=path, hint="End the name in .png or .jpg"
        )
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=90)
    storage.write_bytes(path, buffer.getvalue())
