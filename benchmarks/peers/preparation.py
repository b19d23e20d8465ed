"""The same weights and pictures for everybody: as the appliance's model file, and in plain torchvision's form."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision.models.detection import FasterRCNN

from appliance.model import model_file
from appliance.model.faster_rcnn import STRIDES_PX, extract_body
from appliance.model.spec import ModelSpec
from benchmarks.online.checks import References
from benchmarks.online.pictures import Picture
from benchmarks.peers.agreement import references
from benchmarks.peers.detector import build_detector, decode, detect
from benchmarks.serving.preparation import prepare


@dataclass(frozen=True)
class Material:
    """Files of one run.

    Attributes:
        model: The appliance's model file.
        weights: The same as plain torchvision has it; see `benchmarks.peers.detector`.
        pictures: Folder of JPEGs.
        size_wh: Their width and height in pixels.
        expected: JSON: name of the picture -> what plain torchvision finds on it.
        mean_bytes: Mean size of a picture.
        score_threshold: Lowest score that the model answers.
        max_detections: Most detections of a picture.
    """

    model: str
    weights: str
    pictures: str
    size_wh: tuple[int, int]
    expected: str
    mean_bytes: int
    score_threshold: float
    max_detections: int

    def read_pictures(self) -> list[Picture]:
        """The pictures in their order."""
        paths = sorted(Path(self.pictures).glob("*.jpg"))
        return [Picture(path.name, path.read_bytes(), self.size_wh) for path in paths]

    def references(self) -> References:
        """What plain torchvision finds on each of them."""
        return references(
            self.expected,
            self.read_pictures(),
            score_threshold=self.score_threshold,
            max_detections=self.max_detections,
        )


def prepare_material(folder: Path, *, backbone: str, cache: Path, quick: bool) -> Material:
    """Trains the weights unless they lie in the cache, and asks plain torchvision what it finds.

    Args:
        folder: Where the files go.
        backbone: Of the compact network.
        cache: Folder for weights and drawn pictures.
        quick: A tiny network with hardly any training, and small pictures.
    """
    prepared = prepare(folder, backbone=backbone, cache=cache, quick=quick)
    model = model_file.load(prepared.model)
    settings = plain_settings(model.spec, model.network)
    weights = folder / "detector.pt"
    torch.save({"state_dict": model.network.state_dict(), "settings": settings}, weights)
    network = build_detector(settings)
    network.load_state_dict(model.network.state_dict())
    network.eval()
    pictures = Path(prepared.pictures)
    found = {
        path.name: detect(network, [decode(path.read_bytes())])[0]
        for path in sorted(pictures.glob("*.jpg"))
    }
    expected = folder / "expected.json"
    expected.write_text(json.dumps(found))
    return Material(
        prepared.model,
        str(weights),
        prepared.pictures,
        prepared.size_wh,
        str(expected),
        prepared.mean_bytes,
        model.spec.score_threshold,
        model.spec.max_detections,
    )


def plain_settings(spec: ModelSpec, network: FasterRCNN) -> dict[str, Any]:
    """What `build_detector` of the peers needs to know of a compact network, its numbers of proposals included.

    Args:
        spec: Of the network.
        network: Built from it.
    """
    _, last_at_stride = extract_body(str(spec.backbone))
    layers = [last_at_stride[stride_px] for stride_px in STRIDES_PX]
    return {
        "backbone": spec.backbone,
        "layers": [name for name, _ in layers],
        "layer_channels": [channels for _, channels in layers],
        "fpn_channels": spec.fpn_channels,
        "box_head_channels": spec.box_head_channels,
        "anchor_sizes_px": list(spec.anchor_sizes_px),
        "anchor_ratios": list(spec.anchor_ratios),
        "classes": len(spec.labels) + 1,
        "training": {
            # torchvision has no public names for them.
            "rpn_pre_nms_top_n_train": network.rpn._pre_nms_top_n["training"],  # noqa: SLF001
            "rpn_post_nms_top_n_train": network.rpn._post_nms_top_n["training"],  # noqa: SLF001
            "box_batch_size_per_image": network.roi_heads.fg_bg_sampler.batch_size_per_image,
        },
        "inference": {
            "min_size": spec.shorter_side_px,
            "max_size": spec.longer_side_px,
            "rpn_pre_nms_top_n_test": spec.proposals_pre_nms,
            "rpn_post_nms_top_n_test": spec.proposals_post_nms,
            "box_score_thresh": spec.score_threshold,
            "box_nms_thresh": spec.nms_iou_threshold,
            "box_detections_per_img": spec.max_detections,
        },
    }
