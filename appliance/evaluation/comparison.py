"""Test pictures twice: with what is on them, and with what the model found; the worst ones first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from appliance import storage
from appliance.detections import Detections
from appliance.evaluation.evaluate import EvaluationResult
from appliance.evaluation.matching import GroundTruth, Matches
from appliance.images.decoding import decode_image
from appliance.images.drawing import draw_detections
from appliance.labels import LabelMap

if TYPE_CHECKING:
    from appliance.annotations.dataset import AnnotatedImage


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
    """

    name: str
    truth: Image.Image
    prediction: Image.Image
    score_threshold: float
    num_found: int
    wrong: tuple[tuple[str, float], ...]
    missed: tuple[str, ...]


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
    picture = read_picture(image.storage_path)
    return Comparison(
        name=image.name,
        truth=draw_truth(picture, result.ground_truths[index], result.labels),
        prediction=draw_found(picture, result.detections[index], result.labels, score_threshold),
        score_threshold=score_threshold,
        num_found=int((here & matches.is_true_positive).sum()),
        wrong=tuple(
            (result.labels.name_of(class_id), score)
            for class_id, score in zip(
                matches.class_ids[wrong].tolist(), matches.scores[wrong].tolist(), strict=True
            )
        ),
        missed=tuple(map(result.labels.name_of, matches.object_class_ids[missed].tolist())),
    )


def _is_shown(matches: Matches, score_threshold: float) -> npt.NDArray[np.bool_]:
    return matches.scores >= np.float32(score_threshold)


def read_picture(storage_path: str) -> Image.Image:
    """One picture as RGB at full size, upright."""
    decoded = decode_image(storage.read_bytes(storage_path), source=storage_path)
    return Image.fromarray(decoded.pixels.permute(1, 2, 0).numpy())


def draw_truth(picture: Image.Image, truth: GroundTruth, labels: LabelMap) -> Image.Image:
    """The annotated objects, with their labels."""
    captions = [
        labels.name_of(class_id) + (" (difficult)" if difficult else "")
        for class_id, difficult in zip(
            truth.class_ids.tolist(), truth.difficult.tolist(), strict=True
        )
    ]
    return draw_detections(picture, truth.boxes_xyxy, captions, truth.class_ids)


def draw_found(
    picture: Image.Image, found: Detections, labels: LabelMap, score_threshold: float
) -> Image.Image:
    """The detections at or above the threshold, with label and score."""
    shown = found.filter(score_threshold=score_threshold)
    captions = [
        f"{labels.name_of(class_id)} {score:.2f}"
        for class_id, score in zip(shown.class_ids.tolist(), shown.scores.tolist(), strict=True)
    ]
    return draw_detections(picture, shown.boxes_xyxy, captions, shown.class_ids)
