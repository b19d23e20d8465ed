"""The two sides: torchvision as anybody would call it, and the appliance's predictor.

Both take what `decode_image` gives and end with answers in this process's memory, so that neither is spared
a copy that the other pays for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torchvision
from torchvision.models.detection import FasterRCNN

from appliance.detections import Detections
from appliance.images.decoding import DecodedImage
from appliance.model.faster_rcnn import build_network
from appliance.model.host_memory import give_back_freed_memory
from appliance.model.model_file import LoadedModel
from appliance.model.predictor import Predictor
from appliance.model.spec import COMPACT

SCORE_THRESHOLD = 0.05
MAX_DETECTIONS = 100
"""torchvision's defaults, taken on both sides."""

Predict = Callable[[Sequence[DecodedImage]], list[Detections]]


@dataclass(frozen=True, eq=False)
class Reference:
    """Plain torchvision in eager mode: its own resizing, its own numbers of proposals, float32.

    Attributes:
        network: In eval mode, on `device`.
        device: Where it computes.
    """

    network: FasterRCNN
    device: torch.device

    @classmethod
    def of(cls, model: LoadedModel, device: torch.device) -> Reference:
        """The network of a model as torchvision itself builds it, with the model's weights."""
        spec = model.spec
        if spec.architecture == COMPACT:
            # torchvision has no such architecture: this is its class with its defaults.
            network = build_network(
                spec.with_settings(
                    proposals_pre_nms=1000,
                    proposals_post_nms=1000,
                    score_threshold=SCORE_THRESHOLD,
                    max_detections=MAX_DETECTIONS,
                )
            )
        else:
            network = torchvision.models.get_model(
                spec.architecture,
                weights=None,
                weights_backbone=None,
                num_classes=len(spec.labels) + 1,
            )
        network.load_state_dict(model.network.state_dict())
        return cls(network.eval().to(device), device)

    @torch.inference_mode()
    def predict(self, images: Sequence[DecodedImage]) -> list[Detections]:
        """Detects on these pictures as one batch."""
        give_back_freed_memory()  # as in a process where the appliance's predictor does not run
        # Bytes go to the device, not floats: the cheaper way, for which torchvision has no word.
        inputs = [image.pixels.to(self.device).float() / 255 for image in images]
        found = self.network(inputs)
        return [
            to_detections({name: values.cpu() for name, values in one.items()}, image.size_hw)
            for one, image in zip(found, images, strict=True)
        ]

    @property
    def proposals(self) -> dict[str, float]:
        """How many proposals it takes at most, before and after their NMS."""
        rpn = self.network.rpn
        return {
            "pre_nms": rpn._pre_nms_top_n["testing"],  # noqa: SLF001 - torchvision has no public name
            "post_nms": rpn._post_nms_top_n["testing"],  # noqa: SLF001
            "score_threshold": rpn.score_thresh,
        }


def ours(model: LoadedModel, device: torch.device, batch_size: int) -> Predictor:
    """The appliance's predictor as `Predictor.load` makes it, with torchvision's two limits."""
    return Predictor(
        model.network,
        model.spec,
        device=str(device),
        score_threshold=SCORE_THRESHOLD,
        max_detections=MAX_DETECTIONS,
        # On a CPU the predictor knows better than the caller how many to take at once.
        batch_size=batch_size if device.type == "cuda" else None,
    )


def to_detections(found: dict[str, torch.Tensor], size_hw: tuple[int, int]) -> Detections:
    """Makes torchvision's answer for one picture a value of ours.

    Only the form changes: torchvision has sorted, clipped and scaled already, but for rounding.

    Args:
        found: `boxes`, `scores` and `labels`, on the CPU.
        size_hw: Of the picture, pixels.
    """
    height, width = size_hw
    boxes_xyxy = found["boxes"].numpy().clip(0, np.array([width, height] * 2, np.float32))
    scores = found["scores"].numpy()
    order = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = boxes_xyxy[order].T
    order = order[(x2 > x1) & (y2 > y1)]
    return Detections(boxes_xyxy[order], scores[order], found["labels"].numpy()[order], size_hw)
