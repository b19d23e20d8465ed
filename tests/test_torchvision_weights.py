"""torchvision's own weights: which of them fit where, and what is refused in its cache."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest
import torch
import torchvision
from torchvision_cache import lively_detector, path_in

from appliance.errors import ConfigError, StorageError
from appliance.labels import LabelMap
from appliance.model.faster_rcnn import build_network
from appliance.model.spec import COMPACT_BACKBONES, TORCHVISION_ARCHITECTURES
from appliance.model.weights import apply_weights, read_starting_weights, spec_for


@pytest.mark.parametrize("architecture", TORCHVISION_ARCHITECTURES)
def test_coco_gives_all_but_the_box_predictor_to_other_labels(
    weights_cache, architecture: str
) -> None:
    tensors = lively_detector(architecture)
    torch.save(tensors, path_in(weights_cache, architecture))
    weights = read_starting_weights("coco", architecture)
    spec = spec_for(LabelMap(("a", "b")), weights, architecture)
    fit = apply_weights(build_network(spec), weights, spec.labels)
    assert {name.rpartition(".")[0] for name in fit.left_random} == {
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
    }
    assert not fit.unused


def test_compact_takes_its_backbone_from_a_detector_trained_on_coco(weights_cache, caplog) -> None:
    caplog.set_level(logging.INFO, logger="appliance")
    architecture = "fasterrcnn_mobilenet_v3_large_fpn"
    torch.save(lively_detector(architecture), path_in(weights_cache, architecture))
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
def test_imagenet_weights_of_every_backbone_fit_compact(weights_cache, backbone: str) -> None:
    classifier = torchvision.models.get_model(backbone, weights=None)
    torch.save(classifier.state_dict(), path_in(weights_cache, backbone))
    weights = read_starting_weights("imagenet", backbone=backbone)
    spec = spec_for(LabelMap(("a",)), weights)
    assert spec.backbone == backbone
    network = build_network(spec)
    fit = apply_weights(network, weights, spec.labels)
    assert not [name for name in fit.left_random if name.startswith("backbone.body")]
    assert {name.split(".")[0] for name in fit.unused} <= {"fc", "classifier"}


@pytest.mark.parametrize("architecture", TORCHVISION_ARCHITECTURES)
def test_imagenet_weights_fit_torchvisions_detectors(weights_cache, architecture: str) -> None:
    backbone = "resnet50" if "resnet50" in architecture else "mobilenet_v3_large"
    classifier = torchvision.models.get_model(backbone, weights=None)
    torch.save(classifier.state_dict(), path_in(weights_cache, backbone))
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
    weights_cache, init: str, architecture: str, file_name: str
) -> None:
    with pytest.raises(StorageError) as caught:
        read_starting_weights(init, architecture)
    assert f"put it at {weights_cache}/{file_name}" in str(caught.value)
    assert "https://" in str(caught.value)
    assert list(weights_cache.iterdir()) == []


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
def test_a_spoilt_file_in_the_cache_is_named_and_never_run(weights_cache, spoil) -> None:
    path = path_in(weights_cache, "resnet18")
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    spoil(path)
    with pytest.raises(StorageError, match="The file in torchvision's cache") as caught:
        read_starting_weights("imagenet")
    assert str(path) in str(caught.value)
    assert "Replace it by https://" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_a_detectors_file_that_holds_something_else_is_named(weights_cache, change: str) -> None:
    architecture = "fasterrcnn_mobilenet_v3_large_fpn"
    tensors = dict(lively_detector(architecture))
    name = "rpn.head.cls_logits.weight"
    value = tensors.pop(name)
    if change != "missing":
        tensors[name if change == "shape" else "surprise"] = value[:1]
    torch.save(tensors, path_in(weights_cache, architecture))
    with pytest.raises(StorageError, match="does not hold the weights it is named after"):
        read_starting_weights("coco", architecture)


def test_a_file_that_is_not_the_original_is_used_and_said(weights_cache, caplog) -> None:
    path = path_in(weights_cache, "resnet18")
    classifier = torchvision.models.resnet18(weights=None)
    torch.save(classifier.state_dict(), path)
    weights = read_starting_weights("imagenet")
    assert torch.equal(weights.tensors["backbone.body.conv1.weight"], classifier.conv1.weight)
    begins = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert f"its SHA-256 begins {begins}, not f37072fd" in caplog.text
