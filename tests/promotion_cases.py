"""A model that is right on some pictures, one that is wrong on them, and those pictures: without any training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from factories import TINY, jpeg_bytes, spread_outputs

from appliance.detector import FasterRCNN
from appliance.labels import LabelMap
from appliance.model import model_file
from appliance.model.faster_rcnn import build_network
from appliance.model.spec import ModelSpec

NETWORK = {
    **{name: list(v) if isinstance(v, tuple) else v for name, v in TINY.items()},
    "proposals_pre_nms": 100,
    "proposals_post_nms": 30,
    "score_threshold": 0.3,
}
STANDSTILL = {"steps": 1, "batch_size": 1, "learning_rate": 1e-12, "precision": "float32"}
"""Settings with which a model stays what it starts from."""


@dataclass(frozen=True)
class TwoModels:
    """Two tiny models with random weights, and pictures whose objects are what the first one finds.

    Attributes:
        right: Its file.
        wrong: That of the other.
        data: The pictures, as a CSV table.
    """

    right: Path
    wrong: Path
    data: Path


def two_models(right: Path, folder: Path) -> TwoModels:
    """Both, of which the right one is given."""
    spec = ModelSpec.of(LabelMap(("circle", "square")), **NETWORK)
    torch.manual_seed(5)
    wrong = folder / "wrong.safetensors"
    model_file.save(str(wrong), spread_outputs(build_network(spec)), spec)
    detector = FasterRCNN.load(str(right))
    lines = ["image,label,xmin,ymin,xmax,ymax"]
    for seed in range(4):
        (folder / f"{seed}.jpg").write_bytes(jpeg_bytes(seed=seed))
        found = detector.detect(str(folder / f"{seed}.jpg"))
        for box, class_id in zip(found.boxes_xyxy, found.class_ids, strict=True):
            label = spec.labels[class_id - 1]
            lines.append(",".join([f"{seed}.jpg", label, *(f"{side:.2f}" for side in box)]))
    data = folder / "truth.csv"
    data.write_text("\n".join(lines) + "\n")
    return TwoModels(right, wrong, data)
