"""Which detection found which object, by the rules of PASCAL VOC: the step before every figure.

A detection looks only at the ground truth of its own class in its own picture that it overlaps best. From
an IoU of 0.5 on that object is found by the best-scored detection that looks at it; further ones are false
positives, even when they overlap a second object as well. `difficult` objects are not counted, and a
detection that looks at one is dropped. A crowd region, which only COCO data has, counts as difficult
here. Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from appliance.detections import Detections
from appliance.errors import ConfigError, DatasetError, LabelError
from appliance.evaluation.metrics.overlaps import FlatBoxes, joined, overlapping_pairs
from appliance.labels import LabelMap

_NO_OBJECT = -1


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The annotated objects of one picture; N = 0 is a picture without objects.

    Attributes:
        boxes_xyxy: float32 `[N, 4]`, pixels of the original picture, `x1 < x2` and `y1 < y2`.
        class_ids: int64 `[N]`, from 1.
        difficult: bool `[N]`; such objects are neither asked for nor held against a detection.
        image_id: Name of the picture, for messages.
        is_crowd: bool `[N]`; a region of many objects that nobody told apart. Left out, none is.

    Raises:
        ValueError: Shapes or ranges break the contract: a programming error, never a user's.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
    difficult: npt.NDArray[np.bool_]
    image_id: str
    is_crowd: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes_xyxy, np.float32).reshape(-1, 4)
        class_ids = np.asarray(self.class_ids, np.int64)
        difficult = np.asarray(self.difficult, np.bool_)
        is_crowd = np.asarray(self.is_crowd, np.bool_)
        is_crowd = is_crowd if is_crowd.size else np.zeros(len(boxes), np.bool_)
        for name, array in (
            ("boxes_xyxy", boxes),
            ("class_ids", class_ids),
            ("difficult", difficult),
            ("is_crowd", is_crowd),
        ):
            object.__setattr__(self, name, array)
        if not class_ids.shape == difficult.shape == is_crowd.shape == (len(boxes),):
            raise ValueError(
                f"{self.image_id}: boxes, class_ids, difficult and is_crowd differ in length: "
                f"{len(boxes)}, {class_ids.shape}, {difficult.shape}, {is_crowd.shape}"
            )
        x1, y1, x2, y2 = boxes.T
        valid = (x1 < x2) & (y1 < y2) & np.isfinite(boxes).all(axis=1)
        if not valid.all():
            index = int(np.argmin(valid))
            raise ValueError(f"{self.image_id}: box {index} is degenerate: {boxes[index]}")
        if len(class_ids) and class_ids.min() < 1:
            raise ValueError(f"{self.image_id}: class ids count from 1, got {class_ids.min()}")

    def __len__(self) -> int:
        return len(self.class_ids)

    @property
    def is_ignored(self) -> npt.NDArray[np.bool_]:
        """Difficult or a crowd: neither asked for nor held against a detection, bool `[N]`."""
        return self.difficult | self.is_crowd


@dataclass(frozen=True, eq=False)
class Matches:
    """The verdict on every detection, best score first, and the objects that were asked for.

    Equal scores stand in the order of the pictures, then of the detections in their picture. A verdict
    depends on better-scored detections only, so the first entries are also the verdicts of any higher
    score threshold.

    Attributes:
        scores: float32 `[M]`, descending.
        class_ids: int64 `[M]`, from 1.
        image_index: int64 `[M]`, which picture.
        detection_index: int64 `[M]`, which detection of that picture.
        is_true_positive: bool `[M]`, it found an object.
        is_ignored: bool `[M]`, it looks at a difficult object or a crowd and does not count; what is
            neither is a false positive.
        object_class_ids: int64 `[K]`, the class of every object that counts (neither difficult nor a
            crowd).
        object_image_index: int64 `[K]`, its picture.
        object_index: int64 `[K]`, its place in the ground truth of that picture.
        object_is_found: bool `[K]`, whether some detection found it, whatever its score.
        object_score: float32 `[K]`, the score of that detection; 0 where there is none.
        image_is_negative: bool `[I]`, whether the picture has no object at all, not even a difficult
            one.
    """

    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
    image_index: npt.NDArray[np.int64]
    detection_index: npt.NDArray[np.int64]
    is_true_positive: npt.NDArray[np.bool_]
    is_ignored: npt.NDArray[np.bool_]
    object_class_ids: npt.NDArray[np.int64]
    object_image_index: npt.NDArray[np.int64]
    object_index: npt.NDArray[np.int64]
    object_is_found: npt.NDArray[np.bool_]
    object_score: npt.NDArray[np.float32]
    image_is_negative: npt.NDArray[np.bool_]

    @property
    def num_images(self) -> int:
        """How many pictures there were."""
        return len(self.image_is_negative)

    @property
    def is_false_positive(self) -> npt.NDArray[np.bool_]:
        """What is neither a find nor ignored, bool `[M]`."""
        return ~(self.is_true_positive | self.is_ignored)

    def object_is_missed(self, score_threshold: float) -> npt.NDArray[np.bool_]:
        """Objects that no detection of at least `score_threshold` found, bool `[K]`."""
        return ~(self.object_is_found & (self.object_score >= np.float32(score_threshold)))


def match_detections(
    ground_truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    iou_threshold: float = 0.5,
) -> Matches:
    """Gives every detection its verdict.

    Args:
        ground_truths: One per picture.
        detections: One per picture, in the same order.
        iou_threshold: The least overlap that counts as found, above 0 and up to 1.

    Raises:
        ConfigError: They are no lists of ground truths and detections.
        ValueError: The two differ in length, or the threshold is out of range.
    """
    _check_kind("ground_truths", ground_truths, GroundTruth)
    _check_kind("detections", detections, Detections)
    if len(ground_truths) != len(detections):
        raise ValueError(f"{len(ground_truths)} ground truths for {len(detections)} detections")
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be above 0 and at most 1, got {iou_threshold}")
    found, truth = FlatBoxes.of(detections), FlatBoxes.of(ground_truths)
    best = overlapping_pairs(found, truth, iou_threshold, same_class=True).best_per_detection()
    looked_at = np.full(len(found), _NO_OBJECT)
    looked_at[best.detection] = best.object

    scores = joined([picture.scores for picture in detections], np.float32)
    # A stable sort keeps the order of pictures and detections among equal scores.
    order = np.argsort(-scores, kind="stable")
    scores, looked_at = scores[order], looked_at[order]
    object_is_ignored = joined([picture.is_ignored for picture in ground_truths], np.bool_)
    looks = looked_at != _NO_OBJECT
    is_ignored = looks.copy()
    is_ignored[looks] = object_is_ignored[looked_at[looks]]
    candidates = np.flatnonzero(looks & ~is_ignored)
    found_objects, first_seen_by = np.unique(looked_at[candidates], return_index=True)
    winners = candidates[first_seen_by]
    is_true_positive = np.zeros(len(found), np.bool_)
    is_true_positive[winners] = True
    object_score = np.zeros(len(truth), np.float32)
    object_score[found_objects] = scores[winners]
    object_is_found = np.zeros(len(truth), np.bool_)
    object_is_found[found_objects] = True

    counted = ~object_is_ignored
    return Matches(
        scores=scores,
        class_ids=found.class_ids[order],
        image_index=found.image_index[order],
        detection_index=found.place[order],
        is_true_positive=is_true_positive,
        is_ignored=is_ignored,
        object_class_ids=truth.class_ids[counted],
        object_image_index=truth.image_index[counted],
        object_index=truth.place[counted],
        object_is_found=object_is_found[counted],
        object_score=object_score[counted],
        image_is_negative=np.array([len(picture) == 0 for picture in ground_truths], np.bool_),
    )


def _check_kind(name: str, values: object, kind: type) -> None:
    """Refuses what is no sequence of one kind."""
    expected = f"a list of {kind.__name__}, one a picture"
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ConfigError(
            "Not what can be measured", where=name, got=type(values).__name__, expected=expected
        )
    for index, value in enumerate(values):
        if not isinstance(value, kind):
            raise ConfigError(
                "Not what can be measured",
                where=f"{name}[{index}]",
                got=type(value).__name__,
                expected=expected,
            )


def check_measurable(matches: Matches, labels: LabelMap) -> None:
    """Refuses what no average precision can be taken of.

    Raises:
        DatasetError: There is no object that counts in any picture.
        LabelError: A class id is beyond the labels.
    """
    check_class_ids(matches.object_class_ids, matches.class_ids, labels)
    if not len(matches.object_class_ids):
        raise DatasetError(
            "There is nothing to evaluate against",
            got=f"{matches.num_images} pictures without an object that counts",
            expected="at least one object that is neither difficult nor a crowd",
        )


def check_class_ids(
    object_class_ids: npt.NDArray[np.int64],
    detection_class_ids: npt.NDArray[np.int64],
    labels: LabelMap,
) -> None:
    """Refuses classes that the labels do not have.

    Raises:
        LabelError: A class id is beyond the labels.
    """
    for what, class_ids in (("ground truth", object_class_ids), ("detection", detection_class_ids)):
        if len(class_ids) and class_ids.max() > len(labels):
            raise LabelError(
                f"The class of a {what} is unknown",
                got=f"class id {class_ids.max()}",
                expected=f"1 to {len(labels)}",
            )
