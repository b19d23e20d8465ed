"""How far the figures would move with other pictures: bootstrap confidence intervals.

Pictures are drawn with replacement, as many as there are, and the figures are computed anew, a thousand
times (Efron's percentile bootstrap). Whole pictures are drawn, never single objects, because the objects
of one picture are found or missed together.

A picture that was drawn k times counts k times: its verdicts stay what they were, so each detection gets a
weight, and the counts behind precision and recall become running sums of the weights. Nothing is matched
again. Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from appliance.evaluation.metrics.average_precision import RECALL_LEVELS, PascalResult
from appliance.evaluation.metrics.matching import Matches

# Weights of so many detections or pictures at once: few megabytes, which is twice as fast as many.
_WEIGHTS_AT_ONCE = 200_000


@dataclass(frozen=True)
class Interval:
    """A range of values.

    Attributes:
        low: Its lower end.
        high: Its upper end.
    """

    low: float
    high: float


@dataclass(frozen=True)
class ConfidenceIntervals:
    """Where the figures lie when the pictures are drawn anew.

    One picture says nothing about others, so there are no intervals then. An interval of zero width, as
    around 1.0 when every object was found, means that the sample has no failure to draw, not that there
    will be none.

    Attributes:
        map: Of the mean average precision; None with fewer than two pictures.
        ap_per_label: Label -> of its average precision, over the draws in which the label occurs; None
            where it never does or there are fewer than two pictures.
        level: The share of the draws that lies inside, 0.95 for instance; what lies outside is split
            evenly between both ends. Every interval holds its own figure, and is widened to it if need be.
        resamples: How often the pictures were drawn.
    """

    map: Interval | None
    ap_per_label: dict[str, Interval | None]
    level: float
    resamples: int


def bootstrap_intervals(
    pascal: PascalResult, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> ConfidenceIntervals:
    """Draws the pictures of an evaluation anew and tells where its figures lie.

    Args:
        pascal: The evaluation.
        resamples: How often to draw, at least once.
        seed: The same seed draws the same pictures.
        level: The share of the draws that the intervals hold, above 0 and below 1.

    Raises:
        ValueError: `resamples` or `level` is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, got {level}")
    per_label = resampled_average_precisions(pascal, resamples=resamples, seed=seed)
    several = pascal.matches.num_images > 1
    return ConfidenceIntervals(
        map=percentile_interval(mean_over_labels(per_label), level, pascal.map)
        if several
        else None,
        ap_per_label={
            result.label: percentile_interval(values, level, result.average_precision)
            if several
            else None
            for result, values in zip(pascal.labels, per_label.T, strict=True)
        },
        level=level,
        resamples=resamples,
    )


def resampled_average_precisions(
    pascal: PascalResult, *, resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """The average precision of each class on pictures drawn anew, again and again.

    Two evaluations of the same pictures with one seed are drawn alike, so their figures can be compared
    row by row. Among equal scores, the copies of a detection stand beside each other.

    Args:
        pascal: The evaluation.
        resamples: How often to draw, at least once.
        seed: The same seed draws the same pictures.

    Returns:
        float64 `[resamples, labels]`; NaN where the pictures drawn have no object of the class.

    Raises:
        ValueError: `resamples` is below 1.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    rankings = [_Ranking.of(pascal.matches, class_id + 1) for class_id in range(len(pascal.labels))]
    levels = RECALL_LEVELS[pascal.interpolation]
    widest = max([pascal.matches.num_images, *(len(r.image_index) for r in rankings)])
    rows = max(1, _WEIGHTS_AT_ONCE // max(widest, 1))
    parts = [
        np.stack([ranking.average_precision(drawn, levels) for ranking in rankings], axis=1)
        for drawn in _drawings(pascal.matches.num_images, resamples, seed, rows)
    ]
    return np.concatenate(parts)


def mean_over_labels(per_label: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean of each row over the classes that occur in it; NaN where none does."""
    occurs = ~np.isnan(per_label)
    total = np.where(occurs, per_label, 0.0).sum(axis=1)
    mean = np.full(len(total), np.nan)
    np.divide(total, occurs.sum(axis=1), out=mean, where=occurs.any(axis=1))
    return mean


def percentile_interval(
    values: npt.NDArray[np.float64], level: float, figure: float | None
) -> Interval | None:
    """The middle `level` of the values that are not NaN, widened where it must be to hold the figure.

    The draws may all lie on one side of the figure that they are drawn around: where many detections have
    the same score, for instance, their order decides, and it is another one in each draw.

    Args:
        values: Of the draws.
        level: The share of them that lies inside.
        figure: What was measured on all pictures; None where nothing was.

    Returns:
        None where there is no value or no figure.
    """
    measured = values[~np.isnan(values)]
    if not measured.size or figure is None:
        return None
    low, high = np.quantile(measured, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(min(low, figure), max(high, figure))


@dataclass(frozen=True, eq=False)
class _Ranking:
    """The counted detections of one class, best score first, and the pictures of its objects."""

    image_index: npt.NDArray[np.int64]
    true_positive_ranks: npt.NDArray[np.int64]
    objects_per_image: npt.NDArray[np.int64]

    @classmethod
    def of(cls, matches: Matches, class_id: int) -> _Ranking:
        counted = (matches.class_ids == class_id) & ~matches.is_ignored
        ranks = np.flatnonzero(matches.is_true_positive[counted])
        # What comes after the last true positive changes no area.
        end = int(ranks[-1]) + 1 if len(ranks) else 0
        images = matches.object_image_index[matches.object_class_ids == class_id]
        return cls(
            image_index=matches.image_index[counted][:end],
            true_positive_ranks=ranks,
            objects_per_image=np.bincount(images, minlength=matches.num_images),
        )

    def average_precision(
        self, drawn: npt.NDArray[np.int32], levels: npt.NDArray[np.float64] | None
    ) -> npt.NDArray[np.float64]:
        """Its average precision `[B]` for `[B, I]` times that each picture was drawn."""
        num_objects = drawn @ self.objects_per_image
        weights = drawn[:, self.image_index]
        taken = np.cumsum(weights, axis=1, dtype=np.int32)[:, self.true_positive_ranks]
        gains = weights[:, self.true_positive_ranks]
        found = np.cumsum(gains, axis=1, dtype=np.int32)
        # Precision after the last copy of each true positive: within the copies it only rises, so the
        # envelope of all of them is that of the last.
        envelope = found / np.maximum(taken, 1)
        np.maximum.accumulate(envelope[:, ::-1], axis=1, out=envelope[:, ::-1])
        if levels is None:
            area = np.einsum("br,br->b", envelope, gains)
            divisor = num_objects
        else:
            recall = found / np.maximum(num_objects, 1)[:, None]
            reached = [
                np.where(recall >= at, envelope, 0.0).max(axis=1, initial=0) for at in levels
            ]
            area = np.sum(reached, axis=0)
            divisor = np.full(len(drawn), len(levels))
        measured = np.full(len(drawn), np.nan)
        np.divide(area, divisor, out=measured, where=num_objects > 0)
        return measured


def _drawings(
    num_images: int, resamples: int, seed: int, rows: int
) -> Iterator[npt.NDArray[np.int32]]:
    """How often each picture was drawn, int32 `[up to rows, I]` at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, rows):
        drawn = np.empty((min(rows, resamples - start), num_images), np.int32)
        for row in drawn:
            row[:] = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
        yield drawn
