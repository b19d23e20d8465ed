"""Large pictures in tiles: small objects keep the pixels that the model's input size would take from them.

    picture -> the whole and its tiles -> one `Detections` each -> merge -> one `Detections`

The whole is always scored too, because an object larger than a tile is cut by every one; and an object that
only tiles can see should fit into their overlap, or it may be cut by all of them. Source: slices and the whole
as in arXiv 2202.06934 (SAHI); `merge` is our own, its numbers from shelves of 1 to 16 sample scenes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from appliance.detections import Detections
from appliance.errors import ConfigError
from appliance.images.decoding import DecodedImage
from appliance.images.gpu_jpeg import averaged
from appliance.model.inference.suppression import suppress
from appliance.model.predictor import Predictor

MAX_TILES = 64
CUT_WITHIN = 0.01
"""A box that ends so near an inner border of its tile, in sides of the tile, counts as cut by it."""
COVERED_FROM = 0.8
"""So much of a part lies in the box that it is a part of; the rest is for boxes that are a little off."""
CUT_SCORE_RATIO = 0.5
"""A box scores so much of what its cut part does, or faint boxes around several objects cost recall."""
LARGE_FROM = 0.2
"""An object is large for a tile from a box of this share of both sides on. Less cost AP of small objects."""

Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class Tiling:
    """How a picture is divided into tiles of one size.

    Attributes:
        rows: Tiles one below the other.
        columns: Tiles side by side.
        overlap: The share of a tile's side that it has in common with its neighbour, 0 <= overlap < 1.

    Raises:
        ConfigError: A value is out of range; one tile, or more than `MAX_TILES`, are too.
    """

    rows: int
    columns: int
    overlap: float = 0.2

    def __post_init__(self) -> None:
        is_count = min(self.rows, self.columns) >= 1 and 2 <= self.rows * self.columns <= MAX_TILES
        if not (is_count and 0 <= self.overlap < 1):
            raise ConfigError(
                "The tiling is out of range",
                got=self,
                expected=f"2 to {MAX_TILES} tiles, and an overlap from 0 to below 1 of a tile's side",
                hint="Leave it out to score pictures only as a whole",
            )

    @classmethod
    def parse(cls, text: str) -> Tiling:
        """Reads ROWSxCOLUMNS[:OVERLAP], such as 2x2 or 3x4:0.25.

        Raises:
            ConfigError: It is something else, or out of range.
        """
        pattern = r"(\d{1,4})x(\d{1,4})(?::(-?\d*\.?\d+(?:e-\d+)?))?"
        match = re.fullmatch(pattern, text, re.ASCII)
        if match is None:
            raise ConfigError(
                "This is no tiling", got=text, expected="ROWSxCOLUMNS[:OVERLAP], such as 2x2:0.2"
            )
        rows, columns, overlap = match.groups(default=cls.overlap)
        return cls(int(rows), int(columns), float(overlap))

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}:{str(self.overlap).removesuffix('.0')}"

    def windows(self, size_hw: tuple[int, int]) -> tuple[Window, ...]:
        """Where the tiles of a picture lie, row by row.

        Args:
            size_hw: Height and width in pixels.

        Returns:
            (x1, y1, x2, y2) in pixels, all of one size; neighbours share `overlap`, or by rounding one pixel less
            to three more. None twice: there are fewer where a side has hardly any pixels.
        """
        height, width = size_hw
        across = _intervals(width, self.columns, self.overlap)
        down = _intervals(height, self.rows, self.overlap)
        return tuple((x1, y1, x2, y2) for y1, y2 in down for x1, x2 in across)

    def shorter_side_px(self, tile_px: int) -> int:
        """How long a picture's shorter side must be for no side of a tile to be shorter than `tile_px`."""
        return math.ceil(tile_px * _sides(max(self.rows, self.columns), self.overlap))


@dataclass(frozen=True, eq=False)
class TileDetections:
    """What was found on one tile.

    Attributes:
        detections: In pixels of the original picture.
        window_xyxy: Where the tile lies there: x1, y1, x2, y2.
    """

    detections: Detections
    window_xyxy: tuple[float, ...]


