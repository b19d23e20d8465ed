"""The twelve figures of COCO, computed by faster-coco-eval.

They differ from the PASCAL figures in more than the IoU thresholds (0.50, 0.55, ..., 0.95): the area under
the curve is taken at 101 recalls, at most 100 detections of a class in a picture count, and a detection
whose best object is taken may have its second best.

What the annotations say goes in like this:

- A crowd region is COCO's `iscrowd`: any number of detections may lie in it, none counts, and the overlap
  is measured against the detection alone.
- A `difficult` object is ignored as COCO ignores objects outside a range of areas: not asked for, and a
  detection that takes it is dropped. The overlap stays the plain IoU, so that a small detection inside a
  large difficult object is still wrong, which as `iscrowd` it would not be. COCO lets an object be taken
  once: a second detection of it is a false positive here, and dropped in the PASCAL figures.
- The area that tells small (below 32 x 32 pixels), medium and large (above 96 x 96) apart is that of the
  box; COCO's own annotations have the area of the outline there.

The classes are evaluated one after the other on the pictures that show them, because COCO's rules never
look from one class to another: memory holds the boxes of one class at a time, and pictures without the
class cost nothing. faster-coco-eval is imported by the function that needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.detections import Detections
from appliance.evaluation.metrics.matching import GroundTruth, check_class_ids
from appliance.evaluation.metrics.overlaps import FlatBoxes, joined
from appliance.labels import LabelMap

# Beyond every range of areas that COCO asks for, the largest of which ends at 1e10.
_AREA_OF_THE_DIFFICULT = 1e12
_MOST_DETECTIONS = (1, 10, 100)
_NO_FIGURE = -1.0


@dataclass(frozen=True)
class CocoResult:
    """The figures of COCO, 0..1; None where there is no object to measure at.

    Attributes:
        ap: Average precision, mean over the IoU thresholds 0.50, 0.55, ..., 0.95.
        ap_50: At IoU 0.50.
        ap_75: At IoU 0.75.
        ap_small: Of objects with an area below 32 x 32 pixels.
        ap_medium: Of those between.
        ap_large: Of objects with an area above 96 x 96 pixels.
        ar_1: Average recall with one detection of a class in a picture.
        ar_10: With up to 10.
        ar_100: With up to 100.
        ar_small: With up to 100, of small objects.
        ar_medium: Of medium ones.
        ar_large: Of large ones.
        ap_per_label: Label -> its share in `ap`; None without an object that counts.
    """

    ap: float | None
    ap_50: float | None
    ap_75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar_1: float | None
    ar_10: float | None
    ar_100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    ap_per_label: dict[str, float | None]

    def to_metrics(self) -> dict[str, float | None]:
        """The twelve figures under the names that `metrics.json` has them by."""
        return {
            "COCO/AP": self.ap,
            "COCO/AP50": self.ap_50,
            "COCO/AP75": self.ap_75,
            "COCO/APs": self.ap_small,
            "COCO/APm": self.ap_medium,
            "COCO/APl": self.ap_large,
            "COCO/AR1": self.ar_1,
            "COCO/AR10": self.ar_10,
            "COCO/AR100": self.ar_100,
            "COCO/ARs": self.ar_small,
            "COCO/ARm": self.ar_medium,
            "COCO/ARl": self.ar_large,
        }


def coco_average_precision(
    ground_truths: Sequence[GroundTruth], detections: Sequence[Detections], labels: LabelMap
) -> CocoResult:
    """Measures detections against the truth by the rules of COCO.

    Args:
        ground_truths: One per picture.
        detections: One per picture, in the same order.
        labels: The classes of the model.

    Raises:
        LabelError: A class id is beyond the labels.
        ValueError: Ground truths and detections differ in number.
    """
    if len(ground_truths) != len(detections):
        raise ValueError(f"{len(ground_truths)} ground truths for {len(detections)} detections")
    truth, found = FlatBoxes.of(ground_truths), FlatBoxes.of(detections)
    check_class_ids(truth.class_ids, found.class_ids, labels)
    objects = _Rows(
        truth,
        {
            "iscrowd": joined([picture.is_crowd for picture in ground_truths], np.bool_),
            "difficult": joined([picture.difficult for picture in ground_truths], np.bool_),
        },
    )
    answers = _Rows(found, {"score": joined([one.scores for one in detections], np.float32)})
    class_ids = range(1, len(labels) + 1)
    figures = [_curves(objects, answers, class_id) for class_id in class_ids]
    # [IoU thresholds, recalls, classes, areas, most detections] and the same without recalls.
    precision = np.concatenate([precision for precision, _ in figures], axis=2)
    recall = np.concatenate([recall for _, recall in figures], axis=1)
    return CocoResult(
        ap=_mean(precision[..., 0, -1]),
        ap_50=_mean(precision[0, ..., 0, -1]),
        ap_75=_mean(precision[5, ..., 0, -1]),
        ap_small=_mean(precision[..., 1, -1]),
        ap_medium=_mean(precision[..., 2, -1]),
        ap_large=_mean(precision[..., 3, -1]),
        ar_1=_mean(recall[..., 0, 0]),
        ar_10=_mean(recall[..., 0, 1]),
        ar_100=_mean(recall[..., 0, 2]),
        ar_small=_mean(recall[..., 1, -1]),
        ar_medium=_mean(recall[..., 2, -1]),
        ar_large=_mean(recall[..., 3, -1]),
        ap_per_label={
            name: _mean(precision[:, :, index, 0, -1]) for index, name in enumerate(labels.names)
        },
    )


@dataclass(frozen=True, eq=False)
class _Rows:
    """Flat boxes with the columns that COCO wants beside them."""

    boxes: FlatBoxes
    columns: dict[str, npt.NDArray[Any]]

    def of_class(self, class_id: int) -> list[dict[str, Any]]:
        """The annotations of one class as faster-coco-eval takes them, by picture."""
        chosen = np.flatnonzero(self.boxes.class_ids == class_id)
        # float64 holds differences of float32 pixels without a loss.
        boxes = self.boxes.boxes_xyxy[chosen].astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        areas = boxes[:, 2] * boxes[:, 3]
        images = self.boxes.image_index[chosen]
        rows = zip(images.tolist(), boxes.tolist(), areas.tolist(), strict=True)
        annotations: list[dict[str, Any]] = [
            # Ids count from 1: 0 would stand for "not matched".
            {"id": row, "image_id": image, "category_id": 1, "bbox": box, "area": area}
            for row, (image, box, area) in enumerate(rows, start=1)
        ]
        for name, column in self.columns.items():
            for annotation, value in zip(annotations, column[chosen].tolist(), strict=True):
                annotation[name] = value
        return annotations


def _curves(
    objects: _Rows, answers: _Rows, class_id: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Precision `[T, R, 1, A, M]` and recall `[T, 1, A, M]` of one class; -1 where there is none."""
    from faster_coco_eval import COCO, COCOeval_faster

    annotations, results = objects.of_class(class_id), answers.of_class(class_id)
    for annotation in annotations:
        annotation["iscrowd"] = int(annotation["iscrowd"])
        if annotation.pop("difficult") and not annotation["iscrowd"]:
            annotation["area"] = _AREA_OF_THE_DIFFICULT
    shown = {"categories": [{"id": 1}]}
    shown["images"] = [{"id": i} for i in sorted({a["image_id"] for a in annotations + results})]
    evaluation = COCOeval_faster(
        COCO({**shown, "annotations": annotations}),
        COCO({**shown, "annotations": results}),
        "bbox",
        print_function=_say_nothing,
    )
    evaluation.params.maxDets = list(_MOST_DETECTIONS)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])


def _say_nothing(*_: object) -> None:
    """faster-coco-eval would report every step of every class."""


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    measured = values[values != _NO_FIGURE]
    return float(measured.mean()) if measured.size else None
