"""Anchors and input size from the data: hand-worked overlaps, clusters, and what stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from appliance.annotations.annotated_image import AnnotatedImage
from appliance.errors import ConfigError
from appliance.labels import LabelMap
from appliance.model.faster_rcnn import build_network
from appliance.model.spec import ModelSpec
from appliance.training.anchors import (
    Objects,
    cluster_shapes,
    mean_best_iou,
    propose_anchors,
    propose_sides,
)

LABELS = LabelMap(("thing",))
# Pictures enter it as they are.
SPEC = ModelSpec.of(LABELS, shorter_side_px=400, longer_side_px=400)


def picture_with(boxes_xyxy, size_hw=(400, 400), crowd=None) -> AnnotatedImage:
    boxes = np.array(boxes_xyxy, np.float32)
    none = np.zeros(len(boxes), bool)
    return AnnotatedImage(
        *("x.jpg", "x.jpg", size_hw, boxes, ("thing",) * len(boxes), none),
        crowd=none if crowd is None else np.array(crowd),
    )


def pictures_of(size_wh, count=40, size_hw=(400, 400)) -> list[AnnotatedImage]:
    """Pictures with one object each of one size, at places that a seed decides."""
    rng = np.random.default_rng(5)
    width, height = size_wh
    corners = rng.random((count, 2)) * (size_hw[1] - width, size_hw[0] - height)
    return [picture_with([[x, y, x + width, y + height]], size_hw) for x, y in corners]


def test_objects_are_seen_as_large_as_the_network_sees_them_and_crowds_not_at_all() -> None:
    image = picture_with([[0, 0, 80, 40], [0, 0, 9, 9]], size_hw=(800, 400), crowd=[False, True])
    objects = Objects.of([image], SPEC)
    np.testing.assert_allclose(objects.sizes_wh, [[40, 20]])
    np.testing.assert_allclose(objects.centres_xy, [[20, 10]])
    assert len(Objects.of([], SPEC)) == 0


@pytest.mark.parametrize(
    ("box", "iou"),
    [
        ([48, 48, 80, 80], 1.0),  # a square of 32 with its centre on the grid of stride 8
        ([52, 48, 84, 80], 28 * 32 / (2 * 32**2 - 28 * 32)),  # half a stride beside it
        # 8 x 8 in the middle of the smallest anchor of ratio 1: no other has a smaller union.
        ([60, 60, 68, 68], 64 / 1024),
    ],
)
def test_the_overlap_with_the_best_anchor_is_that_of_a_sheet_of_paper(box, iou) -> None:
    objects = Objects.of([picture_with([box])], SPEC)
    assert mean_best_iou(objects, SPEC) == pytest.approx(iou)


def test_the_overlap_is_that_with_the_anchors_of_the_network_itself() -> None:
    from torchvision.models.detection.image_list import ImageList
    from torchvision.ops import box_iou

    images = [image for size in ((30, 70), (90, 50), (150, 160)) for image in pictures_of(size, 5)]
    network = build_network(SPEC)
    pixels = torch.zeros(1, 3, 416, 416)
    with torch.no_grad():
        levels = list(network.eval().backbone(pixels).values())
    anchors = network.rpn.anchor_generator(ImageList(pixels, [(416, 416)]), levels)[0]
    boxes = torch.from_numpy(np.concatenate([image.boxes_xyxy for image in images]))
    # torchvision rounds the corners of its anchors to whole pixels.
    expected = float(box_iou(boxes, anchors).max(dim=1).values.mean())
    assert mean_best_iou(Objects.of(images, SPEC), SPEC) == pytest.approx(expected, abs=0.01)


def test_clusters_are_the_groups_that_are_there() -> None:
    groups = np.array([(10, 20), (100, 100), (300, 30)], float)
    rng = np.random.default_rng(3)
    shapes = np.concatenate([group * rng.uniform(0.95, 1.05, (50, 2)) for group in groups])
    found = cluster_shapes(rng.permutation(shapes), 3)
    np.testing.assert_allclose(found, groups[[0, 2, 1]], rtol=0.03)
    np.testing.assert_array_equal(cluster_shapes(shapes[:1], 3), shapes[[0, 0, 0]])


def test_odd_objects_get_anchors_of_their_own_and_sane_ones_do_not() -> None:
    flat = Objects.of(pictures_of((200, 14)), SPEC)
    proposal = propose_anchors(flat, SPEC)
    assert proposal is not None
    assert proposal.are_clearly_better
    assert proposal.iou_before < 0.35 < 0.5 < proposal.iou_after
    assert proposal.ratios[1] == pytest.approx(14 / 200, abs=0.01)
    sane = propose_anchors(Objects.of(pictures_of((50, 60)), SPEC), SPEC)
    assert sane is not None
    assert not sane.are_clearly_better
    few = propose_anchors(Objects.of(pictures_of((200, 14), count=5), SPEC), SPEC)
    assert few is not None
    assert few.iou_after > few.iou_before + 0.2
    assert not few.are_clearly_better
    assert propose_anchors(Objects.of([], SPEC), SPEC) is None
    resnet = ModelSpec.of(LABELS, "fasterrcnn_resnet50_fpn")
    assert propose_anchors(flat, resnet) is None


def test_sample_scenes_keep_the_standard_anchors_and_size(tiny_scenes) -> None:
    for side_px in (288, 384):
        spec = ModelSpec.of(tiny_scenes.label_map, shorter_side_px=side_px)
        proposal = propose_anchors(Objects.of(tiny_scenes.images, spec), spec)
        assert proposal is not None
        assert not proposal.are_clearly_better
        assert propose_sides(tiny_scenes.images, spec) is None


@pytest.mark.parametrize(
    ("object_px", "picture_px", "sides"),
    [
        (40, 800, None),  # 19 pixels at 384: large enough
        (24, 800, (512, 853)),  # 11.5 pixels: 16 at 533, in steps of 32
        (4, 2000, (768, 1280)),  # at most twice as large
        (8, 500, (480, 800)),  # nor larger than the picture
        (8, 200, None),  # which is enlarged as it is
    ],
)
def test_small_objects_get_a_larger_input_within_bounds(object_px, picture_px, sides) -> None:
    spec = ModelSpec.of(LABELS)
    images = pictures_of((object_px, object_px), size_hw=(picture_px, picture_px))
    assert propose_sides(images, spec) == sides
    assert propose_sides(images[:3], spec) is None


def test_anchors_travel_in_the_spec_and_older_specs_have_the_standard_ones() -> None:
    spec = SPEC.with_settings(anchor_sizes_px=(20, 40, 90), anchor_ratios=(0.1, 1.0, 3.0))
    generator = build_network(ModelSpec.from_json(spec.to_json())).rpn.anchor_generator
    assert generator.sizes == ((20,), (40,), (90,))
    assert generator.aspect_ratios == ((0.1, 1.0, 3.0),) * 3
    older = {key: value for key, value in SPEC.to_json().items() if key != "anchor_ratios"}
    assert ModelSpec.from_json(older).anchor_ratios == (0.5, 1.0, 2.0)
    with pytest.raises(ConfigError, match="anchor_ratios is out of range"):
        SPEC.with_settings(anchor_ratios=(0.0, 1.0, 2.0))
