"""torchvision's own weights, from a cache filled with random ones of the right names and shapes.

The reference is torchvision itself, which reads the same file through its public interface.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.models.detection.image_list import ImageList

from appliance import FasterRCNN
from appliance.detections import Detections
from appliance.errors import ConfigError, StorageError
from appliance.images.decoding import DecodedImage
from appliance.labels import LabelMap
from appliance.model import model_file, torchvision_weights
from appliance.model.faster_rcnn import build_network
from appliance.model.predictor import Predictor
from appliance.model.spec import COMPACT_BACKBONES, TORCHVISION_ARCHITECTURES, ModelSpec
from appliance.model.weights import apply_weights, read_starting_weights, spec_for
from appliance.records import Record, records_agree


def _smooth_picture() -> torch.Tensor:
    """Of a size that needs no resizing in a small network; values that uint8 can hold."""
    coarse = np.random.default_rng(4).integers(0, 255, (10, 14, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((448, 320), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


PIXELS = _smooth_picture()
PROPOSALS = 60
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of torchvision, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # refuses at once
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def path_in(cache: Path, name: str) -> Path:
    return cache / torchvision.models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]


@functools.cache
def lively_detector(architecture: str) -> dict[str, torch.Tensor]:
    """Random weights of a detector that finds something of many classes, and never a class of the gaps."""
    torch.manual_seed(11)
    network = torchvision.models.get_model(
        architecture,
        weights=None,
        weights_backbone=None,
        num_classes=91,
        min_size=320,
        max_size=640,
        rpn_post_nms_top_n_test=PROPOSALS,
    )
    for module in network.backbone.body.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data *= 0.1  # small variances, so that what is added to them shows
    for module in network.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    head, predictor = network.rpn.head.cls_logits, network.roi_heads.box_predictor
    pixels = network.eval().transform([PIXELS])[0].tensors[..., :320, :448]
    with torch.no_grad():
        # In training mode one pass sets the statistics so that something arrives at the other end.
        features = network.backbone.train()(pixels)
        # The last layer of either head says different things of different places, but nothing extreme.
        head.weight *= 2 / network.rpn.head([features["0"]])[0][0].std()
        features = network.eval().backbone(pixels)
        proposals, _ = network.rpn(ImageList(pixels, [(320, 448)]), features)
        pooled = network.roi_heads.box_roi_pool(features, proposals, [(320, 448)])
        logits, _ = predictor(network.roi_heads.box_head(pooled))
        predictor.cls_score.weight *= 3 / logits.std(0).mean()
    predictor.cls_score.bias.data[list(COCO_GAPS)] = -1e4
    return network.state_dict()


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
    cache, picture, tmp_path, architecture: str
) -> None:
    path, pixels = picture
    tensors = lively_detector(architecture)
    cached = path_in(cache, architecture)
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


def test_without_the_gaps_every_score_is_larger_by_the_share_they_had(cache) -> None:
    architecture = "fasterrcnn_mobilenet_v3_large_320_fpn"
    tensors = dict(lively_detector(architecture))
    prefix = "roi_heads.box_predictor.cls_score"
    bias = tensors[f"{prefix}.bias"].clone()
    bias[list(COCO_GAPS)] = -2.0
    tensors[f"{prefix}.bias"] = bias
    torch.save(tensors, path_in(cache, architecture))
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


@pytest.mark.parametrize("architecture", TORCHVISION_ARCHITECTURES)
def test_coco_gives_all_but_the_box_predictor_to_other_labels(cache, architecture: str) -> None:
    tensors = lively_detector(architecture)
    torch.save(tensors, path_in(cache, architecture))
    weights = read_starting_weights("coco", architecture)
    spec = spec_for(LabelMap(("a", "b")), weights, architecture)
    fit = apply_weights(build_network(spec), weights, spec.labels)
    assert {name.rpartition(".")[0] for name in fit.left_random} == {
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
    }
    assert not fit.unused


def test_compact_takes_its_backbone_from_a_detector_trained_on_coco(cache, caplog) -> None:
    caplog.set_level(logging.INFO, logger="appliance")
    architecture = "fasterrcnn_mobilenet_v3_large_fpn"
    torch.save(lively_detector(architecture), path_in(cache, architecture))
    weights = read_starting_weights("coco")
    spec = spec_for(LabelMap(("a",)), weights)
    assert spec.backbone == "mobilenet_v3_large"
    network = build_network(spec).eval()
    fit = apply_weights(network, weights, spec.labels)
    assert not [name for name in fit.left_random if name.startswith("backbone.body")]
    assert "left random" in caplog.text
    reference = torchvision.models.get_model(
        architecture, weights=torchvision.models.get_model_weights(architecture).DEFAULT
    ).eval()
    values = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        ours = network.backbone.body(values)
        theirs = reference.backbone.body(values)
    last_ours, last_theirs = list(ours.values())[-1], list(theirs.values())[-1]
    assert last_theirs.std() > 1e-3
    torch.testing.assert_close(last_ours, last_theirs, rtol=1e-3, atol=1e-4)


def test_there_are_no_coco_weights_for_other_backbones_of_compact() -> None:
    with pytest.raises(ConfigError, match="no COCO weights for the backbone resnet18"):
        read_starting_weights("coco", backbone="resnet18")


@pytest.mark.parametrize("backbone", COMPACT_BACKBONES)
def test_imagenet_weights_of_every_backbone_fit_compact(cache, backbone: str) -> None:
    classifier = torchvision.models.get_model(backbone, weights=None)
    torch.save(classifier.state_dict(), path_in(cache, backbone))
    weights = read_starting_weights("imagenet", backbone=backbone)
    spec = spec_for(LabelMap(("a",)), weights)
    assert spec.backbone == backbone
    network = build_network(spec)
    fit = apply_weights(network, weights, spec.labels)
    assert not [name for name in fit.left_random if name.startswith("backbone.body")]
    assert {name.split(".")[0] for name in fit.unused} <= {"fc", "classifier"}


@pytest.mark.parametrize("architecture", TORCHVISION_ARCHITECTURES)
def test_imagenet_weights_fit_torchvisions_detectors(cache, architecture: str) -> None:
    backbone = "resnet50" if "resnet50" in architecture else "mobilenet_v3_large"
    classifier = torchvision.models.get_model(backbone, weights=None)
    torch.save(classifier.state_dict(), path_in(cache, backbone))
    weights = read_starting_weights("imagenet", architecture)
    spec = spec_for(LabelMap(("a",)), weights, architecture)
    network = build_network(spec)
    fit = apply_weights(network, weights, spec.labels)
    assert not [name for name in fit.left_random if name.startswith("backbone.body")]
    first = next(iter(classifier.parameters()))
    assert torch.equal(next(iter(network.backbone.body.parameters())), first)


@pytest.mark.parametrize(
    ("init", "architecture", "file_name"),
    [
        ("imagenet", "fasterrcnn_compact", "resnet18"),
        ("imagenet", "fasterrcnn_resnet50_fpn", "resnet50"),
        ("coco", "fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"),
    ],
)
def test_without_a_network_the_error_says_which_file_to_put_where(
    cache, init: str, architecture: str, file_name: str
) -> None:
    with pytest.raises(StorageError) as caught:
        read_starting_weights(init, architecture)
    assert f"put it at {cache}/{file_name}" in str(caught.value)
    assert "https://" in str(caught.value)
    assert list(cache.iterdir()) == []


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _html(path: Path) -> None:
    path.write_text("<html>404 Not Found</html>")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _list(path: Path) -> None:
    torch.save([torch.zeros(1)], path)


def _checkpoint(path: Path) -> None:
    torch.save({"model": {"conv1.weight": torch.zeros(1)}, "epoch": 3}, path)


class Bomb:
    """What a hostile file would hold."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('the pickle was run')",))


