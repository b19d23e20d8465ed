"""Whether an exported file gives the detector's answers: found out by running it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from appliance.detections import Detections
from appliance.images.decoding import DecodedImage
from appliance.model.predictor import Predictor

MAX_BOX_DIFFERENCE_PX = 0.5
MAX_SCORE_DIFFERENCE = 1e-3
MAX_UNMATCHED_SHARE = 0.002
"""Of the detections, rounded down, so none of fewer than 500: where two boxes are equally good, or overlap
just as much as is allowed, rounding decides which one is kept."""
# Shorter and longer, taller and wider, smaller and larger than what the network sees; one odd in each way.
SIZES_HW = (
    (480, 640),
    (640, 480),
    (333, 500),
    (720, 1280),
    (97, 211),
    (1000, 700),
    (64, 64),
    (50, 400),
    (600, 601),
    (1024, 1536),
)

Outputs = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Runner = Callable[[np.ndarray], Outputs]
"""uint8 `[B, 3, H, W]` to boxes, scores, class ids and counts, as `DetectorGraph` gives them."""


@dataclass(frozen=True)
class Parity:
    """What the comparison found.

    Attributes:
        pictures: Pictures compared.
        detections: Detections of the detector on them.
        unmatched: Detections of either side without a counterpart of the same class, within
            `MAX_BOX_DIFFERENCE_PX` and `MAX_SCORE_DIFFERENCE`.
        max_box_difference_px: Among those matched.
        max_score_difference: Among those matched.
    """

    pictures: int
    detections: int
    unmatched: int
    max_box_difference_px: float
    max_score_difference: float

    @property
    def is_good(self) -> bool:
        """Whether the answers are the same but for what rounding decides."""
        return self.unmatched <= int(MAX_UNMATCHED_SHARE * self.detections)


def drawn_pictures(seed: int = 7) -> list[DecodedImage]:
    """Ten pictures of different sizes: coloured patches on a blurred background."""
    generator = torch.Generator().manual_seed(seed)

    def draw(height: int, width: int) -> DecodedImage:
        coarse = torch.rand(1, 3, 5, 7, generator=generator)
        picture = F.interpolate(coarse, size=(height, width), mode="bilinear")[0]
        for _ in range(6):
            corners = torch.rand(4, generator=generator)
            top, left = int(corners[0] * height * 0.8), int(corners[1] * width * 0.8)
            bottom = top + 4 + int(corners[2] * height * 0.4)
            right = left + 4 + int(corners[3] * width * 0.4)
            picture[:, top:bottom, left:right] = torch.rand(3, 1, 1, generator=generator)
        return DecodedImage((picture * 255).round().to(torch.uint8), (height, width))

    return [draw(*size_hw) for size_hw in SIZES_HW]


def compare(run: Runner, predictor: Predictor, pictures: Sequence[DecodedImage]) -> Parity:
    """Runs the exported detector and the predictor on the same pictures, one by one and three at once."""
    matched: list[tuple[float, float]] = []
    detections = unmatched = 0
    for number, picture in enumerate(pictures):
        expected = predictor.predict([picture])[0]
        copies = 3 if number == 0 else 1
        pixels = np.repeat(picture.pixels.numpy()[None], copies, axis=0)
        for found in _detections(run(pixels)):
            detections += len(expected)
            differences, missed = _match(expected, found, predictor)
            matched += differences
            unmatched += missed
    boxes_px, scores = zip(*matched, strict=True) if matched else ((0.0,), (0.0,))
    return Parity(len(pictures), detections, unmatched, max(boxes_px), max(scores))


class _Found(NamedTuple):
    """One picture's answer of a file, unchecked: what is wrong with it shall be counted, not raise."""

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray


def _detections(outputs: Outputs) -> list[_Found]:
    found = []
    for boxes_xyxy, scores, class_ids, count in zip(*outputs, strict=True):
        x1, y1, x2, y2 = boxes_xyxy[:count].T
        keep = np.flatnonzero((x1 < x2) & (y1 < y2))
        found.append(_Found(boxes_xyxy[keep], scores[keep], class_ids[keep]))
    return found


def _match(
    expected: Detections, found: _Found, predictor: Predictor
) -> tuple[list[tuple[float, float]], int]:
    """Differences of the pairs, and how many on either side have no partner."""
    box_px = np.abs(expected.boxes_xyxy[:, None] - found.boxes_xyxy[None]).max(-1, initial=0.0)
    score = np.abs(expected.scores[:, None] - found.scores[None])
    far = box_px > MAX_BOX_DIFFERENCE_PX
    far |= score > MAX_SCORE_DIFFERENCE
    far |= expected.class_ids[:, None] != found.class_ids[None]
    differences = []
    lonely_found = set(range(len(found.scores)))
    lonely_expected = []
    for row in range(len(expected)):
        near = [column for column in lonely_found if not far[row, column]]
        if near:
            best = min(near, key=lambda column: box_px[row, column])
            lonely_found.remove(best)
            differences.append((float(box_px[row, best]), float(score[row, best])))
        else:
            lonely_expected.append(row)
    lonely_scores = [*expected.scores[lonely_expected], *found.scores[sorted(lonely_found)]]
    # Rounding decides who passes the threshold or is the last of the allowed number.
    edges = [predictor.spec.score_threshold]
    if len(expected) == predictor.spec.max_detections:
        edges.append(float(expected.scores.min()))
    missed = [
        value
        for value in lonely_scores
        if min(abs(value - edge) for edge in edges) > MAX_SCORE_DIFFERENCE
    ]
    return differences, len(missed)
