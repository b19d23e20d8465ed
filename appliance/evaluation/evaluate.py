"""From annotated pictures and detections to the figures of an evaluation.

It knows annotations and labels by name, and hands bare boxes and ids to the metrics. How the detections
came about is not its business.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from appliance.detections import Detections
from appliance.errors import LabelError
from appliance.evaluation.metrics.average_precision import (
    Interpolation,
    LabelResult,
    OperatingPoint,
    PascalResult,
    pascal_average_precision,
)
from appliance.evaluation.metrics.coco import CocoResult, coco_average_precision
from appliance.evaluation.metrics.matching import GroundTruth
from appliance.labels import LabelMap

if TYPE_CHECKING:
    from appliance.annotations.dataset import AnnotatedImage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Speed:
    """How fast the detections were made.

    Attributes:
        seconds: Wall time of reading, decoding and detecting.
        images_per_s: Pictures a second.
    """

    seconds: float
    images_per_s: float


@dataclass(frozen=True)
class LabelFigures:
    """The figures of one class, PASCAL's and COCO's side by side.

    Attributes:
        label: Its name.
        objects: Objects that count (not difficult).
        ap_50: PASCAL average precision; None without an object that counts.
        ap: COCO average precision, the mean over IoU 0.5, 0.55, ..., 0.95; likewise.
        precision: Share of right ones among the detections at the recommended threshold.
        recall: Share of the objects found there.
        f1: Harmonic mean of both: the highest that any threshold gives.
        recommended_threshold: See `recommended_threshold`.
        true_positives: Objects found at that threshold.
        false_positives: Wrong detections there.
        false_negatives: Objects missed there.
    """

    label: str
    objects: int
    ap_50: float | None
    ap: float | None
    precision: float
    recall: float
    f1: float
    recommended_threshold: float | None
    true_positives: int
    false_positives: int
    false_negatives: int


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """What an evaluation found out.

    Attributes:
        pascal: The figures per class and over all, with the verdict on every detection.
        labels: The classes of the model.
        ground_truths: One per picture.
        detections: One per picture, in the same order.
        duration_s: Scoring, where it was given, and measuring together.
        speed: How fast the detections were made; None where nobody measured it.
    """

    pascal: PascalResult
    labels: LabelMap
    ground_truths: tuple[GroundTruth, ...]
    detections: tuple[Detections, ...]
    duration_s: float
    speed: Speed | None = None

    @cached_property
    def coco(self) -> CocoResult:
        """The twelve figures of COCO; computed when first asked for."""
        return coco_average_precision(self.ground_truths, self.detections, self.labels)

    @cached_property
    def per_label(self) -> tuple[LabelFigures, ...]:
        """The figures of each class, in the order of their ids."""
        return tuple(
            _label_figures(found, self.coco.ap_per_label.get(found.label))
            for found in self.pascal.labels
        )

    @property
    def map_50(self) -> float:
        """PASCAL mAP at the IoU threshold used, 0.5 unless told otherwise."""
        return self.pascal.map

    @property
    def ap_50(self) -> dict[str, float | None]:
        """Label -> average precision; None without an object that counts."""
        return self.pascal.ap_per_label

    @property
    def num_images(self) -> int:
        """Pictures evaluated."""
        return len(self.ground_truths)

    @property
    def num_negatives(self) -> int:
        """Pictures without any object."""
        return sum(not len(truth) for truth in self.ground_truths)

    @property
    def num_detections(self) -> int:
        """Detections on them, whatever their score."""
        return len(self.pascal.matches.scores)

    @property
    def num_objects(self) -> int:
        """Objects that count (not difficult)."""
        return len(self.pascal.matches.object_class_ids)

    def to_contract_dict(self) -> dict[str, float]:
        """The dictionary of PASCAL figures; NaN for a class without objects."""
        return self.pascal.to_contract_dict()

    def metrics(self) -> dict[str, float | None]:
        """The same and COCO's twelve figures, as JSON and TensorBoard take them.

        Returns:
            `PASCAL/Precision/mAP@0.5IOU`, `PASCAL/PerformanceByCategory/AP@0.5IOU/<label>`, `COCO/AP`,
            `COCO/AP50`, ...; None where there is nothing to measure.
        """
        pascal = {
            name: None if np.isnan(value) else value
            for name, value in self.to_contract_dict().items()
        }
        return {**pascal, **self.coco.to_metrics()}

    def to_json_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file; numbers are finite or null."""
        return {
            "map_50": self.map_50,
            "ap_50": self.ap_50,
            "iou_threshold": self.pascal.iou_threshold,
            "images": self.num_images,
            "negatives": self.num_negatives,
            "objects": self.num_objects,
            "detections": self.num_detections,
            "duration_s": round(self.duration_s, 3),
            "speed": None if self.speed is None else asdict(self.speed),
            "best": _point_dict(self.pascal.best),
            "labels": {
                found.label: _label_dict(found, figures)
                for found, figures in zip(self.pascal.labels, self.per_label, strict=True)
            },
        }


