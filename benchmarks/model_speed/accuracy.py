"""What both sides find, against the truth: PASCAL AP at IoU 0.5, and COCO AP where its package is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from appliance.annotations.annotated_image import AnnotatedImage
from appliance.detections import Detections
from appliance.evaluation.metrics.average_precision import pascal_average_precision
from appliance.evaluation.metrics.coco import coco_average_precision
from benchmarks.model_speed.pictures import LABEL_MAP, ground_truth_of

COCO_PACKAGE = "faster_coco_eval"


def has_coco() -> bool:
    """Whether COCO's figures can be computed here."""
    return find_spec(COCO_PACKAGE) is not None


@dataclass(frozen=True)
class Accuracy:
    """The figures of one side, 0..1.

    Attributes:
        ap50: PASCAL AP at IoU 0.5, mean over the classes.
        coco_ap: COCO AP; None without faster-coco-eval.
    """

    ap50: float
    coco_ap: float | None


def accuracy(images: Sequence[AnnotatedImage], detections: Mapping[int, Detections]) -> Accuracy:
    """The figures of one side.

    Args:
        images: All pictures.
        detections: Index of a picture -> what was found; others are left out.
    """
    indices = sorted(detections)
    truth = [ground_truth_of(images[index]) for index in indices]
    found = [detections[index] for index in indices]
    return Accuracy(
        pascal_average_precision(truth, found, LABEL_MAP).map,
        coco_average_precision(truth, found, LABEL_MAP).ap if has_coco() else None,
    )
