"""The one value that leaves the model: what was found on one picture.

The box contract, stated once for the whole project: `boxes_xyxy` is float32 `[N, 4]` in pixels of the
ORIGINAL picture with `0 <= x1 < x2 <= W` and `0 <= y1 < y2 <= H`; `scores` is float32 `[N]` in 0..1,
descending; `class_ids` is int64 `[N]`, from 1. N = 0 is as valid as any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Detections:
    """Validated detections of one picture; arrays are read-only.

    Attributes:
        boxes_xyxy: float32 `[N, 4]`, pixels of the original picture (see the module).
        scores: float32 `[N]`, descending, 0..1.
        class_ids: int64 `[N]`, from 1.
        size_hw: Height and width of the original picture in pixels.

    Raises:
        ValueError: Shapes, ranges or order break the contract. It is a programming error, never a
            user's, hence not an `ApplianceError`.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
    size_hw: tuple[int, int]

    def __post_init__(self) -> None:
        boxes = _frozen(self.boxes_xyxy, np.float32)
        boxes = boxes if boxes.size else boxes.reshape(0, 4)
        scores = _frozen(self.scores, np.float32)
        class_ids = _frozen(self.class_ids, np.int64)
        for name, array in (("boxes_xyxy", boxes), ("scores", scores), ("class_ids", class_ids)):
            object.__setattr__(self, name, array)
        shapes, n = (boxes.shape, scores.shape, class_ids.shape), scores.size
        if shapes != ((n, 4), (n,), (n,)):
            raise ValueError(
                f"boxes_xyxy, scores, class_ids must be [N, 4], [N], [N], got {shapes}"
            )
        height, width = self.size_hw
        if height <= 0 or width <= 0:
            raise ValueError(f"size_hw must be positive, got {self.size_hw}")
        x1, y1, x2, y2 = boxes.T
        valid = (0 <= x1) & (x1 < x2) & (x2 <= width) & (0 <= y1) & (y1 < y2) & (y2 <= height)
        if not valid.all():
            index = int(np.argmin(valid))
            raise ValueError(
                f"box {index} is degenerate or outside {width}x{height}: {boxes[index]}"
            )
        if len(scores) and not (
            0 <= scores[-1] and scores[0] <= 1 and (np.diff(scores) <= 0).all()
        ):
            raise ValueError("scores must descend within 0..1")
        if len(class_ids) and class_ids.min() < 1:
            raise ValueError(f"class ids count from 1, got {class_ids.min()}")

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def empty(cls, size_hw: tuple[int, int]) -> Detections:
        """Nothing found on a picture of this size."""
        return cls(
            np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), size_hw
        )

    def filter(
        self,
        *,
        score_threshold: float = 0.0,
        max_detections: int | None = None,
        class_ids: Sequence[int] | None = None,
    ) -> Detections:
        """The detections that score at least `score_threshold`, best first.

        Args:
            score_threshold: Keep scores at or above it.
            max_detections: Keep at most so many of the best.
            class_ids: Keep only these classes; None keeps all.
        """
        keep = self.scores >= score_threshold
        if class_ids is not None:
            keep &= np.isin(self.class_ids, np.asarray(class_ids, np.int64))
        index = np.flatnonzero(keep)[:max_detections]
        return Detections(
            self.boxes_xyxy[index], self.scores[index], self.class_ids[index], self.size_hw
        )

    def to_score_dict(self) -> dict[str, Any]:
        """The dictionary that `FasterRCNN.score` and `POST /score` answer with.

        Returns:
            `detection_boxes` as [top, left, bottom, right] in 0..1 of the picture,
            `detection_scores` descending, `detection_classes` from 1, `num_detections`.
        """
        height, width = self.size_hw
        x1, y1, x2, y2 = self.boxes_xyxy.astype(np.float64).T
        boxes_tlbr = np.stack([y1 / height, x1 / width, y2 / height, x2 / width], axis=1)
        return {
            "detection_boxes": boxes_tlbr.tolist(),
            "detection_scores": self.scores.astype(np.float64).tolist(),
            "detection_classes": self.class_ids.tolist(),
            "num_detections": len(self),
        }

    @classmethod
    def from_score_dict(cls, scored: Mapping[str, Any], size_hw: tuple[int, int]) -> Detections:
        """Reads `to_score_dict` back for a picture of `size_hw` pixels."""
        height, width = size_hw
        boxes_tlbr = np.asarray(scored["detection_boxes"], np.float64).reshape(-1, 4)
        top, left, bottom, right = np.clip(boxes_tlbr, 0, 1).T
        boxes_xyxy = np.stack([left * width, top * height, right * width, bottom * height], axis=1)
        return cls(
            boxes_xyxy.astype(np.float32),
            np.asarray(scored["detection_scores"], np.float32),
            np.asarray(scored["detection_classes"], np.int64),
            size_hw,
        )


def _frozen(array: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    copy = np.array(array, dtype=dtype)
    copy.flags.writeable = False
    return copy
