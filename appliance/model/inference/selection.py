"""From a class distribution for each proposal to the boxes of an answer: thresholds, suppression, the best."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from appliance.model.inference.suppression import suppress

CANDIDATES_AT_FIRST = 1000
"""So many of the best boxes of a picture enter suppression before anyone asks for more."""


@dataclass(frozen=True, eq=False)
class BatchDetections:
    """What was found on a batch, in fixed shapes, best first.

    Attributes:
        boxes_xyxy: float32 `[B, D, 4]` in input pixels.
        scores: float32 `[B, D]`; -inf where there is nothing.
        class_ids: int64 `[B, D]`.
        settled: bool `[]`: False where suppression was cut short, so that the batch has to be done again
            greedily.
    """

    boxes_xyxy: torch.Tensor
    scores: torch.Tensor
    class_ids: torch.Tensor
    settled: torch.Tensor


@dataclass(frozen=True)
class BoxSelection:
    """Which boxes to answer with.

    Attributes:
        score_thresholds: One for each class from id 1 on; only scores above it count. Infinity leaves a
            class out.
        nms_iou_threshold: A box that overlaps a better one by more is dropped.
        max_detections: At most so many a picture, over all classes.
        class_agnostic: Boxes of different classes suppress each other too.
    """

    score_thresholds: tuple[float, ...]
    nms_iou_threshold: float
    max_detections: int
    class_agnostic: bool = False

    def select(
        self, boxes_xyxy: torch.Tensor, scores: torch.Tensor, *, greedy: bool
    ) -> BatchDetections:
        """Chooses from a box and a score for each proposal and class.

        Args:
            boxes_xyxy: float32 `[B, P, C, 4]` in input pixels, background left out.
            scores: float32 `[B, P, C]`; -inf where there is no box.
            greedy: As for `suppress`.
        """
        batch, _, classes = scores.shape
        thresholds = _on_device(self.score_thresholds, scores.device)
        scores = scores.masked_fill(scores <= thresholds, -torch.inf).reshape(batch, -1)
        boxes_xyxy = boxes_xyxy.reshape(batch, -1, 4)
        take = CANDIDATES_AT_FIRST
        while True:
            best_scores, best = scores.topk(min(take, scores.shape[1]), dim=1)
            best_boxes = boxes_xyxy.gather(1, best[..., None].expand(-1, -1, 4))
            class_ids = best % classes + 1
            kept, settled = suppress(
                best_boxes,
                best_scores,
                self.nms_iou_threshold,
                groups=None if self.class_agnostic else class_ids,
                greedy=greedy,
            )
            # Whoever did not enter has a lower score than all that did.
            enough = (kept.sum(1) >= self.max_detections) | (best_scores[:, -1] == -torch.inf)
            if take >= scores.shape[1] or not greedy or bool(enough.all()):
                break
            take *= 4
        kept_scores = best_scores.masked_fill(~kept, -torch.inf)
        kept_scores, order = kept_scores.topk(min(self.max_detections, kept.shape[1]), dim=1)
        complete = enough.all() | (take >= scores.shape[1])
        return BatchDetections(
            best_boxes.gather(1, order[..., None].expand(-1, -1, 4)),
            kept_scores,
            class_ids.gather(1, order),
            settled & complete,
        )


@lru_cache(maxsize=32)
def _on_device(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    # Cached, because a constant cannot be brought to the device while a graph is recorded.
    return torch.tensor(values, device=device)