def _bomb(path: Path) -> None:
    torch.save({"conv1.weight": Bomb()}, path)


@pytest.mark.parametrize("spoil", [_cut, _html, _empty, _list, _checkpoint, _bomb])
def test_a_spoilt_file_in_the_cache_is_named_and_never_run(cache, spoil) -> None:
    path = path_in(cache, "resnet18")
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    spoil(path)
    with pytest.raises(StorageError, match="The file in torchvision's cache") as caught:
        read_starting_weights("imagenet")
    assert str(path) in str(caught.value)
    assert "Replace it by https://" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_a_detectors_file_that_holds_something_else_is_named(cache, change: str) -> None:
    architecture = "fasterrcnn_mobilenet_v3_large_fpn"
    tensors = dict(lively_detector(architecture))
    name = "rpn.head.cls_logits.weight"
    value = tensors.pop(name)
    if change != "missing":
        tensors[name if change == "shape" else "surprise"] = value[:1]
    torch.save(tensors, path_in(cache, architecture))
    with pytest.raises(StorageError, match="does not hold the weights it is named after"):
        read_starting_weights("coco", architecture)


def test_a_file_that_is_not_the_original_is_used_and_said(cache, caplog) -> None:
    path = path_in(cache, "resnet18")
    classifier = torchvision.models.resnet18(weights=None)
    torch.save(classifier.state_dict(), path)
    weights = read_starting_weights("imagenet")
    assert torch.equal(weights.tensors["backbone.body.conv1.weight"], classifier.conv1.weight)
    begins = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert f"its SHA-256 begins {begins}, not f37072fd" in caplog.text


def test_eps_survives_the_model_file(cache, tmp_path) -> None:
    """The COCO weights of ResNet-50 stand for a BatchNorm without eps, also after saving and loading."""
    architecture = "fasterrcnn_resnet50_fpn"
    torch.save(lively_detector(architecture), path_in(cache, architecture))
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
