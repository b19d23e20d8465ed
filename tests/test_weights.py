"""Starting weights: what is taken from a file, and what is refused."""

from __future__ import annotations

import logging

import pytest
import safetensors.torch
import torch
import torchvision

from appliance.errors import ConfigError, ModelFileError, StorageError
from appliance.labels import LabelMap
from appliance.model.faster_rcnn import build_network, freeze_stages
from appliance.model.spec import ModelSpec
from appliance.model.weights import apply_weights, read_starting_weights, spec_for
from appliance.training.plan import plan_training, settings_for


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    """A classifier's state dict, as torchvision's own weights are."""
    torch.manual_seed(5)
    classifier = torchvision.models.mobilenet_v3_small(weights=None)
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    safetensors.torch.save_file(classifier.state_dict(), path)
    return path, classifier


def test_a_backbone_is_recognised_and_taken_whole(backbone_file) -> None:
    path, classifier = backbone_file
    weights = read_starting_weights(str(path))
    assert weights.backbone == "mobilenet_v3_small"
    spec = spec_for(LabelMap(("a",)), weights)
    assert spec.backbone == "mobilenet_v3_small"
    network = build_network(spec)
    left = apply_weights(network, weights)
    assert left
    assert not [name for name in left if name.startswith("backbone.body.")]
    body = network.backbone.body.state_dict()
    expected = classifier.features.state_dict()
    for name in body:
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(body[name], expected[name], rtol=0, atol=0)


def test_pretrained_weights_fix_batch_norm_and_the_first_stage(backbone_file) -> None:
    path, _ = backbone_file
    plan = plan_training(
        LabelMap(("a",)),
        images=3,
        dataset_digest="",
        config=settings_for(str(path)),
        init=str(path),
    )
    assert plan.config.train_batch_norm is False
    assert plan.config.frozen_stages == 1
    assert plan.steps == 90


def test_a_model_file_gives_its_spec_and_all_but_the_classes(tiny_model_path, caplog) -> None:
    caplog.set_level(logging.INFO, logger="appliance")
    weights = read_starting_weights(str(tiny_model_path))
    spec = spec_for(LabelMap(("x", "y", "z")), weights)
    assert spec.shorter_side_px == 96
    left = apply_weights(build_network(spec), weights)
    assert {name.rsplit(".", 1)[0] for name in left} == {
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
    }
    assert "left random: roi_heads.box_predictor" in caplog.text


def test_wishes_left_open_take_the_defaults_of_the_architecture() -> None:
    weights = read_starting_weights("none")
    spec = spec_for(LabelMap(("a",)), weights, backbone=None, shorter_side_px=None)
    assert spec == ModelSpec.of(LabelMap(("a",)))


def test_a_file_of_neither_kind_is_refused(tmp_path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"layer.weight": torch.zeros(3)}, path)
    with pytest.raises(ModelFileError, match=r"Not starting weights.*layer\.weight"):
        read_starting_weights(str(path))


def test_coco_weights_do_not_exist_for_compact() -> None:
    with pytest.raises(ConfigError, match="no COCO weights for the compact"):
        read_starting_weights("coco")


@pytest.mark.parametrize(
    ("init", "architecture", "file_name"),
    [
        ("imagenet", "fasterrcnn_compact", "resnet18"),
        ("imagenet", "fasterrcnn_resnet50_fpn", "resnet50"),
        ("coco", "fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"),
    ],
)
def test_without_a_network_the_error_says_which_file_to_put_where(
    tmp_path, monkeypatch, init: str, architecture: str, file_name: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # refuses at once
    with pytest.raises(StorageError) as caught:
        read_starting_weights(init, architecture)
    assert f"{tmp_path}/hub/checkpoints/{file_name}" in str(caught.value)


def test_imagenet_weights_are_read_from_torchvisions_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    entry = torchvision.models.ResNet18_Weights.DEFAULT
    cached = tmp_path / "hub" / "checkpoints" / entry.url.rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    classifier = torchvision.models.resnet18(weights=None)
    torch.save(classifier.state_dict(), cached)
    weights = read_starting_weights("imagenet")
    network = build_network(spec_for(LabelMap(("a",)), weights))
    apply_weights(network, weights)
    torch.testing.assert_close(network.backbone.body.conv1.weight, classifier.conv1.weight)


@pytest.mark.parametrize(("stages", "last"), [(0, None), (1, "layer1"), (2, "layer2")])
def test_frozen_stages_do_not_learn(stages: int, last: str | None) -> None:
    spec = ModelSpec.of(LabelMap(("a",)), backbone="resnet18")
    network = build_network(spec)
    freeze_stages(network, spec, stages)
    order = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
    frozen = order[: order.index(last) + 1] if last else []
    body = network.backbone.body
    for name in order:
        learns = {parameter.requires_grad for parameter in getattr(body, name).parameters()}
        assert learns == {name not in frozen}
