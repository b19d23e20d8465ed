"""Whether an exported file gives the detector's answers: found out by running it.

Two computations that differ in their last bits differ in a detection now and then: where two proposals overlap
just as much as is allowed, or score the same, rounding decides which one is kept. What the file answers
otherwise is therefore held against the detector with weights moved by next to nothing: what that changes,
too, was decided by rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.models.detection import FasterRCNN

from appliance.detections import Detections
from appliance.images.decoding import DecodedImage
from appliance.model.model_file import LoadedModel
from appliance.model.predictor import Predictor

MAX_BOX_DIFFERENCE_PX = 0.5
MAX_SCORE_DIFFERENCE = 1e-3
MAX_UNMATCHED_SHARE = 0.002
"""Of the detections, rounded down, so none of fewer than 500."""
MAX_ROUNDED_SHARE = 0.02
"""Of the detections may be decided by rounding, and one pair in any case: more, and the file proves nothing."""
WEIGHT_NOISE = 3e-6
"""Relative; some ten times what rounding does to a layer."""
SHAKES = 8
"""Each of them tells with a probability of a half that a decision is one of rounding."""
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
        rounded: Such ones that rounding decides, so that they do not count as unmatched.
        max_box_difference_px: Among those matched.
        max_score_difference: Among those matched.
    """

    pictures: int
    detections: int
    unmatched: int
    rounded: int
    max_box_difference_px: float
    max_score_difference: float

    @property
    def is_good(self) -> bool:
        """Whether the answers are the same but for what rounding decides."""
        return self.unmatched <= int(MAX_UNMATCHED_SHARE * self.detections) and (
            self.rounded <= max(2, MAX_ROUNDED_SHARE * self.detections)
        )


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


def compare(run: Runner, model: LoadedModel, pictures: Sequence[DecodedImage]) -> Parity:
    """Runs the exported detector and the model on the same pictures, one by one and three at once."""
    predictor = Predictor(model.network, model.spec, device="cpu")
    matched: list[tuple[float, float]] = []
    detections = unmatched = rounded = 0
    for number, picture in enumerate(pictures):
        expected = predictor.predict([picture])[0]
        copies = 3 if number == 0 else 1
        pixels = np.repeat(picture.pixels.numpy()[None], copies, axis=0)
        for found in _detections(run(pixels)):
            detections += len(expected)
            pairs = _match(expected, found, predictor)
            matched += pairs.differences
            lonely = len(pairs.only_expected) + len(pairs.only_found)
            decided = _decided_by_rounding(model, picture, expected, found, pairs) if lonely else 0
            rounded += decided
            unmatched += lonely - decided
    boxes_px, scores = zip(*matched, strict=True) if matched else ((0.0,), (0.0,))
    return Parity(len(pictures), detections, unmatched, rounded, max(boxes_px), max(scores))


class _Found(NamedTuple):
    """One picture's answer of a file, unchecked: what is wrong with it shall be counted, not raise."""

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray


class _Pairs(NamedTuple):
    """The detections of two answers side by side.

    Attributes:
        differences: Of each pair, in pixels of a box and in score.
        only_expected: Rows of the first without a partner.
        only_found: Rows of the second without one.
    """

    differences: list[tuple[float, float]]
    only_expected: list[int]
    only_found: list[int]


def _detections(outputs: Outputs) -> list[_Found]:
    found = []
    for boxes_xyxy, scores, class_ids, count in zip(*outputs, strict=True):
        x1, y1, x2, y2 = boxes_xyxy[:count].T
        keep = np.flatnonzero((x1 < x2) & (y1 < y2))
        found.append(_Found(boxes_xyxy[keep], scores[keep], class_ids[keep]))
    return found


def _match(expected: Detections | _Found, found: _Found, predictor: Predictor) -> _Pairs:
    box_px, far = _differences(expected, found)
    score = np.abs(expected.scores[:, None] - found.scores[None])
    differences = []
    only_found = set(range(len(found.scores)))
    only_expected = []
    for row in range(len(expected.scores)):
        near = [column for column in only_found if not far[row, column]]
        if near:
            best = min(near, key=lambda column: box_px[row, column])
            only_found.remove(best)
            differences.append((float(box_px[row, best]), float(score[row, best])))
        else:
            only_expected.append(row)
    # Rounding decides who passes the threshold or is the last of the allowed number.
    edges = [predictor.spec.score_threshold]
    if len(expected.scores) == predictor.spec.max_detections:
        edges.append(float(expected.scores.min()))

    def is_inside(score: float) -> bool:
        return min(abs(score - edge) for edge in edges) > MAX_SCORE_DIFFERENCE

    return _Pairs(
        differences,
        [row for row in only_expected if is_inside(expected.scores[row])],
        [row for row in sorted(only_found) if is_inside(found.scores[row])],
    )


def _differences(
    first: Detections | _Found, second: Detections | _Found
) -> tuple[np.ndarray, np.ndarray]:
    """`[N, M]`: by how many pixels boxes differ, and whether two detections are different ones."""
    box_px = np.abs(first.boxes_xyxy[:, None] - second.boxes_xyxy[None]).max(-1, initial=0.0)
    far = box_px > MAX_BOX_DIFFERENCE_PX
    far |= np.abs(first.scores[:, None] - second.scores[None]) > MAX_SCORE_DIFFERENCE
    far |= first.class_ids[:, None] != second.class_ids[None]
    return box_px, far


def _decided_by_rounding(
    model: LoadedModel,
    picture: DecodedImage,
    expected: Detections,
    found: _Found,
    pairs: _Pairs,
) -> int:
    """How many of the lonely ones come or go when the model's weights move by next to nothing."""
    come, go = set(pairs.only_found), set(pairs.only_expected)
    for seed in range(SHAKES):
        shaken = Predictor(_shaken(model.network, seed), model.spec, device="cpu")
        (other,) = shaken.predict([picture])
        come -= {row for row in come if not _differences(found, other)[1][row].all()}
        go -= {row for row in go if _differences(expected, other)[1][row].all()}
        if not come and not go:
            break
    return len(pairs.only_found) + len(pairs.only_expected) - len(come) - len(go)


def _shaken(network: FasterRCNN, seed: int) -> FasterRCNN:
    """A copy with other last digits."""
    generator = torch.Generator().manual_seed(seed)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for weights in copied.parameters():
            weights.mul_(1 + WEIGHT_NOISE * torch.randn(weights.shape, generator=generator))
    return copied
