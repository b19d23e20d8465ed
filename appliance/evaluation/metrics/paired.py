"""Is model B better than model A? Both are measured on the same pictures, drawn anew again and again.

The paired bootstrap: each draw of pictures measures both models, so what makes a picture hard cancels out
of the difference, and far smaller differences show than two separate confidence intervals would let see.
Each class has its own verdict; of twenty classes without any difference, one verdict in words is to be
expected by chance. Needs numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from appliance.detections import Detections
from appliance.evaluation.metrics.average_precision import PascalResult, pascal_average_precision
from appliance.evaluation.metrics.intervals import (
    Interval,
    mean_over_labels,
    percentile_interval,
    resampled_average_precisions,
)
from appliance.evaluation.metrics.matching import GroundTruth
from appliance.labels import LabelMap

Verdict = Literal["better", "worse", "no difference shown"]


@dataclass(frozen=True)
class Difference:
    """One figure of two models.

    Attributes:
        ap_a: Average precision of model A, 0..1; None for a class without an object that counts.
        ap_b: Likewise of model B.
        difference: `ap_b - ap_a`; None where they are.
        interval: Where the difference lies when the pictures are drawn anew, and always the difference
            itself; None where there is none, or with fewer than two pictures.
        probability_b_better: Share of the draws in which B is ahead, ties counted half; None likewise.
        pictures: Pictures with an object or a counted detection of this class.
        verdict: On B: "better" or "worse" if the interval lies on one side of 0 and there are enough
            pictures for any test to tell (6 at the level 0.95), else "no difference shown".
    """

    ap_a: float | None
    ap_b: float | None
    difference: float | None
    interval: Interval | None
    probability_b_better: float | None
    pictures: int
    verdict: Verdict


@dataclass(frozen=True)
class ModelComparison:
    """What tells model B from model A.

    Attributes:
        map: Over the mean average precision.
        per_label: Label -> over its average precision.
        level: The share of the draws that the intervals hold.
        resamples: How often the pictures were drawn.
        num_images: Pictures.
        iou_threshold: The least overlap that counted as found.
    """

    map: Difference
    per_label: dict[str, Difference]
    level: float
    resamples: int
    num_images: int
    iou_threshold: float

    @property
    def verdict(self) -> Verdict:
        """The verdict on B over all classes."""
        return self.map.verdict

    @property
    def too_few(self) -> bool:
        """Whether there are so few pictures that no difference could show."""
        return self.map.pictures < fewest_pictures(self.level)

    @property
    def sentence(self) -> str:
        """All of it in one sentence."""
        whole = self.map
        named = {
            verdict: [name for name, found in self.per_label.items() if found.verdict == verdict]
            for verdict in ("better", "worse")
        }
        said = {
            "better": "B is better than A",
            "worse": "B is worse than A",
            "no difference shown": f"{whole.pictures:,} pictures are too few to tell A from B"
            if self.too_few
            else "These pictures show no difference between A and B",
        }
        figures = f"mAP@{self.iou_threshold:g} {whole.ap_a:.3f} and {whole.ap_b:.3f}"
        if whole.interval is not None:
            figures += (
                f", difference {whole.difference:+.3f} with a {100 * self.level:.0f} % interval from "
                f"{whole.interval.low:+.3f} to {whole.interval.high:+.3f}"
            )
        labels = "; ".join(
            f"{verdict} on {', '.join(names)}" for verdict, names in named.items() if names
        )
        return (
            f"{said[whole.verdict]}: {figures}, over {self.num_images:,} pictures"
            f"{f'; {labels}' if labels else ''}."
        )


def compare_detections(
    ground_truths: Sequence[GroundTruth],
    detections_a: Sequence[Detections],
    detections_b: Sequence[Detections],
    labels: LabelMap,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    iou_threshold: float = 0.5,
) -> ModelComparison:
    """Compares what two models found on the same pictures.

    Args:
        ground_truths: One per picture.
        detections_a: Of model A, one per picture, in the same order.
        detections_b: Of model B, likewise.
        labels: The classes of both.
        resamples: How often to draw the pictures, at least once.
        seed: The same seed draws the same pictures.
        level: The share of the draws that an interval holds, above 0 and below 1.
        iou_threshold: The least overlap that counts as found, above 0 and up to 1.

    Raises:
        DatasetError: There is no object that counts in any picture.
        LabelError: A class id is beyond the labels.
        ValueError: The sequences differ in length, or a number is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, got {level}")
    pascal_a, pascal_b = (
        pascal_average_precision(ground_truths, detections, labels, iou_threshold)
        for detections in (detections_a, detections_b)
    )
    drawn_a, drawn_b = (
        resampled_average_precisions(pascal, resamples=resamples, seed=seed)
        for pascal in (pascal_a, pascal_b)
    )
    pictures = [_pictures(pascal_a, pascal_b, class_id + 1) for class_id in range(len(labels))]
    return ModelComparison(
        map=_difference(
            pascal_a.map,
            pascal_b.map,
            mean_over_labels(drawn_b) - mean_over_labels(drawn_a),
            len(np.unique(np.concatenate(pictures))),
            level,
        ),
        per_label={
            name: _difference(ap_a, ap_b, differences, len(shown), level)
            for name, ap_a, ap_b, differences, shown in zip(
                labels.names,
                pascal_a.ap_per_label.values(),
                pascal_b.ap_per_label.values(),
                (drawn_b - drawn_a).T,
                pictures,
                strict=True,
            )
        },
        level=level,
        resamples=resamples,
        num_images=len(ground_truths),
        iou_threshold=iou_threshold,
    )


def fewest_pictures(level: float) -> int:
    """The pictures below which no two-sided paired test can tell anything at this level.

    Were two equal models compared on n pictures, the same one would be ahead on all of them by chance
    alone in `2 * 0.5**n` of the cases.
    """
    return math.ceil(math.log2(2 / (1 - level)))


def _difference(
    ap_a: float | None,
    ap_b: float | None,
    differences: npt.NDArray[np.float64],
    pictures: int,
    level: float,
) -> Difference:
    measured = differences[~np.isnan(differences)]
    if ap_a is None or ap_b is None or pictures < 2 or not measured.size:
        missing = None if ap_a is None or ap_b is None else ap_b - ap_a
        return Difference(ap_a, ap_b, missing, None, None, pictures, "no difference shown")
    interval = percentile_interval(measured, level, ap_b - ap_a)
    ahead = (np.count_nonzero(measured > 0) + np.count_nonzero(measured == 0) / 2) / len(measured)
    return Difference(
        ap_a=ap_a,
        ap_b=ap_b,
        difference=ap_b - ap_a,
        interval=interval,
        probability_b_better=ahead,
        pictures=pictures,
        verdict=_verdict(interval, pictures, level),
    )


def _verdict(interval: Interval | None, pictures: int, level: float) -> Verdict:
    if interval is None or pictures < fewest_pictures(level):
        return "no difference shown"
    if interval.low > 0:
        return "better"
    return "worse" if interval.high < 0 else "no difference shown"


def _pictures(a: PascalResult, b: PascalResult, class_id: int) -> npt.NDArray[np.int64]:
    """The pictures that say something about a class."""
    objects = a.matches.object_image_index[a.matches.object_class_ids == class_id]
    found = [
        m.image_index[(m.class_ids == class_id) & ~m.is_ignored] for m in (a.matches, b.matches)
    ]
    return np.unique(np.concatenate([objects, *found]))
