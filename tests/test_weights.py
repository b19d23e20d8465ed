"""Starting weights: what is taken from a file, and what is refused."""

from __future__ import annotations

import logging

import pytest
import safetensors.torch
import torch
import torchvision

from appliance.errors import ConfigError, ModelFileError, StorageError
from appliance.labels import LabelMap
from appliance.model import model_file
from appliance.model.faster_rcnn import build_network, freeze_stages
from appliance.model.spec import COMPACT, ModelSpec
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
    fit = apply_weights(network, weights)
    assert fit.missing
    assert not [name for name in fit.left_random if name.startswith("backbone.body.")]
    # The classifier's last layers have no place in a detector.
    assert set(fit.unused) == {f"classifier.{i}.{k}" for i in (0, 3) for k in ("weight", "bias")}
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
    fit = apply_weights(build_network(spec), weights)
    assert {name.rsplit(".", 1)[0] for name in fit.misshapen} == {
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
    }
    assert not fit.missing
    assert not fit.unused
    total = len(fit.taken) + 4
    assert f"{tiny_model_path}: {total - 4} of the network's {total} tensors taken" in caplog.text
    assert "4 left random because those of the weights are of another shape" in caplog.text
    assert "(roi_heads.box_predictor 4)" in caplog.text


def test_a_box_predictor_for_as_many_other_classes_is_not_kept(tiny_model_path) -> None:
    weights = read_starting_weights(str(tiny_model_path))
    for labels, kept in ((("circle", "square"), True), (("cat", "dog"), False)):
        spec = spec_for(LabelMap(labels), weights)
        network = build_network(spec)
        fit = apply_weights(network, weights, spec.labels)
        name = "roi_heads.box_predictor.cls_score.weight"
        assert (name in fit.taken) is kept
        same = torch.equal(network.state_dict()[name], weights.tensors[name])
        assert same is kept


def test_a_model_file_of_another_architecture_gives_what_fits(tmp_path) -> None:
    parent = ModelSpec.of(LabelMap(("a",)), backbone="mobilenet_v3_large")
    body = build_network(parent)
    model_file.save(str(tmp_path / "m.safetensors"), body, parent)
    other = "fasterrcnn_mobilenet_v3_large_320_fpn"
    weights = read_starting_weights(str(tmp_path / "m.safetensors"), other)
    spec = spec_for(LabelMap(("a",)), weights, other)
    assert (spec.architecture, spec.backbone) == (other, None)
    network = build_network(spec)
    fit = apply_weights(network, weights, spec.labels)
    key = "backbone.body.0.0.weight"
    assert torch.equal(network.state_dict()[key], body.state_dict()[key])
    assert "roi_heads.box_head.fc6.weight" in fit.misshapen


def test_weights_that_fit_nowhere_are_refused(backbone_file) -> None:
    path, _ = backbone_file
    weights = read_starting_weights(str(path))
    network = build_network(ModelSpec.of(LabelMap(("a",)), backbone="resnet18"))
    with pytest.raises(ModelFileError, match="fit nowhere in the network"):
        apply_weights(network, weights)
    with pytest.raises(
        ModelFileError, match="expected a model file, or the state dict of resnet50"
    ):
        read_starting_weights(str(path), "fasterrcnn_resnet50_fpn")


def test_wishes_left_open_take_the_defaults_of_the_architecture() -> None:
    weights = read_starting_weights("none")
    spec = spec_for(LabelMap(("a",)), weights, backbone=None, shorter_side_px=None)
    assert spec == ModelSpec.of(LabelMap(("a",)))


def test_a_file_of_neither_kind_is_refused(tmp_path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"layer.weight": torch.zeros(3)}, path)
    with pytest.raises(ModelFileError, match=r"Not starting weights.*layer\.weight"):
        read_starting_weights(str(path))


@pytest.mark.parametrize("architecture", [COMPACT, "fasterrcnn_resnet50_fpn"])
@pytest.mark.parametrize(("stages", "last"), [(0, None), (1, "layer1"), (2, "layer2")])
def test_frozen_stages_do_not_learn(architecture: str, stages: int, last: str | None) -> None:
    spec = ModelSpec.of(LabelMap(("a",)), architecture)
    network = build_network(spec)
    freeze_stages(network, spec, stages)
    order = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
    frozen = order[: order.index(last) + 1] if last else []
    body = network.backbone.body
    for name in order:
        learns = {parameter.requires_grad for parameter in getattr(body, name).parameters()}
        assert learns == {name not in frozen}


def test_mobilenets_of_torchvision_freeze_down_to_stride_4() -> None:
    spec = ModelSpec.of(LabelMap(("a",)), "fasterrcnn_mobilenet_v3_large_fpn")
    network = build_network(spec)
    freeze_stages(network, spec, 1)
    children = list(network.backbone.body.children())
    learns = [any(p.requires_grad for p in child.parameters()) for child in children[:6]]
    assert learns == [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (
            "imagnet",
            r"got 'imagnet', expected none, imagenet, coco, or a file.. Did you mean imagenet",
        ),
        ("", "got '', expected none, imagenet, coco, or a file.$"),
    ],
)
def test_a_word_that_names_no_weights_is_answered_with_those_there_are(init, message) -> None:
    with pytest.raises(ConfigError, match=message):
        read_starting_weights(init)
    with pytest.raises(StorageError, match="Cannot read the file: nowhere/weights"):
        read_starting_weights("nowhere/weights")
