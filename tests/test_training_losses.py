"""The training pass against torchvision's own, and its parts that only a GPU takes, tried on a CPU."""

from __future__ import annotations

import pytest
import torch
from factories import TINY, spread_outputs
from torch import nn
from torchvision.models.detection.image_list import ImageList

from appliance.labels import LabelMap
from appliance.model.faster_rcnn import IMAGE_MEAN, IMAGE_STD, build_network
from appliance.model.inference.convolutions import NormedConvolution, normed_convolutions
from appliance.model.inference.cudnn import CudnnConv2d
from appliance.model.inference.proposals import ProposalSelection
from appliance.model.spec import ModelSpec
from appliance.training.data import Batch
from appliance.training.frozen_norms import FrozenNorms
from appliance.training.losses import DetectionLosses
from appliance.training.step import set_mode

LABELS = LabelMap(("circle", "square"))


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(3, 3, 96, 128, generator=generator) * 255
    boxes_xyxy = torch.tensor([[8.0, 8, 60, 70], [50, 20, 120, 90], [30, 40, 52, 66]])
    class_ids = torch.tensor([1, 2, 1])
    targets = [{"boxes": boxes_xyxy[:n], "labels": class_ids[:n]} for n in (3, 1, 0)]
    return Batch(pixels, [(96, 128)] * 3, targets, ["a", "b", "c"])


def network_for(backbone: str = "mobilenet_v3_small"):
    spec = ModelSpec.of(LABELS, **TINY | {"backbone": backbone})
    torch.manual_seed(1)
    network = spread_outputs(build_network(spec))
    for _, _, _, _, norm in normed_convolutions(network):
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    set_mode(network, train_batch_norm=False)
    return network


def losses_and_gradients(losses_of: nn.Module, batch: Batch):
    losses_of.zero_grad()
    torch.manual_seed(5)  # for the sampling of anchors and regions
    losses = losses_of(batch.pixels, batch.sizes_hw, batch.targets)
    sum(losses.values()).backward()
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in losses_of.named_parameters()
        if parameter.grad is not None
    }
    return losses, gradients


def test_the_losses_are_torchvisions_own(batch) -> None:
    network = network_for()
    losses, gradients = losses_and_gradients(DetectionLosses(network), batch)
    torch.manual_seed(5)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (IMAGE_MEAN, IMAGE_STD))
    inputs = ((batch.pixels - mean) / std).contiguous(memory_format=torch.channels_last)
    features = network.backbone(inputs)
    images = ImageList(inputs, batch.sizes_hw)
    proposals, of_rpn = network.rpn(images, features, batch.targets)
    _, of_heads = network.roi_heads(features, proposals, batch.sizes_hw, batch.targets)
    expected = {**of_rpn, **of_heads}
    assert losses.keys() == expected.keys()
    # The RPN is theirs to the bit; RoIAlign adds the same numbers in another order.
    assert all(torch.equal(losses[name], expected[name]) for name in of_rpn)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    gradients_of_theirs = torch.autograd.grad(
        sum(expected.values()), [network.get_parameter(name[8:]) for name in gradients]
    )
    for (name, gradient), theirs in zip(gradients.items(), gradients_of_theirs, strict=True):
        scale = float(theirs.abs().max()) + 1e-6
        assert float((gradient - theirs).abs().max()) < 1e-3 * scale, name


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small"])
def test_frozen_norms_taken_into_convolutions_change_nothing(batch, backbone: str) -> None:
    network = network_for(backbone)
    apart, apart_gradients = losses_and_gradients(DetectionLosses(network), batch)
    folded_losses = DetectionLosses(network, frozen_norms=FrozenNorms(network))
    folded, folded_gradients = losses_and_gradients(folded_losses, batch)
    torch.testing.assert_close(folded, apart, rtol=1e-4, atol=1e-5)
    # Factors and offsets of the norms learn too.
    assert folded_gradients.keys() == apart_gradients.keys()
    assert any("bn" in name or ".1.weight" in name for name in folded_gradients)
    for name, gradient in folded_gradients.items():
        scale = float(apart_gradients[name].abs().max()) + 1e-6
        assert float((gradient - apart_gradients[name]).abs().max()) < 2e-3 * scale, name
    # Outside of a pass the modules are as they were.
    assert not any("forward" in vars(module) for module in network.modules())


def test_a_failing_pass_leaves_the_modules_as_they_were(batch) -> None:
    network = network_for()
    losses_of = DetectionLosses(network, frozen_norms=FrozenNorms(network))
    with pytest.raises(RuntimeError):
        losses_of(batch.pixels[:, :2], batch.sizes_hw, batch.targets)
    assert not any("forward" in vars(module) for module in network.modules())


def test_proposals_chosen_at_once_are_torchvisions(batch) -> None:
    network = network_for()
    rpn = network.rpn
    # Enough for all, or rounding would decide which of two equally good ones is left out.
    rpn._post_nms_top_n["training"] = 5000
    taken = []
    keep = rpn.filter_proposals

    def watched(proposals, objectness, *others):
        taken.append(keep(proposals, objectness, *others)[0])
        return taken[0], None

    rpn.filter_proposals = watched
    heads = []
    rpn.head.register_forward_hook(lambda _module, _inputs, outputs: heads.append(outputs))
    losses_and_gradients(DetectionLosses(network), batch)
    objectness, deltas = heads[0]
    features = [values[:, :1] for values in objectness]
    anchors = rpn.anchor_generator(ImageList(batch.pixels, batch.sizes_hw), features)[0]
    found = ProposalSelection.of(rpn).select(
        anchors.split([values[0].numel() for values in objectness]),
        objectness,
        deltas,
        torch.tensor([(w, h) for h, w in batch.sizes_hw], dtype=torch.float32),
        greedy=False,
    )
    assert found.settled
    for boxes, valid, expected in zip(found.boxes_xyxy, found.valid, taken[0], strict=True):
        assert int(valid.sum()) == len(expected) > 3
        # Of equal scores, either order is right.
        distances = torch.cdist(boxes[: len(expected)], expected)
        assert max(float(distances.min(side).values.detach().max()) for side in (0, 1)) < 1e-2


def test_a_shortcuts_bias_moves_to_what_it_is_added_to() -> None:
    shortcut, last = (CudnnConv2d(nn.Conv2d(8, 16, 1)) for _ in range(2))
    values = torch.randn(2, 8, 6, 5).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = shortcut(values) + last(values)
        shortcut.move_bias_to(last)
        torch.testing.assert_close(last(values, shortcut(values)), expected)


def test_only_what_a_norm_follows_is_taken_along() -> None:
    norm, convolution = nn.BatchNorm2d(8), nn.Conv2d(3, 8, 1)
    module = nn.Sequential(convolution, norm, nn.Conv2d(8, 8, 1), nn.ReLU(), nn.BatchNorm2d(8))
    found = list(normed_convolutions(module))
    assert found == [NormedConvolution(module, "0", convolution, "1", norm)]
