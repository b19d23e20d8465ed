"""Test pictures twice: with what is on them, and with what the model found; the worst ones first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from appliance.detections import Detections
from appliance.evaluation.evaluate import EvaluationResult
from appliance.evaluation.metrics.matching import GroundTruth, Matches
from appliance.images.drawing import draw_detections, load_picture
from appliance.labels import LabelMap

if TYPE_CHECKING:
    from appliance.annotations.dataset import AnnotatedImage

Window = tuple[int, int, int, int]

_SHOWN_PX = 800

# On a large picture, shown small, nobody sees a small error: then only the part around the errors is shown.
_LARGE_PX = 1000
_SMALL_SHARE = 0.06
_LEAST_WINDOW_PX = 400
_ROOM = 0.12
_WORTH_ZOOMING = 0.7


@dataclass(frozen=True, eq=False)
class Comparison:
    """One test picture for people to look at.

    Attributes:
        name: File name of the picture.
        truth: The picture with its annotated objects.
        prediction: The picture with the detections at or above `score_threshold`.
        score_threshold: What was shown.
        num_found: Objects found.
        wrong: Label and score of every false positive.
        missed: Label of every object not found.
        window_xyxy: The part of the picture that is shown, in its pixels; None shows the whole.
    """

    name: str
    truth: Image.Image
    prediction: Image.Image
    score_threshold: float
    num_found: int
    wrong: tuple[tuple[str, float], ...]
    missed: tuple[str, ...]
    window_xyxy: Window | None = None


def worst_first(matches: Matches, score_threshold: float) -> npt.NDArray[np.int64]:
    """Ranks the pictures: most errors first, then the most confident mistake, then their order.

    Args:
        matches: The verdicts of an evaluation.
        score_threshold: Detections below it do not count.

    Returns:
        int64 `[num_images]`: indices of pictures.
    """
    is_wrong = _is_shown(matches, score_threshold) & matches.is_false_positive
    wrong_in = matches.image_index[is_wrong]
    missed_in = matches.object_image_index[matches.object_is_missed(score_threshold)]
    num_errors = np.bincount(np.concatenate([wrong_in, missed_in]), minlength=matches.num_images)
    worst_score = np.zeros(matches.num_images, np.float32)
    np.maximum.at(worst_score, wrong_in, matches.scores[is_wrong])
    return np.lexsort((-worst_score, -num_errors))


def compare_pictures(
    images: Sequence[AnnotatedImage],
    result: EvaluationResult,
    *,
    limit: int = 12,
    score_threshold: float | None = None,
) -> list[Comparison]:
    """Draws truth and predictions on the pictures with the most errors.

    Args:
        images: The pictures that were evaluated, in the same order; only those drawn are read again.
        result: Their evaluation.
        limit: Draw at most so many.
        score_threshold: Show detections at or above it; None takes the best one of `result`, or 0.5
            where it has none.

    Raises:
        StorageError: A picture cannot be read.
        ImageError: It is no picture any more.
    """
    if score_threshold is None:
        best = result.pascal.best.score_threshold
        score_threshold = 0.5 if best is None else best
    ranked = worst_first(result.pascal.matches, score_threshold)[:limit]
    return [
        _compare(images[index], int(index), result, score_threshold) for index in ranked.tolist()
    ]


def _compare(
    image: AnnotatedImage, index: int, result: EvaluationResult, score_threshold: float
) -> Comparison:
    matches = result.pascal.matches
    here = _is_shown(matches, score_threshold) & (matches.image_index == index)
    wrong = here & matches.is_false_positive
    missed = matches.object_is_missed(score_threshold) & (matches.object_image_index == index)
    picture = load_picture(image.storage_path)
    truth, found = result.ground_truths[index], result.detections[index]
    errors_xyxy = np.concatenate(
        [
            found.boxes_xyxy[matches.detection_index[wrong]],
            truth.boxes_xyxy[matches.object_index[missed]],
        ]
    )
    window = window_around(errors_xyxy, picture.size)
    return Comparison(
        name=image.name,
        truth=draw_truth(picture, truth, result.labels, window),
        prediction=draw_found(picture, found, result.labels, score_threshold, window),
        score_threshold=score_threshold,
        num_found=int((here & matches.is_true_positive).sum()),
        wrong=tuple(
            (result.labels.name_of(class_id), score)
            for class_id, score in zip(
                matches.class_ids[wrong].tolist(), matches.scores[wrong].tolist(), strict=True
            )
        ),
        missed=tuple(map(result.labels.name_of, matches.object_class_ids[missed].tolist())),
        window_xyxy=window,
    )


def window_around(errors_xyxy: npt.NDArray[np.float32], size_wh: tuple[int, int]) -> Window | None:
    """The part of a large picture that shows its small errors well; None where the whole does.

    Args:
        errors_xyxy: `[E, 4]`, what is wrong or missed.
        size_wh: Of the picture.
    """
    size = np.array(size_wh)
    sides = errors_xyxy[:, 2:] - errors_xyxy[:, :2]
    if size.max() < _LARGE_PX or not (sides.max(axis=1) < _SMALL_SHARE * size.max()).any():
        return None
    low, high = errors_xyxy[:, :2].min(axis=0), errors_xyxy[:, 2:].max(axis=0)
    # With some room around them, in the proportions of the picture.
    share = max(float(((high - low) / size).max()) + _ROOM, _LEAST_WINDOW_PX / float(size.max()))
    if share > _WORTH_ZOOMING:
        return None
    extent = np.ceil(size * share)
    corner = np.clip(np.floor((low + high - extent) / 2), 0, size - extent)
    x1, y1, x2, y2 = np.concatenate([corner, corner + extent]).astype(int).tolist()
    return x1, y1, x2, y2


def _is_shown(matches: Matches, score_threshold: float) -> npt.NDArray[np.bool_]:
    return matches.scores >= np.float32(score_threshold)


def shrunk(picture: Image.Image) -> Image.Image:
    """A copy, no larger than a report shows pictures."""
    small = picture.convert("RGB")
    small.thumbnail((_SHOWN_PX, _SHOWN_PX))
    return small


def draw_truth(
    picture: Image.Image, truth: GroundTruth, labels: LabelMap, window: Window | None = None
) -> Image.Image:
    """The annotated objects, with their labels; on a part of the picture, or the whole."""
    captions = [
        labels.name_of(class_id) + (" (difficult)" if difficult else " (crowd)" if crowd else "")
        for class_id, difficult, crowd in zip(
            truth.class_ids.tolist(),
            truth.difficult.tolist(),
            truth.is_crowd.tolist(),
            strict=True,
        )
    ]
    return _draw(picture, truth.boxes_xyxy, captions, truth.class_ids, window)


def draw_found(
    picture: Image.Image,
    found: Detections,
    labels: LabelMap,
    score_threshold: float,
    window: Window | None = None,
) -> Image.Image:
    """The detections at or above the threshold, with label and score."""
    shown = found.filter(score_threshold=score_threshold)
    captions = [
        f"{labels.name_of(class_id)} {score:.2f}"
        for class_id, score in zip(shown.class_ids.tolist(), shown.scores.tolist(), strict=True)
    ]
    return _draw(picture, shown.boxes_xyxy, captions, shown.class_ids, window)


def _draw(
    picture: Image.Image,
    boxes_xyxy: npt.NDArray[np.float32],
    captions: Sequence[str],
    class_ids: npt.NDArray[np.int64],
    window: Window | None,
) -> Image.Image:
    if window is None:
        return draw_detections(picture, boxes_xyxy, captions, class_ids)
    x1, y1, x2, y2 = window
    inside = np.clip(boxes_xyxy - np.array([x1, y1, x1, y1]), 0, [x2 - x1, y2 - y1] * 2)
    is_shown = (inside[:, :2] < inside[:, 2:]).all(axis=1)
    return draw_detections(
        picture.crop(window),
        inside[is_shown],
        [caption for caption, shown in zip(captions, is_shown.tolist(), strict=True) if shown],
        class_ids[is_shown],
    )
