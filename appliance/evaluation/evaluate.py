"""From annotated pictures and detections to the figures of an evaluation.

It knows annotations and labels by name, and hands bare boxes and ids to the metric. How the detections
came about is not its business.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from appliance.detections import Detections
from appliance.errors import LabelError
from appliance.evaluation.average_precision import (
    LabelResult,
    OperatingPoint,
    PascalResult,
    pascal_average_precision,
)
from appliance.evaluation.matching import GroundTruth
from appliance.labels import LabelMap

if TYPE_CHECKING:
    from appliance.annotations.dataset import AnnotatedImage

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """What an evaluation found out.

    Attributes:
        pascal: The figures per class and over all, with the verdict on every detection.
        labels: The classes of the model.
        ground_truths: One per picture.
        detections: One per picture, in the same order.
        duration_s: Scoring, where it was given, and measuring together.
    """

    pascal: PascalResult
    labels: LabelMap
    ground_truths: tuple[GroundTruth, ...]
    detections: tuple[Detections, ...]
    duration_s: float

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
    def num_detections(self) -> int:
        """Detections on them, whatever their score."""
        return len(self.pascal.matches.scores)

    @property
    def num_objects(self) -> int:
        """Objects that count (not difficult)."""
        return len(self.pascal.matches.object_class_ids)

    def to_contract_dict(self) -> dict[str, float]:
        """The dictionary that `FasterRCNN.evaluate` answers with."""
        return self.pascal.to_contract_dict()

    def to_json_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file; numbers are finite or null."""
        return {
            "map_50": self.map_50,
            "ap_50": self.ap_50,
            "iou_threshold": self.pascal.iou_threshold,
            "images": self.num_images,
            "objects": self.num_objects,
            "detections": self.num_detections,
            "duration_s": round(self.duration_s, 3),
            "best": _point_dict(self.pascal.best),
            "labels": {result.label: _label_dict(result) for result in self.pascal.labels},
        }


def evaluate_detections(
    images: Sequence[AnnotatedImage],
    detections: Sequence[Detections],
    labels: LabelMap,
    *,
    iou_threshold: float = 0.5,
    scoring_s: float = 0.0,
) -> EvaluationResult:
    """Measures detections against the annotations of the same pictures.

    Args:
        images: The annotated pictures.
        detections: One per picture, in the same order.
        labels: The classes of the model.
        iou_threshold: The least overlap that counts as found, above 0 and up to 1.
        scoring_s: What making the detections took, in seconds; goes into `duration_s`.

    Raises:
        LabelError: An annotation has a label that the model does not know.
        DatasetError: There is no object that counts in any picture.
    """
    start = time.perf_counter()
    ground_truths = tuple(ground_truth_of(image, labels) for image in images)
    pascal = pascal_average_precision(ground_truths, detections, labels, iou_threshold)
    result = EvaluationResult(
        pascal=pascal,
        labels=labels,
        ground_truths=ground_truths,
        detections=tuple(detections),
        duration_s=scoring_s + time.perf_counter() - start,
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
    )


def _label_dict(result: LabelResult) -> dict[str, Any]:
    return {
        "ap": result.average_precision,
        "objects": result.num_objects,
        "best": _point_dict(result.best),
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
