"""The predictor against plain torchvision, and its promises about company, order and thresholds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from appliance.errors import ConfigError
from appliance.images.decoding import DecodedImage
from appliance.labels import LabelMap
from appliance.model.faster_rcnn import build_network, extract_body
from appliance.model.predictor import Predictor, fold_batch_norms, resize
from appliance.model.spec import COMPACT_BACKBONES, ModelSpec


def picture(height: int, width: int, seed: int = 0) -> DecodedImage:
    pixels_hwc = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return DecodedImage(torch.from_numpy(pixels_hwc).permute(2, 0, 1), (height, width))


@pytest.fixture(scope="module")
def predictor(tiny_model_path) -> Predictor:
    return Predictor.load(str(tiny_model_path), device="cpu", score_threshold=0.0)


def test_equals_torchvision_on_a_picture_that_needs_no_resizing() -> None:
    spec = ModelSpec.of(
        LabelMap(("a", "b")),
        backbone="resnet18",
        shorter_side_px=128,
        longer_side_px=192,
        score_threshold=0.0,
    )
    torch.manual_seed(1)
    network = build_network(spec)
    # Statistics other than 0 and 1, so that folding BatchNorm has something to get wrong.
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    network.eval()
    image = picture(128, 192)
    with torch.no_grad():
        expected = network([image.pixels.float() / 255])[0]
    found = Predictor(network, spec, device="cpu").predict([image])[0]
    assert len(found) == len(expected["scores"]) > 10
    np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-4)
    np.testing.assert_allclose(found.boxes_xyxy, expected["boxes"], atol=0.05)
    assert found.class_ids.tolist() == expected["labels"].tolist()


def test_a_picture_gets_the_same_boxes_in_any_company(predictor: Predictor) -> None:
    pictures = [picture(120, 90, 1), picture(90, 120, 2), picture(240, 180, 3), picture(120, 90, 4)]
    together = predictor.predict(pictures)
    backwards = predictor.predict(pictures[::-1])[::-1]
    for image, in_order, reversed_order in zip(pictures, together, backwards, strict=True):
        alone = predictor.predict([image])[0]
        for other in (in_order, reversed_order):
            np.testing.assert_array_equal(alone.boxes_xyxy, other.boxes_xyxy)
            np.testing.assert_array_equal(alone.scores, other.scores)


def test_batches_through_the_network_change_no_more_than_rounding(tiny_model_path) -> None:
    one = Predictor.load(str(tiny_model_path), device="cpu")
    three = Predictor.load(str(tiny_model_path), device="cpu")
    three.batch_size = 3
    pictures = [picture(120, 90, seed) for seed in range(5)]
    for alone, batched in zip(one.predict(pictures), three.predict(pictures), strict=True):
        np.testing.assert_allclose(alone.boxes_xyxy, batched.boxes_xyxy, atol=0.5)
        np.testing.assert_allclose(alone.scores, batched.scores, atol=1e-3)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 300), (2000, 11), (97, 161)])
def test_boxes_lie_within_pictures_of_odd_sizes(
    predictor: Predictor, size_hw: tuple[int, int]
) -> None:
    found = predictor.predict([picture(*size_hw)])[0]
    assert found.size_hw == size_hw  # Detections refuses boxes outside


def test_no_picture_gives_no_result(predictor: Predictor) -> None:
    assert predictor.predict([]) == []


def test_threshold_and_maximum_are_obeyed(tiny_model_path) -> None:
    image = picture(120, 90)
    everything = Predictor.load(str(tiny_model_path), score_threshold=0.0).predict([image])[0]
    middle = float(np.median(everything.scores))
    above = Predictor.load(str(tiny_model_path), score_threshold=middle).predict([image])[0]
    assert 0 < len(above) < len(everything)
    assert above.scores.min() >= middle
    best = Predictor.load(str(tiny_model_path), score_threshold=0.0, max_detections=3)
    np.testing.assert_array_equal(best.predict([image])[0].scores, everything.scores[:3])
    nothing = Predictor.load(str(tiny_model_path), score_threshold=1.0).predict([image])[0]
    assert len(nothing) == 0


def test_a_scaled_jpeg_is_answered_in_pixels_of_the_original(predictor: Predictor) -> None:
    full = picture(480, 360, 5)
    half = resize(full.pixels, (240, 180)).round().to(torch.uint8)
    found = predictor.predict([DecodedImage(half, (480, 360))])[0]
    assert found.size_hw == (480, 360)
    assert found.boxes_xyxy[:, 3].max() > 240


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_an_unknown_device_is_refused(tiny_model_path, device: str) -> None:
    with pytest.raises(ConfigError, match="device"):
        Predictor.load(str(tiny_model_path), device=device)


@pytest.mark.parametrize("backbone", COMPACT_BACKBONES)
def test_folding_batch_norm_leaves_none_and_changes_nothing(backbone: str) -> None:
    torch.manual_seed(0)
    body, _ = extract_body(backbone)
    body = nn.Sequential(*[m for name, m in body.named_children() if name not in ("avgpool", "fc")])
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    body.eval()
    values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = body(values)
        fold_batch_norms(body)
        folded = body(values)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in body.modules())
    torch.testing.assert_close(folded, expected, rtol=1e-3, atol=1e-4)
