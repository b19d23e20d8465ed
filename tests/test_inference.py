"""The parts of the fast path, each against torchvision's own or a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from appliance.model.faster_rcnn import extract_body
from appliance.model.inference import suppression
from appliance.model.inference.boxes import MAX_CACHED_SHAPES, AnchorCache, decode_boxes
from appliance.model.inference.convolutions import can_fuse, fold_batch_norms, fuse_convolutions
from appliance.model.inference.roi_align import roi_align
from appliance.model.inference.selection import CANDIDATES_AT_FIRST, BoxSelection
from appliance.model.inference.suppression import suppress
from appliance.model.spec import COMPACT_BACKBONES

CPU = torch.device("cpu")


def random_boxes(count: int, width: float, height: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    limits = torch.tensor([width, height])
    corners = torch.rand(2, count, 2, generator=generator) * limits
    return torch.cat([corners.amin(0), corners.amax(0)], dim=1)


def test_anchors_are_torchvisions() -> None:
    generator = AnchorGenerator(((16, 32), (64, 128)), ((0.5, 1.0, 2.0),) * 2)
    inputs = torch.zeros(1, 3, 96, 160)
    features = [torch.zeros(1, 1, 12, 20), torch.zeros(1, 1, 3, 5)]
    (expected,) = generator(ImageList(inputs, [(96, 160)]), features)
    cache = AnchorCache(generator, CPU)
    found = cache((96, 160), [(12, 20), (3, 5)])
    torch.testing.assert_close(torch.cat(found), expected, rtol=0, atol=0)
    assert cache((96, 160), [(12, 20), (3, 5)]) is found


def test_anchors_of_many_shapes_do_not_pile_up() -> None:
    cache = AnchorCache(AnchorGenerator(((16,),), ((1.0,),)), CPU)
    first = cache((32, 32), [(4, 4)])
    for step in range(2, MAX_CACHED_SHAPES + 2):
        cache((32, 32 * step), [(4, 4 * step)])
    assert cache((32, 32), [(4, 4)]) is not first


def test_boxes_are_decoded_as_torchvision_does() -> None:
    references = random_boxes(50, 300, 200, seed=0)
    deltas = (
        torch.randn(50, 4, generator=torch.Generator().manual_seed(1)) * 3
    )  # beyond the limit too
    weights = (10.0, 10.0, 5.0, 5.0)
    expected = BoxCoder(weights).decode_single(deltas, references)
    torch.testing.assert_close(decode_boxes(deltas, references, weights), expected)


@pytest.mark.parametrize("strides_px", [(8, 16, 32), (4, 8, 16, 32), (16, 32), (32,)])
def test_roi_align_is_torchvisions(strides_px: tuple[int, ...]) -> None:
    height, width, batch = 192, 256, 3
    generator = torch.Generator().manual_seed(2)
    features = [
        torch.randn(batch, 8, height // s, width // s, generator=generator) for s in strides_px
    ]
    boxes = [random_boxes(40, width, height, seed) for seed in range(batch)]
    boxes[0][0] = torch.tensor([0.0, 0.0, width, height])
    boxes[0][1] = torch.tensor([width - 1e-3, height - 1e-3, width, height])
    boxes[1][0] = torch.tensor([10.0, 10.0, 10.001, 10.001])
    boxes[1][1] = torch.tensor([-40.0, -40.0, 20.0, 20.0])  # samples outside count as nothing
    names = [str(level) for level in range(len(strides_px))]
    pool = MultiScaleRoIAlign(names, 7, 2)
    expected = pool(dict(zip(names, features, strict=True)), boxes, [(height, width)] * batch)
    owners = torch.arange(batch).repeat_interleave(40)
    last = [f.contiguous(memory_format=torch.channels_last) for f in features]
    found = roi_align(last, torch.cat(boxes), owners, strides_px)
    torch.testing.assert_close(found.transpose(1, 2), expected.flatten(2), rtol=1e-4, atol=1e-4)


def test_roi_align_of_no_box_is_nothing() -> None:
    features = [torch.zeros(1, 8, 4, 4).contiguous(memory_format=torch.channels_last)]
    assert roi_align(features, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), [8]).shape == (
        0,
        49,
        8,
    )


def keep_in_a_loop(
    boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, threshold: float
) -> list[bool]:
    """Greedy suppression as the textbook has it."""
    kept = [False] * len(boxes)
    for i in sorted(range(len(boxes)), key=lambda i: -float(scores[i])):
        rivals = [j for j, is_kept in enumerate(kept) if is_kept and groups[j] == groups[i]]
        overlaps = torchvision.ops.box_iou(boxes[i : i + 1], boxes[rivals])
        kept[i] = bool(scores[i] > -math.inf) and not bool((overlaps > threshold).any())
    return kept


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 30),
    threshold=st.sampled_from([0.3, 0.5, 0.7]),
)
def test_suppression_is_the_textbooks_both_ways(seed: int, count: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.stack([random_boxes(count, 40, 30, seed + picture) for picture in range(2)])
    scores = torch.rand(2, count, generator=generator)
    scores[torch.rand(2, count, generator=generator) < 0.2] = -math.inf
    groups = torch.randint(1, 3, (2, count), generator=generator)
    expected = [keep_in_a_loop(boxes[i], scores[i], groups[i], threshold) for i in range(2)]
    for greedy in (True, False):
        kept, settled = suppress(boxes, scores, threshold, groups=groups, greedy=greedy)
        assert kept.tolist() == expected
        assert bool(settled)


@pytest.mark.parametrize("grouped", [True, False])
def test_large_batches_are_suppressed_part_by_part(monkeypatch, grouped: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.stack([random_boxes(30, 40, 30, picture) for picture in range(5)])
    scores = torch.rand(5, 30, generator=generator)
    groups = torch.randint(1, 3, (5, 30), generator=generator) if grouped else None
    whole, _ = suppress(boxes, scores, 0.5, groups=groups, greedy=False)
    for pairs in (1, 2 * 30 * 30, 4 * 30 * 30):
        monkeypatch.setattr(suppression, "PAIRS_AT_ONCE", pairs)
        kept, settled = suppress(boxes, scores, 0.5, groups=groups, greedy=False)
        assert torch.equal(kept, whole)
        assert bool(settled)


def test_a_chain_too_long_to_settle_is_told() -> None:
    # Each box overlaps only the next: what becomes of the last depends on all before.
    left = torch.arange(200) * 4.0
    boxes = torch.stack([left, left * 0, left + 10, left * 0 + 10], dim=1)[None]
    scores = torch.linspace(0.9, 0.1, 200)[None]
    greedy, settled = suppress(boxes, scores, 0.4, greedy=True)
    assert bool(settled)
    assert greedy[0].tolist() == [index % 2 == 0 for index in range(200)]
    _, settled = suppress(boxes, scores, 0.4, greedy=False)
    assert not bool(settled)


def select(
    boxes: torch.Tensor, scores: torch.Tensor, *, greedy: bool = True, **changes: object
) -> tuple[list[list[float]], list[int], bool]:
    options = {"nms_iou_threshold": 0.5, "max_detections": 100, **changes}
    thresholds = options.pop("score_thresholds", (0.0,) * scores.shape[-1])
    found = BoxSelection(thresholds, **options).select(boxes, scores, greedy=greedy)  # type: ignore[arg-type]
    valid = found.scores[0] > -math.inf
    rows = torch.cat([found.boxes_xyxy[0][valid], found.scores[0][valid, None]], dim=1)
    return rows.tolist(), found.class_ids[0][valid].tolist(), bool(found.settled)


@pytest.mark.parametrize("greedy", [True, False])
def test_selection_by_threshold_class_and_overlap(greedy: bool) -> None:
    here, there = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]
    boxes = torch.tensor([[[here, here], [here, there]]])  # [B=1, P=2, C=2, 4]
    scores = torch.tensor([[[0.9, 0.3], [0.8, 0.6]]])
    assert select(boxes, scores, greedy=greedy)[1] == [1, 2, 2]
    assert select(boxes, scores, greedy=greedy, class_agnostic=True)[1] == [1, 2]
    assert select(boxes, scores, greedy=greedy, score_thresholds=(0.95, 0.3))[1] == [2]
    assert select(boxes, scores, greedy=greedy, score_thresholds=(math.inf, 0.0))[1] == [2, 2]
    assert select(boxes, scores, greedy=greedy, max_detections=1)[1] == [1]
    assert select(boxes, scores, greedy=greedy, nms_iou_threshold=1.0)[1] == [1, 1, 2, 2]


def test_more_candidates_enter_when_the_best_all_fall() -> None:
    # The best thousand and more are one box over and over; what else there is must still be found.
    many = CANDIDATES_AT_FIRST + 500
    boxes = torch.tensor([0.0, 0.0, 10.0, 10.0]).repeat(1, many + 3, 1, 1)
    boxes[0, many:, 0] += torch.tensor([[20.0], [40.0], [60.0]])
    scores = torch.linspace(0.9, 0.1, many + 3).view(1, -1, 1)
    rows, _, settled = select(boxes, scores)
    assert settled
    assert [row[0] for row in rows] == [0.0, 20.0, 40.0, 60.0]
    # A device takes the first thousand only, and says that this was not enough.
    rows, _, settled = select(boxes, scores, greedy=False)
    assert [row[0] for row in rows] == [0.0]
    assert not settled
    assert select(boxes, scores, greedy=False, max_detections=1)[2]


def body_of(backbone: str) -> nn.Sequential:
    torch.manual_seed(0)
    body, _ = extract_body(backbone)
    body = nn.Sequential(*[m for name, m in body.named_children() if name not in ("avgpool", "fc")])
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return body.eval().requires_grad_(False)


@pytest.mark.parametrize("backbone", COMPACT_BACKBONES)
def test_strides_and_channels_are_those_of_the_network_when_it_runs(backbone: str) -> None:
    body, told = extract_body(backbone)
    values, seen = torch.zeros(1, 3, 64, 64), {}
    with torch.inference_mode():
        for name, child in body.eval().named_children():
            if name == "avgpool":
                break
            values = child(values)
            seen[64 // values.shape[-1]] = (name, values.shape[1])
    assert told == seen


@pytest.mark.parametrize("backbone", COMPACT_BACKBONES)
def test_folding_and_fusing_change_nothing(backbone: str) -> None:
    body = body_of(backbone)
    assert can_fuse(CPU)
    values = torch.randn(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = body(values)
        fold_batch_norms(body)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in body.modules())
        folded = body(values)
        fuse_convolutions(body, CPU)
        assert not any(isinstance(module, nn.Conv2d) for module in body.modules())
        fused = body(values)
        other_shape = body(torch.ones(2, 3, 32, 96).contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(folded, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(fused, expected, rtol=1e-3, atol=1e-4)
    assert other_shape.isfinite().all()
