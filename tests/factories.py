"""Small makers of test values: pictures as encoded bytes, detections, training plans."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn
from torchvision.models.detection import FasterRCNN

from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.detections import Detections
from appliance.labels import LabelMap
from appliance.model.faster_rcnn import build_network
from appliance.model.spec import COMPACT, ModelSpec
from appliance.training.plan import TrainingPlan, plan_training, settings_for

TINY = {
    "backbone": "mobilenet_v3_small",
    "shorter_side_px": 96,
    "longer_side_px": 160,
    "fpn_channels": 32,
    "box_head_channels": 32,
    "anchor_sizes_px": (16, 32, 64),
}


def picture(size_wh: tuple[int, int] = (96, 64), seed: int = 0) -> Image.Image:
    """An RGB picture with a few coloured shapes on a gradient; the same seed draws the same."""
    width, height = size_wh
    rng = np.random.default_rng(seed)
    ramp = np.linspace(40, 160, width, dtype=np.uint8)
    image = Image.fromarray(np.broadcast_to(ramp[None, :, None], (height, width, 3)).copy())
    draw = ImageDraw.Draw(image)
    for shape in (draw.ellipse, draw.rectangle, draw.ellipse):
        x1, y1 = (rng.random(2) * (0.6 * width, 0.6 * height)).tolist()
        side = float(rng.uniform(0.2, 0.4)) * min(width, height)
        color = tuple(rng.integers(0, 256, 3).tolist())
        shape((x1, y1, x1 + side, y1 + side), fill=color)
    return image


def encoded(image: Image.Image, image_format: str = "JPEG", **save_options) -> bytes:
    """The bytes of a file that holds `image`."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **save_options)
    return buffer.getvalue()


def jpeg_bytes(size_wh: tuple[int, int] = (96, 64), seed: int = 0, **save_options) -> bytes:
    """A JPEG file with a few coloured shapes."""
    return encoded(picture(size_wh, seed), "JPEG", **save_options)


def detections(count: int = 3, size_hw: tuple[int, int] = (64, 96), seed: int = 0) -> Detections:
    """Valid random detections with class ids 1 and 2."""
    rng = np.random.default_rng(seed)
    height, width = size_hw
    x1y1 = rng.random((count, 2)) * (width / 2, height / 2)
    x2y2 = x1y1 + (1 + rng.random((count, 2)) * (width / 2 - 1, height / 2 - 1))
    scores = np.sort(rng.random(count))[::-1]
    return Detections(
        np.concatenate([x1y1, x2y2], axis=1).astype(np.float32),
        scores.astype(np.float32),
        rng.integers(1, 3, count),
        size_hw,
    )


def spread_outputs(network: FasterRCNN) -> FasterRCNN:
    """Scales the last layers of a fresh network, in place, so that its regions differ on a picture."""
    pixels = torch.from_numpy(np.array(picture((128, 96), seed=1))).permute(2, 0, 1) / 255
    first, second = network.rpn.head, network.roi_heads.box_predictor
    wanted: list[tuple[nn.Module, float]] = [
        *((first.cls_logits, 1.0), (first.bbox_pred, 0.2)),
        *((second.cls_score, 1.0), (second.bbox_pred, 1.0)),
    ]
    network.eval()
    # One after the other: what the first layers find is what the others see.
    for layer, deviation in wanted:
        seen: list[torch.Tensor] = []
        hook = layer.register_forward_hook(
            lambda *call, seen=seen: seen.append(call[-1].movedim(1, -1).flatten(0, -2))
        )
        with torch.no_grad(), hook:
            network([pixels])
            values = torch.cat(seen)
            scale = deviation / values.std(0)
            layer.weight *= scale.view(-1, *[1] * (layer.weight.dim() - 1))
            layer.bias.copy_((layer.bias - values.mean(0)) * scale)
    return network


def network_with_something_to_say(spec: ModelSpec) -> FasterRCNN:
    """Random weights whose scores differ: fresh ones let the signal die away in deep networks."""
    torch.manual_seed(1)
    network = build_network(spec)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean of what comes
    with torch.no_grad():
        network.backbone(torch.randn(4, 3, 128, 192))
    return spread_outputs(network)


def small_spec(architecture: str, **settings: object) -> ModelSpec:
    """A detector of an architecture for three labels and small pictures, which answers with all it sees."""
    chosen: dict[str, object] = {
        "shorter_side_px": 128,
        "longer_side_px": 192,
        "proposals_pre_nms": 100,
        "proposals_post_nms": 50,
        "score_threshold": 0.0,
    }
    if architecture == COMPACT:
        chosen["backbone"] = "mobilenet_v2"
    elif "mobilenet" in architecture:
        # Its coarse levels have hardly any cell at the size that does for the others.
        chosen |= {"shorter_side_px": 256, "longer_side_px": 384}
    return ModelSpec.of(LabelMap(("a", "b", "c")), architecture, **{**chosen, **settings})


def plan_for(dataset: ObjectDetectionDataset, **wishes) -> TrainingPlan:
    """A plan to train a tiny network from random weights, exactly repeatable."""
    return plan_training(
        dataset.label_map,
        images=len(dataset),
        dataset_digest=dataset.digest(),
        config=settings_for("none", precision="float32", **wishes),
        **TINY,
    )


def assert_equal_weights(first: torch.nn.Module, second: torch.nn.Module) -> None:
    """Every tensor of one equals the other's bit for bit."""
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
