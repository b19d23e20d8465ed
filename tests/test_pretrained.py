"""Detectors without training. The reference is torchvision itself, which reads the same file in its own way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision_cache import COCO_GAPS, PIXELS, PROPOSALS, lively_detector, path_in

from appliance import FasterRCNN
from appliance.detections import Detections
from appliance.errors import ConfigError
from appliance.images.decoding import DecodedImage
from appliance.labels import LabelMap
from appliance.model import model_file, torchvision_weights
from appliance.model.faster_rcnn import build_network
from appliance.model.predictor import Predictor
from appliance.model.spec import TORCHVISION_ARCHITECTURES, ModelSpec
from appliance.model.weights import apply_weights, read_starting_weights
from appliance.records import Record, records_agree


def with_names_of_2019(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names that torchvision's published files have."""

    def old(name: str) -> str:
        if name.startswith(("backbone.fpn.inner_blocks.", "backbone.fpn.layer_blocks.")):
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        return name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")

    return {old(name): tensor for name, tensor in tensors.items()}


@pytest.fixture
def picture(tmp_path) -> tuple[str, torch.Tensor]:
    """A picture of the size at which it enters the small network, and its pixels in 0..1."""
    path = tmp_path / "picture.png"
    Image.fromarray((PIXELS * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(path)
    return str(path), PIXELS


def test_the_gaps_are_where_torchvision_says() -> None:
    entry = torchvision.models.get_model_weights("fasterrcnn_resnet50_fpn").DEFAULT
    names = entry.meta["categories"]
    assert tuple(index for index, name in enumerate(names) if name == "N/A") == COCO_GAPS
    assert len(names) == 91


@pytest.mark.parametrize("architecture", TORCHVISION_ARCHITECTURES)
def test_pretrained_gives_torchvisions_answers_for_cocos_classes(
    weights_cache, picture, tmp_path, architecture: str
) -> None:
    path, pixels = picture
    tensors = lively_detector(architecture)
    cached = path_in(weights_cache, architecture)
    old_files = not architecture.endswith("_v2")
    torch.save(with_names_of_2019(tensors) if old_files else tensors, cached)

    detector = FasterRCNN.pretrained("coco", architecture=architecture, device="cpu")
    # 320 pixels is the least its own anchors make sense for, and needs no resizing here.
    network, spec, info = detector._trained
    spec = spec.with_settings(shorter_side_px=320, longer_side_px=640, proposals_post_nms=PROPOSALS)
    network.rpn._post_nms_top_n["testing"] = PROPOSALS
    network.transform.min_size, network.transform.max_size = (320,), 640
    detector._trained = (network, spec, info)
    found = detector.detect(path)

    entry = torchvision.models.get_model_weights(architecture).DEFAULT
    reference = torchvision.models.get_model(
        architecture,
        weights=entry,
        min_size=320,
        max_size=640,
        rpn_pre_nms_top_n_test=spec.proposals_pre_nms,
        rpn_post_nms_top_n_test=spec.proposals_post_nms,
    ).eval()
    with torch.inference_mode():
        expected = reference([pixels])[0]

    categories, ids = entry.meta["categories"], detector.class_map
    expected_ids = np.array([ids[categories[int(label)]] for label in expected["labels"]])
    reference_found = Detections(
        expected["boxes"].numpy(), expected["scores"].numpy(), expected_ids, found.size_hw
    )
    exact = Predictor(network, spec, device="cpu", exact=True)
    exact_found = exact.predict([DecodedImage((pixels * 255).round().byte(), found.size_hw)])[0]
    assert len(found) == len(exact_found) == len(reference_found) > 10
    assert len(set(expected_ids)) > 1
    records = [
        Record.of_detections(
            answer,
            spec.label_map,
            image_uri=path,
            content_sha256="0",
            model_name="m",
            model_version="0",
        )
        for answer in (reference_found, exact_found, found)
    ]
    # Rescaling ResNet-50's BatchNorm for another eps rounds every weight once more.
    is_rescaled = architecture == "fasterrcnn_resnet50_fpn"
    box_px, score = (0.25, 1e-3) if is_rescaled else (0.05, 1e-4)
    assert records_agree(records[1], records[0], box_tolerance_px=box_px, score_tolerance=score)
    assert records_agree(records[2], records[0], box_tolerance_px=0.25, score_tolerance=1e-3)
    assert len(detector.labels) == 80

    # The file of the model has all of it: nothing of torchvision's cache is needed any more.
    detector.save(tmp_path / "coco.safetensors")
    cached.unlink()
    again = FasterRCNN.load(tmp_path / "coco.safetensors", device="cpu").detect(path)
    np.testing.assert_array_equal(again.boxes_xyxy, found.boxes_xyxy)
    np.testing.assert_array_equal(again.scores, found.scores)


def test_without_the_gaps_every_score_is_larger_by_the_share_they_had(weights_cache) -> None:
    architecture = "fasterrcnn_mobilenet_v3_large_320_fpn"
    tensors = dict(lively_detector(architecture))
    prefix = "roi_heads.box_predictor.cls_score"
    bias = tensors[f"{prefix}.bias"].clone()
    bias[list(COCO_GAPS)] = -2.0
    tensors[f"{prefix}.bias"] = bias
    torch.save(tensors, path_in(weights_cache, architecture))
    features = torch.rand(50, 1024, generator=torch.Generator().manual_seed(1)) / 100

    def scores(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.addmm(
            weights[f"{prefix}.bias"], features, weights[f"{prefix}.weight"].T
        ).softmax(1)

    theirs, ours = scores(tensors), scores(torchvision_weights.coco(architecture)[0])
    in_gaps = theirs[:, list(COCO_GAPS)].sum(1, keepdim=True)
    assert in_gaps.min() > 1e-4
    kept = [row for row in range(91) if row not in COCO_GAPS]
    torch.testing.assert_close(ours, theirs[:, kept] / (1 - in_gaps), rtol=1e-4, atol=1e-6)


def test_training_takes_nearly_all_score_from_a_class_that_never_occurs() -> None:
    """Why the gaps may be left out: nothing but their absence has taught the published weights."""
    generator = torch.Generator().manual_seed(1)
    features = torch.rand(64, 20, generator=generator)
    answers = torch.randint(0, 3, (64,), generator=generator)
    weight = torch.zeros(20, 4, requires_grad=True)
    steps, learning_rate = 2000, 0.02
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(features @ weight, answers)
        (gradient,) = torch.autograd.grad(loss, weight)
        weight.data -= learning_rate * gradient
    never = (features @ weight).softmax(1)[:, 3]
    # It began at 1/4. The published weights have seen a hundred times as many steps.
    assert never.max() < 1 / (learning_rate * steps)


@pytest.mark.parametrize(
    ("weights", "architecture"),
    [("imagenet", None), ("coco", "fasterrcnn_compact"), ("model.safetensors", None)],
)
def test_there_is_no_other_pretrained_detector(weights: str, architecture: str | None) -> None:
    with pytest.raises(ConfigError, match=r"no such pretrained detector.*FasterRCNN\.load"):
        FasterRCNN.pretrained(weights, architecture=architecture)


def test_eps_survives_the_model_file(weights_cache, tmp_path) -> None:
    """The COCO weights of ResNet-50 stand for a BatchNorm without eps, also after saving and loading."""
    architecture = "fasterrcnn_resnet50_fpn"
    torch.save(lively_detector(architecture), path_in(weights_cache, architecture))
    weights = read_starting_weights("coco", architecture)
    spec = ModelSpec.of(LabelMap(weights.labels), architecture)
    network = build_network(spec)
    apply_weights(network, weights, spec.labels)
    model_file.save(str(tmp_path / "m.safetensors"), network, spec)
    loaded = model_file.load(str(tmp_path / "m.safetensors")).network
    reference = torchvision.models.get_model(
        architecture, weights=torchvision.models.get_model_weights(architecture).DEFAULT
    ).eval()
    assert reference.backbone.body.bn1.eps == 0
    values = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = reference.backbone(values)
        for level, found in loaded.backbone(values).items():
            scale = expected[level].abs().max()
            assert (found - expected[level]).abs().max() < 1e-4 * scale
