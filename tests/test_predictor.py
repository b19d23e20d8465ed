"""The predictor against plain torchvision, and its promises about company, order and thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from factories import network_with_something_to_say, small_spec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_fixtures import EVERY_ARCHITECTURE
from torch import nn
from torchvision.ops import box_iou

from appliance.detections import Detections
from appliance.errors import ConfigError, LabelError
from appliance.images.decoding import DecodedImage
from appliance.labels import LabelMap
from appliance.model.faster_rcnn import build_network
from appliance.model.inference.resizing import MAX_PADDING_SHARE, padded_hw, resize
from appliance.model.inference.stage_times import STAGES, StageTimes
from appliance.model.predictor import Predictor
from appliance.model.spec import ARCHITECTURES, ModelSpec
from appliance.records import Record, records_agree


def picture(height: int, width: int, seed: int = 0) -> DecodedImage:
    tile = np.random.default_rng(seed).integers(0, 256, (200, 300, 3), np.uint8)
    pixels_hwc = np.tile(tile, (-(-height // 200), -(-width // 300), 1))[:height, :width].copy()
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


@pytest.mark.parametrize("architecture", EVERY_ARCHITECTURE)
def test_exact_is_torchvision_and_fast_is_near_it(architecture: str) -> None:
    spec = small_spec(architecture)
    network = network_with_something_to_say(spec)
    exactly = Predictor(network, spec, device="cpu", exact=True)
    fast = Predictor(network, spec, device="cpu")
    for size_hw in ((128, 192), (300, 211), (50, 90)):
        image = picture(*size_hw)
        with torch.no_grad():
            expected = network([image.pixels.float() / 255])[0]
        exact = exactly.predict([image])[0]
        keep = (expected["boxes"][:, 2:] > expected["boxes"][:, :2]).all(1)
        np.testing.assert_array_equal(exact.boxes_xyxy, expected["boxes"][keep])
        np.testing.assert_array_equal(exact.scores, expected["scores"][keep])
        np.testing.assert_array_equal(exact.class_ids, expected["labels"][keep])
        found = fast.predict([image])[0]
        assert len(found) == len(exact) > 10
        assert_near(found, exact)


def assert_near(found: Detections, expected: Detections) -> None:
    """Equal within half a pixel and 1e-3 of score; boxes of nearly the same score in any order."""
    first, second = (
        Record.of_detections(
            detections,
            LabelMap(("a", "b", "c")),
            image_uri="a.jpg",
            content_sha256="0",
            model_name="model",
            model_version="0",
        )
        for detections in (found, expected)
    )
    assert records_agree(first, second, box_tolerance_px=0.5, score_tolerance=1e-3)


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


@pytest.fixture(scope="module")
def together_and_alone(tiny_model_path) -> tuple[Predictor, Predictor]:
    """Two predictors of one model, of which the first gets its batch size from the test."""
    path = str(tiny_model_path)
    return Predictor.load(path, device="cpu"), Predictor.load(path, device="cpu", batch_size=1)


@settings(max_examples=6, deadline=None)
@given(
    sizes_hw=st.lists(
        st.tuples(st.integers(1, 3000), st.integers(1, 4000)), min_size=1, max_size=3
    ),
    # Mostly sizes that share a batch, or none would ever be full.
    which=st.lists(st.integers(0, 7), min_size=1, max_size=16),
    batch_size=st.integers(1, 16),
)
@example(sizes_hw=[(1, 1), (3000, 4000)], which=[0, 1, *[2, 3, 4, 5, 6] * 3][:16], batch_size=16)
def test_company_order_and_batch_size_change_no_more_than_rounding(
    together_and_alone, sizes_hw: list[tuple[int, int]], which: list[int], batch_size: int
) -> None:
    together, alone = together_and_alone
    together.batch_size = batch_size
    sizes_hw = [*sizes_hw, (96, 97), (96, 98), (192, 195), (90, 91), (61, 62)]
    pictures = [picture(*sizes_hw[kind % len(sizes_hw)], seed) for seed, kind in enumerate(which)]
    for image, found in zip(pictures, together.predict(pictures), strict=True):
        assert found.size_hw == image.size_hw
        assert_near(found, alone.predict([image])[0])


@given(architecture=st.sampled_from(ARCHITECTURES), ratio=st.floats(1, 2), upright=st.booleans())
def test_padding_stays_under_its_share(architecture: str, ratio: float, upright: bool) -> None:
    size_hw = (round(1000 * ratio), 1000) if upright else (1000, round(1000 * ratio))
    resized_hw = ModelSpec.of(LabelMap(("a",)), architecture).resized_hw(size_hw)
    assert math.prod(resized_hw) >= (1 - MAX_PADDING_SHARE) * math.prod(padded_hw(resized_hw))


@pytest.mark.parametrize("size_hw", [(1, 1), (31, 700), (120, 90)])
def test_pictures_may_be_plain_pixels(predictor: Predictor, size_hw: tuple[int, int]) -> None:
    image = picture(*size_hw)
    (expected,) = predictor.predict([image])
    pixels_hwc = np.ascontiguousarray(image.pixels.permute(1, 2, 0).numpy())
    for found in predictor.predict([image.pixels, pixels_hwc, pixels_hwc[:, ::-1][:, ::-1]]):
        assert found.size_hw == size_hw
        np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
        np.testing.assert_array_equal(found.scores, expected.scores)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("a.jpg", "got str"),
        (torch.rand(3, 8, 8), "got torch.float32 of shape (3, 8, 8)"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), "got torch.uint8 of shape (1, 8, 8)"),
        (torch.zeros(3, 0, 8, dtype=torch.uint8), "got torch.uint8 of shape (3, 0, 8)"),
        (np.zeros((8, 8), np.uint8), "got uint8 of shape (8, 8)"),
        (np.zeros((8, 8, 4), np.uint8), "got torch.uint8 of shape (4, 8, 8)"),
        (DecodedImage(torch.rand(3, 8, 8), (8, 8)), "got torch.float32 of shape (3, 8, 8)"),
    ],
)
def test_what_is_no_picture_is_refused(predictor: Predictor, image: object, told: str) -> None:
    with pytest.raises(ConfigError, match="This is no decoded picture") as caught:
        predictor.predict([picture(8, 8), image])
    assert f"({told}, expected RGB as uint8" in str(caught.value)


def test_a_picture_that_is_no_list_is_refused(predictor: Predictor) -> None:
    for images in (picture(8, 8), None):
        with pytest.raises(ConfigError, match="These are no pictures .*expected a list of them"):
            predictor.predict(images)


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


def test_a_threshold_for_one_label_leaves_the_others(tiny_model_path) -> None:
    image = picture(120, 90)
    everything = Predictor.load(str(tiny_model_path), score_threshold=0.0).predict([image])[0]
    of_circles = everything.scores[everything.class_ids == 1]
    threshold = float(np.median(of_circles))
    strict = Predictor.load(
        str(tiny_model_path), score_threshold={"circle": threshold, "square": 0.0}
    )
    found = strict.predict([image])[0]
    np.testing.assert_array_equal(
        found.scores[found.class_ids == 1], of_circles[of_circles > threshold]
    )
    assert (found.class_ids == 2).sum() == (everything.class_ids == 2).sum() > 0


def test_labels_choose_before_the_maximum_is_counted(tiny_model_path) -> None:
    image = picture(120, 90)
    everything = Predictor.load(str(tiny_model_path), score_threshold=0.0).predict([image])[0]
    squares = everything.filter(class_ids=[2])
    chosen = Predictor.load(
        str(tiny_model_path), score_threshold=0.0, labels=["square"], max_detections=5
    ).predict([image])[0]
    np.testing.assert_array_equal(chosen.boxes_xyxy, squares.boxes_xyxy[:5])
    assert len(chosen) == 5


def test_suppression_over_all_classes_leaves_no_overlap(tiny_model_path) -> None:
    image = picture(120, 90)
    options = {"score_threshold": 0.0, "nms_iou_threshold": 0.3}
    by_class = Predictor.load(str(tiny_model_path), **options).predict([image])[0]
    over_all = Predictor.load(str(tiny_model_path), class_agnostic_nms=True, **options)
    found = over_all.predict([image])[0]
    assert 0 < len(found) < len(by_class)
    overlaps = box_iou(torch.tensor(found.boxes_xyxy), torch.tensor(found.boxes_xyxy))
    assert float(overlaps.fill_diagonal_(0).max()) <= 0.3 + 1e-4


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"score_threshold": {"triangle": 0.5}}, LabelError),
        ({"score_threshold": {"circle": 1.5}}, ConfigError),
        ({"score_threshold": -0.1}, ConfigError),
        ({"labels": ["triangle"]}, LabelError),
        ({"nms_iou_threshold": 2.0}, ConfigError),
        ({"exact": True, "class_agnostic_nms": True}, ConfigError),
        ({"score_threshold": float("nan")}, ConfigError),
        ({"score_threshold": "0.5"}, ConfigError),
        ({"score_threshold": {"circle": float("nan")}}, ConfigError),
        ({"score_threshold": {"circle": None}}, ConfigError),
        ({"max_detections": 0}, ConfigError),
        ({"max_detections": 2.5}, ConfigError),
        ({"max_detections": True}, ConfigError),
        ({"labels": []}, LabelError),
        ({"labels": "circle"}, LabelError),
        ({"batch_size": 0}, ConfigError),
        ({"batch_size": -1}, ConfigError),
        ({"num_threads": 0}, ConfigError),
    ],
)
def test_options_out_of_range_are_refused(
    tiny_model_path, options: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Predictor.load(str(tiny_model_path), **options)


class SmallDevice(nn.Module):
    """Stands for a device whose memory holds so many pictures at once."""

    def __init__(self, network: nn.Module, holds: int) -> None:
        super().__init__()
        self.network, self.holds, self.batches = network, holds, []

    def forward(self, inputs: torch.Tensor, *rest: torch.Tensor, **options: object) -> object:
        if len(inputs) > self.holds:
            raise torch.OutOfMemoryError("no memory left")
        self.batches.append(len(inputs))
        return self.network(inputs, *rest, **options)


def test_batches_are_halved_once_when_memory_runs_out(tiny_model_path, caplog) -> None:
    pictures = [picture(120, 90, seed) for seed in range(5)]
    predictor = Predictor.load(str(tiny_model_path), device="cpu", batch_size=4)
    expected = predictor.predict(pictures)
    small = SmallDevice(predictor._network, holds=2)
    predictor._network = small
    for found, other in zip(predictor.predict(pictures), expected, strict=True):
        assert_near(found, other)
    assert small.batches == [2, 2, 1]
    assert "does not hold 4 pictures at once" in caplog.text
    small.holds = 1
    with pytest.raises(torch.OutOfMemoryError):
        predictor.predict(pictures)


def test_the_stages_are_timed(tiny_model_path) -> None:
    predictor = Predictor.load(str(tiny_model_path), device="cpu")
    predictor.stage_times = StageTimes()
    predictor.predict([picture(120, 90)])
    assert set(predictor.stage_times.seconds) == set(STAGES)
    assert all(seconds > 0 for seconds in predictor.stage_times.seconds.values())


def test_a_scaled_jpeg_is_answered_in_pixels_of_the_original(predictor: Predictor) -> None:
    full = picture(480, 360, 5)
    half = resize(full.pixels, (240, 180)).round().to(torch.uint8)
    found = predictor.predict([DecodedImage(half, (480, 360))])[0]
    assert found.size_hw == (480, 360)
    assert found.boxes_xyxy[:, 3].max() > 240


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "meta", "", None])
def test_an_unknown_device_is_refused(tiny_model_path, device: str) -> None:
    with pytest.raises(ConfigError, match="device"):
        Predictor.load(str(tiny_model_path), device=device)