def predict_tiled(
    predictor: Predictor, tiling: Tiling, images: Sequence[DecodedImage]
) -> list[Detections]:
    """Detects on whole pictures and their tiles, all in one call of the predictor.

    Args:
        predictor: Its thresholds and labels hold for each view; suppression and maximum for the answer, too.
        tiling: Of every picture.
        images: Of `tiling.shorter_side_px(predictor.min_shorter_side_px)` or more, where the original is.

    Returns:
        One for each picture, in the order given.
    """
    views: list[DecodedImage] = []
    windows_of: list[tuple[Window, ...]] = []
    for image in images:
        # Brought to the device once, instead of once for each view.
        pixels = image.pixels.to(predictor.device)
        views.append(_view(pixels, image.size_hw, predictor.min_shorter_side_px))
        windows_of.append(tiling.windows((pixels.shape[1], pixels.shape[2])))
        for x1, y1, x2, y2 in windows_of[-1]:
            tile = pixels[:, y1:y2, x1:x2]
            views.append(_view(tile, (y2 - y1, x2 - x1), predictor.min_shorter_side_px))
    found = iter(predictor.predict(views))
    return [
        merge(
            next(found),
            [_placed(next(found), window, image) for window in windows],
            nms_iou_threshold=predictor.spec.nms_iou_threshold,
            max_detections=predictor.spec.max_detections,
            class_agnostic=predictor.class_agnostic_nms,
        )
        for image, windows in zip(images, windows_of, strict=True)
    ]


def merge(
    whole: Detections,
    tiles: Sequence[TileDetections],
    *,
    nms_iou_threshold: float,
    max_detections: int,
    class_agnostic: bool = False,
) -> Detections:
    """One answer, in pixels of the original picture, from what was found on it and on its tiles.

    First go those boxes of tiles that are parts of an object which another view shows in full: at least
    `COVERED_FROM` of such a box lies within a box of the same class from another view, and

    - an inner border of its tile cuts it (`CUT_WITHIN`), while the other box reaches at least as far on that side
      and scores at least `CUT_SCORE_RATIO` of its score; or
    - the other box is of the whole picture, larger, scores at least as high, and is large for the tile
      (`LARGE_FROM`): at a scale beyond what it has learnt, a model takes parts for objects.

    Then boxes are suppressed as on any picture. So a cut box goes only in favour of one that may be the whole of
    it, and an object that nothing but a cut box shows stays, cut as it is. Hence the share of the cut box, and not
    IoU (a small part has little) or the share of the smaller (one in front would remove the cut one behind).
    Cut boxes stand for others, too, the larger first, so that no two remove each other. What may be lost is an
    object that only a tile found, inside a larger one of its class.

    Args:
        whole: On the picture as a whole.
        tiles: On each tile.
        nms_iou_threshold: A box that overlaps a better one by more is dropped, 0..1.
        max_detections: At most so many are left.
        class_agnostic: Boxes of different classes are compared, too.
    """
    views = [whole, *(tile.detections for tile in tiles)]
    class_ids = np.concatenate([view.class_ids for view in views])
    found = _Boxes(
        boxes_xyxy=np.concatenate([view.boxes_xyxy for view in views]).astype(np.float64),
        scores=np.concatenate([view.scores for view in views]),
        groups=np.zeros_like(class_ids) if class_agnostic else class_ids,
        view_ids=np.repeat(np.arange(len(views)), [len(view) for view in views]),
        cut_sides=np.concatenate([np.zeros((len(whole), 4), np.bool_), *map(_cut_sides, tiles)]),
    )
    tile_areas = _areas(np.array([tile.window_xyxy for tile in tiles]).reshape(-1, 4))
    keep = np.flatnonzero(~_cut_parts(found, _parts_of_large(found, tile_areas)))
    keep = keep[np.argsort(-found.scores[keep], kind="stable")]
    boxes_xyxy, scores, groups = (
        torch.from_numpy(values[keep])[None]
        for values in (found.boxes_xyxy, found.scores, found.groups)
    )
    mask, _ = suppress(boxes_xyxy, scores, nms_iou_threshold, groups=groups, greedy=True)
    keep = keep[mask[0].numpy()][:max_detections]
    boxes = found.boxes_xyxy[keep].astype(np.float32)
    return Detections(boxes, found.scores[keep], class_ids[keep], whole.size_hw)


@dataclass(frozen=True, eq=False)
class _Boxes:
    """The boxes of all views; only boxes of one group are compared; view 0 is the whole picture."""

    boxes_xyxy: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float32]
    groups: npt.NDArray[np.int64]
    view_ids: npt.NDArray[np.int64]
    cut_sides: npt.NDArray[np.bool_]


def _sides(count: int, overlap: float) -> float:
    """How many sides of a tile a side of the picture is long."""
    return count - (count - 1) * overlap