def evaluate_detections(
    images: Sequence[AnnotatedImage],
    detections: Sequence[Detections],
    labels: LabelMap,
    *,
    iou_threshold: float = 0.5,
    interpolation: Interpolation = "all-point",
    scoring_s: float | None = None,
) -> EvaluationResult:
    """Measures detections against the annotations of the same pictures.

    Args:
        images: The annotated pictures.
        detections: One per picture, in the same order.
        labels: The classes of the model.
        iou_threshold: The least overlap that counts as found, above 0 and up to 1; COCO's figures have
            thresholds of their own.
        interpolation: "all-point" (VOC 2010 and later) or "11-point" (VOC 2007).
        scoring_s: What making the detections took, in seconds, where it is known.

    Raises:
        LabelError: An annotation has a label that the model does not know.
        DatasetError: There is no object that counts in any picture.
    """
    start = time.perf_counter()
    ground_truths = tuple(ground_truth_of(image, labels) for image in images)
    pascal = pascal_average_precision(
        ground_truths, detections, labels, iou_threshold, interpolation
    )
    result = EvaluationResult(
        pascal=pascal,
        labels=labels,
        ground_truths=ground_truths,
        detections=tuple(detections),
        duration_s=(scoring_s or 0.0) + time.perf_counter() - start,
        speed=Speed(scoring_s, len(images) / scoring_s) if scoring_s else None,
    )
    logger.info(
        "mAP@%g %.4f over %d pictures with %d objects",
        iou_threshold,
        result.map_50,
        result.num_images,
        result.num_objects,
    )
    return result


def ground_truth_of(image: AnnotatedImage, labels: LabelMap) -> GroundTruth:
    """The annotations of one picture with the ids of the model.

    Raises:
        LabelError: A label is not among those of the model.
    """
    class_map = labels.class_map
    for name in image.label_names:
        if name not in class_map:
            raise LabelError(
                "A picture has a label that the model does not know",
                where=image.annotation_path or image.storage_path,
                got=repr(name),
                expected=f"one of {', '.join(class_map)}",
                hint="Train with this label, or remove it from the data to evaluate on",
            )
    return GroundTruth(
        boxes_xyxy=image.boxes_xyxy,
        class_ids=np.array([class_map[name] for name in image.label_names], np.int64),
        difficult=image.difficult,
        image_id=image.name,
        is_crowd=image.crowd,
    )


def recommended_threshold(found: LabelResult) -> float | None:
    """A score threshold that gives the best F1 and lies as far as possible from changing it.

    Any threshold above the next lower score and up to that of the best point does the same on these
    pictures. Their middle leaves new pictures the most room on both sides; it is rounded where that
    stays between them. None without a true positive, for then no threshold is better than another.
    """
    best = found.best.score_threshold
    if best is None:
        return None
    below = max((t for t in found.curve.score_thresholds.tolist() if t < best), default=0.0)
    middle = (best + below) / 2
    rounded = (round(middle, digits) for digits in (2, 3, 4))
    # Scores are single precision: 0.48 is no threshold between one of 0.48 and the next.
    return next((value for value in rounded if below < float(np.float32(value)) <= best), best)


def _label_figures(found: LabelResult, coco_ap: float | None) -> LabelFigures:
    return LabelFigures(
        label=found.label,
        objects=found.num_objects,
        ap_50=found.average_precision,
        ap=coco_ap,
        precision=found.best.precision,
        recall=found.best.recall,
        f1=found.best.f1,
        recommended_threshold=recommended_threshold(found),
        true_positives=found.best.true_positives,
        false_positives=found.best.false_positives,
        false_negatives=found.best.false_negatives,
    )


def _label_dict(found: LabelResult, figures: LabelFigures) -> dict[str, Any]:
    return {
        "ap": found.average_precision,
        "coco_ap": figures.ap,
        "objects": found.num_objects,
        "recommended_threshold": figures.recommended_threshold,
        "best": _point_dict(found.best),
    }


def _point_dict(point: OperatingPoint) -> dict[str, Any]:
    return {
        "score_threshold": point.score_threshold,
        "true_positives": point.true_positives,
        "false_positives": point.false_positives,
        "false_negatives": point.false_negatives,
        "precision": point.precision,
        "recall": point.recall,
        "f1": point.f1,
    }