def _intervals(length: int, count: int, overlap: float) -> list[tuple[int, int]]:
    side = min(length, math.ceil(length / _sides(count, overlap)))
    # Rounded down, no two neighbours are further apart than their side, which is rounded up.
    starts = [index * (length - side) // max(1, count - 1) for index in range(count)]
    return [(start, start + side) for start in dict.fromkeys(starts)]


def _view(pixels: torch.Tensor, size_hw: tuple[int, int], shorter_side_px: int) -> DecodedImage:
    """Near the input size, as decoding brings whole pictures: what follows scales without a filter."""
    return DecodedImage(averaged(pixels, max(1, min(pixels.shape[1:]) // shorter_side_px)), size_hw)


def _placed(found: Detections, window: Window, image: DecodedImage) -> TileDetections:
    """From pixels of a tile to those of the original picture."""
    limits, decoded = (np.array([w, h] * 2) for h, w in (image.size_hw, image.pixels.shape[1:]))
    # Multiplied first, so that the far border of the last tile is that of the picture to the last bit.
    boxes_xyxy = (found.boxes_xyxy.astype(np.float64) + np.array(window[:2] * 2)) * limits / decoded
    boxes_xyxy = np.clip(boxes_xyxy, 0, limits).astype(np.float32)
    # Far from the corner, single precision may not tell the sides of the thinnest boxes apart.
    keep = (boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(axis=1)
    moved = Detections(boxes_xyxy[keep], found.scores[keep], found.class_ids[keep], image.size_hw)
    return TileDetections(moved, tuple((np.array(window) * limits / decoded).tolist()))


def _cut_sides(tile: TileDetections) -> npt.NDArray[np.bool_]:
    """Which sides of a tile's boxes, `[N, 4]`, an inner border of the tile may have cut."""
    x1, y1, x2, y2 = tile.window_xyxy
    height, width = tile.detections.size_hw
    is_inner = np.array([x1 > 0, y1 > 0, x2 < width, y2 < height])
    tolerance = np.where(is_inner, CUT_WITHIN * np.array([x2 - x1, y2 - y1] * 2), -1)
    is_cut: npt.NDArray[np.bool_] = (
        np.abs(tile.detections.boxes_xyxy - np.array(tile.window_xyxy)) <= tolerance
    )
    return is_cut


def _parts_of_large(found: _Boxes, tile_areas: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which boxes of tiles, `[N]`, are parts of a large object of the whole picture."""
    areas, large_from = _areas(found.boxes_xyxy), LARGE_FROM**2 * np.append(np.inf, tile_areas)
    is_part = np.zeros(len(areas), np.bool_)
    for other in range(int((found.view_ids == 0).sum())):
        fits = (areas[other] >= large_from[found.view_ids]) & (areas[other] > areas)
        fits &= (found.scores[other] >= found.scores) & (found.groups[other] == found.groups)
        is_part |= fits & (_shared(found.boxes_xyxy, other) >= COVERED_FROM * areas)
    return is_part


def _cut_parts(found: _Boxes, is_part: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """`is_part`, `[N]`, and the cut boxes that are parts of a box of another view."""
    areas, outwards_xyxy = _areas(found.boxes_xyxy), found.boxes_xyxy * (-1, -1, 1, 1)
    is_cut = found.cut_sides.any(axis=1)
    is_part, stands = is_part.copy(), ~is_cut & ~is_part
    cut = np.flatnonzero(is_cut & ~is_part)
    for index in cut[np.argsort(-areas[cut], kind="stable")].tolist():
        sides = found.cut_sides[index]
        fits = stands & (outwards_xyxy[:, sides] >= outwards_xyxy[index, sides]).all(axis=1)
        fits &= (found.groups == found.groups[index]) & (found.view_ids != found.view_ids[index])
        fits &= found.scores >= CUT_SCORE_RATIO * found.scores[index]
        fits &= _shared(found.boxes_xyxy, index) >= COVERED_FROM * areas[index]
        is_part[index] = fits.any()
        stands[index] = not is_part[index]
    return is_part


def _areas(boxes_xyxy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    return sides[:, 0] * sides[:, 1]


def _shared(boxes_xyxy: npt.NDArray[np.float64], index: int) -> npt.NDArray[np.float64]:
    """The area that each box, `[N]`, has in common with one of them."""
    low = np.maximum(boxes_xyxy[:, :2], boxes_xyxy[index, :2])
    high = np.minimum(boxes_xyxy[:, 2:], boxes_xyxy[index, 2:])
    sides: npt.NDArray[np.float64] = np.clip(high - low, 0, None)
    return sides[:, 0] * sides[:, 1]
