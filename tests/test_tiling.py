"""Tiles: where they lie, and that scoring them, too, finds what the picture as a whole hides."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from factories import encoded
from factories import picture as drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from appliance.annotations.samples.scenes import draw_scene
from appliance.detections import Detections
from appliance.errors import ConfigError
from appliance.evaluation.metrics.average_precision import pascal_average_precision
from appliance.evaluation.metrics.matching import GroundTruth
from appliance.images.decoding import DecodedImage
from appliance.labels import LabelMap
from appliance.model import tiling as tiling_module
from appliance.model.inference.resizing import resize
from appliance.model.predictor import Predictor
from appliance.model.spec import COMPACT, ModelSpec
from appliance.model.tiling import TileDetections, Tiling, merge, predict_tiled
from appliance.records import Record
from appliance.scoring import ImageScorer
from benchmarks.model_speed.cases import case_of, spec_of
from benchmarks.model_speed.pictures import LABEL_MAP
from benchmarks.model_speed.weights import weights_path

COUNTS = st.tuples(st.integers(1, 8), st.integers(1, 8)).filter(lambda counts: counts != (1, 1))
TILINGS = st.builds(
    lambda counts, overlap: Tiling(*counts, overlap), COUNTS, st.floats(0, 0.9, allow_nan=False)
)
CACHE = Path(__file__).resolve().parents[1] / ".cache" / "model_speed"
WEIGHTS = weights_path(spec_of(COMPACT), case_of(COMPACT, "cpu"), torch.device("cpu"), CACHE)


# --- What the words of a tiling mean -----------------------------------------------------------------


@given(tiling=TILINGS)
def test_a_tiling_reads_back_what_it_writes(tiling: Tiling) -> None:
    assert Tiling.parse(str(tiling)) == tiling


@pytest.mark.parametrize("text", ["2x2:0.2", "1x4:0", "8x8:0.99", "3x2:1e-05"])
def test_a_tiling_writes_back_what_it_reads(text: str) -> None:
    assert str(Tiling.parse(text)) == text


def test_the_overlap_may_be_left_out() -> None:
    assert Tiling.parse("2x3") == Tiling(2, 3, 0.2)
    assert Tiling.parse("2x3:.5") == Tiling(2, 3, 0.5)


@pytest.mark.parametrize(
    "text",
    ["", "2", "2x", "x2", "2x2:", "2x2:a", "2x2:1.2.3", "-2x2", "2 x 2", "2x2 ", "٢x٢", "2X2"],
)
def test_what_is_no_tiling_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"no tiling .*expected ROWSxCOLUMNS\[:OVERLAP\]"):
        Tiling.parse(text)


@pytest.mark.parametrize(
    "text", ["1x1", "0x2", "9x8", "65x1", "9999x9999", "2x2:1", "2x2:1.5", "2x2:-0.1"]
)
def test_a_tiling_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="The tiling is out of range .*2 to 64 tiles"):
        Tiling.parse(text)


def test_an_overlap_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="nan"):
        Tiling(2, 2, float("nan"))


# --- Where tiles lie ---------------------------------------------------------------------------------


@given(tiling=TILINGS, height=st.integers(1, 400), width=st.integers(1, 400))
def test_tiles_cover_every_pixel_and_are_of_one_size(
    tiling: Tiling, height: int, width: int
) -> None:
    windows = tiling.windows((height, width))
    seen = np.zeros((height, width), np.bool_)
    for x1, y1, x2, y2 in windows:
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        seen[y1:y2, x1:x2] = True
    assert seen.all()
    assert len({(x2 - x1, y2 - y1) for x1, y1, x2, y2 in windows}) == 1
    assert len(set(windows)) == len(windows) <= tiling.rows * tiling.columns
    if min(height, width) > 200:  # enough pixels for tiles to differ
        assert len(windows) == tiling.rows * tiling.columns


@given(tiling=TILINGS, length=st.integers(100, 20000))
def test_neighbours_share_what_was_asked_for_and_no_more_than_rounding(
    tiling: Tiling, length: int
) -> None:
    count = tiling.columns
    windows = tiling.windows((100, length))[:count]
    overlap = Fraction(tiling.overlap)
    side = length / (count - (count - 1) * overlap)
    for x1, _, x2, _ in windows:
        assert abs(x2 - x1 - side) <= 1 + 1e-6
    for (_, _, end, _), (start, _, _, _) in pairwise(windows):
        assert -1 <= end - start - overlap * side <= 3


def test_two_by_two_as_worked_out_by_hand() -> None:
    # 180 = 2 sides - 0.2 of one: a side is 100; 90 = 2 sides - 0.2 of one: a side is 50.
    assert Tiling(2, 2, 0.2).windows((90, 180)) == (
        (0, 0, 100, 50),
        (80, 0, 180, 50),
        (0, 40, 100, 90),
        (80, 40, 180, 90),
    )
    assert Tiling(1, 3, 0).windows((7, 9)) == ((0, 0, 3, 7), (3, 0, 6, 7), (6, 0, 9, 7))
    assert Tiling(3, 3, 0.2).windows((1, 1)) == ((0, 0, 1, 1),)


@given(tiling=TILINGS, tile_px=st.integers(32, 1333), longer=st.integers(0, 500))
def test_no_tile_of_a_decoded_picture_is_smaller_than_the_input(
    tiling: Tiling, tile_px: int, longer: int
) -> None:
    shorter_side_px = tiling.shorter_side_px(tile_px)
    for size_hw in (
        (shorter_side_px, shorter_side_px + longer),
        (shorter_side_px + longer, shorter_side_px),
    ):
        x1, y1, x2, y2 = tiling.windows(size_hw)[0]
        assert min(x2 - x1, y2 - y1) >= tile_px
    x1, y1, x2, y2 = tiling.windows((shorter_side_px, shorter_side_px))[0]
    assert min(x2 - x1, y2 - y1) <= tile_px + 1  # and no larger than need be


@settings(max_examples=300)
@given(
    tiling=TILINGS,
    decoded_hw=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    size_hw=st.tuples(st.integers(1, 20000), st.integers(1, 20000)),
)
def test_the_last_tile_ends_where_the_picture_does_to_the_last_bit(
    tiling: Tiling, decoded_hw: tuple[int, int], size_hw: tuple[int, int]
) -> None:
    pixels = torch.zeros((), dtype=torch.uint8).expand(3, *decoded_hw)
    window = tiling.windows(decoded_hw)[-1]
    tile_hw = window[3] - window[1], window[2] - window[0]
    whole_tile = Detections(
        np.array([[0, 0, tile_hw[1], tile_hw[0]]], np.float32), np.ones(1), np.ones(1), tile_hw
    )
    placed = tiling_module._placed(whole_tile, window, DecodedImage(pixels, size_hw))
    assert placed.window_xyxy[2:] == size_hw[::-1]
    np.testing.assert_array_equal(placed.detections.boxes_xyxy[0, 2:], size_hw[::-1])
    np.testing.assert_allclose(placed.detections.boxes_xyxy[0], placed.window_xyxy, rtol=1e-6)


# --- Whole pictures and their tiles, scored ----------------------------------------------------------

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255))


class ColourFinder:
    """A detector whose answers are known: it knows objects by their colour, and sees none below 9 input pixels.

    What is under test calls it as it calls a `Predictor`.
    """

    device = torch.device("cpu")
    class_agnostic_nms = False
    model_name, model_version = "colours", "0"
    spec = ModelSpec.of(LabelMap(tuple("rgbymc")), shorter_side_px=128, longer_side_px=256)
    labels = spec.label_map
    min_shorter_side_px = 128

    def predict(self, images: Sequence[DecodedImage]) -> list[Detections]:
        return [self._find(image) for image in images]

    def _find(self, image: DecodedImage) -> Detections:
        input_hw = self.spec.resized_hw(tuple(image.pixels.shape[1:]))
        bright = resize(image.pixels, input_hw, antialias=True).numpy() > 127
        scale = np.array([image.size_hw[1] / input_hw[1], image.size_hw[0] / input_hw[0]] * 2)
        boxes, ids = [], []
        for class_id, colour in enumerate(COLOURS, 1):
            is_here = (bright == (np.array(colour) > 127)[:, None, None]).all(axis=0)
            ys, xs = np.nonzero(is_here)
            if len(ys) and min(np.ptp(xs), np.ptp(ys)) >= 8:
                boxes.append(np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) * scale)
                ids.append(class_id)
        boxes = np.array(boxes, np.float32).reshape(-1, 4)
        return Detections(boxes, np.full(len(ids), 0.9), np.array(ids, np.int64), image.size_hw)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), enlarged=st.sampled_from([1, 3]), small=st.integers(1, 6))
def test_tiles_find_small_objects_and_each_object_is_found_once(
    seed: int, enlarged: int, small: int
) -> None:
    # 600 x 400 pixels, or 1800 x 1200, which are decoded at a fifth. In cells of 200 x 200 one object each: small
    # ones, that only tiles see and that fit into the 44 pixels of overlap, and large ones, that tiles cut.
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (600 * enlarged, 400 * enlarged))
    truth = []
    for index, colour in enumerate(COLOURS):
        sides = rng.integers(19, 24, 2) if index < small else rng.integers(60, 196, 2)
        cell = np.array([index % 3, index // 3]) * 200
        corner = cell + rng.integers(0, 200 - sides)
        box = np.concatenate([corner, corner + sides]) * enlarged
        image.paste(colour, tuple(box.tolist()))
        truth.append(box)
    data = encoded(image, "PNG")
    plain = ImageScorer(ColourFinder())
    tiled = ImageScorer(ColourFinder(), tiling=Tiling(2, 2, 0.2))
    assert {label.label for label in plain.score([("a", data)])[0].detections} == set(
        "rgbymc"[small:]
    )
    upload = tiled.decode(data, "a")
    assert upload.image.size_hw == (400 * enlarged, 600 * enlarged)
    assert (enlarged == 1) == (tuple(upload.image.pixels.shape[1:]) == upload.image.size_hw)
    answer = predict_tiled(tiled.predictor, tiled.tiling, [upload.image])[0]
    assert sorted(answer.class_ids) == [1, 2, 3, 4, 5, 6]
    boxes = answer.boxes_xyxy[np.argsort(answer.class_ids)]
    # What the finder does to edges: a pixel of its input, here 3 of the picture, and a little.
    np.testing.assert_allclose(boxes, np.array(truth), atol=4 * enlarged)


def test_the_answer_is_that_of_crops_scored_on_their_own(tiny_model_path) -> None:
    options = {"device": "cpu", "score_threshold": 0.0, "max_detections": 20}
    predictor = Predictor.load(str(tiny_model_path), **options)
    tiling = Tiling(2, 3, 0.25)
    scorer = ImageScorer.load(str(tiny_model_path), tiling=tiling, **options)
    images = [drawn((170, 140), seed=3), drawn((150, 180), seed=4)]
    records = scorer.score([(str(i), encoded(image, "PNG")) for i, image in enumerate(images)])

    def score(image: Image.Image) -> Detections:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return predictor.predict([DecodedImage(pixels, (image.height, image.width))])[0]

    for image, record in zip(images, records, strict=True):
        size_hw = (image.height, image.width)
        tiles = []
        for window in tiling.windows(size_hw):
            crop = score(image.crop(window))
            moved = crop.boxes_xyxy + np.array(window[:2] * 2, np.float32)
            moved = Detections(moved, crop.scores, crop.class_ids, size_hw)
            tiles.append(TileDetections(moved, tuple(map(float, window))))
        assert sum(len(tile.detections) for tile in tiles) > 20
        expected = merge(score(image), tiles, nms_iou_threshold=0.5, max_detections=20)
        assert len(record.detections) == len(expected) == 20
        answer = detections_of(record)
        np.testing.assert_allclose(answer.boxes_xyxy, expected.boxes_xyxy, atol=0.01)
        np.testing.assert_allclose(answer.scores, expected.scores, atol=1e-5)
        np.testing.assert_array_equal(answer.class_ids, expected.class_ids)


def test_the_whole_picture_is_seen_as_it_is_without_tiles(tiny_model_path) -> None:
    # Decoded at a third for tiles and at an eighth without: the network shall not skip pixels of the larger.
    scorer = ImageScorer.load(str(tiny_model_path), device="cpu", tiling=Tiling(3, 3, 0.2))
    data = encoded(drawn((1200, 800)), "PNG")
    seen: list[DecodedImage] = []
    spy = SimpleNamespace(
        device=torch.device("cpu"),
        min_shorter_side_px=scorer.predictor.min_shorter_side_px,
        predict=lambda views: seen.extend(views) or [Detections.empty(v.size_hw) for v in views],
        spec=scorer.predictor.spec,
        class_agnostic_nms=False,
    )
    image = scorer.decode(data, "a").image
    assert len(predict_tiled(spy, scorer.tiling, [image])[0]) == 0
    assert seen[0].size_hw == (800, 1200)
    assert 96 <= min(seen[0].pixels.shape[1:]) < 2 * 96
    assert image.pixels.shape == (3, 267, 400)
    assert len(seen) == 10
    assert all(96 <= min(view.pixels.shape[1:]) < 2 * 96 for view in seen[1:])
    # Tiles are windows of the decoded picture, not copies of it.
    memory = image.pixels.untyped_storage().data_ptr()
    assert all(view.pixels.untyped_storage().data_ptr() == memory for view in seen[1:])


def test_boxes_too_thin_for_single_precision_are_dropped_far_from_the_corner() -> None:
    thin = np.array([[100, 1, np.nextafter(np.float32(100), np.float32(200)), 9]], np.float32)

    def predict(views: Sequence[DecodedImage]) -> list[Detections]:
        return [Detections(thin, np.ones(1), np.ones(1), view.size_hw) for view in views]

    predictor = SimpleNamespace(
        device=torch.device("cpu"),
        min_shorter_side_px=32,
        predict=predict,
        spec=ColourFinder.spec,
        class_agnostic_nms=False,
    )
    image = DecodedImage(torch.zeros((3, 16, 4000), dtype=torch.uint8), (16, 4000))
    answer = predict_tiled(predictor, Tiling(1, 2, 0), [image])[0]
    np.testing.assert_array_equal(answer.boxes_xyxy, thin)


def test_no_picture_gives_no_record(tiny_model_path) -> None:
    scorer = ImageScorer.load(str(tiny_model_path), device="cpu", tiling=Tiling(2, 2))
    assert scorer.predict([]) == []


@pytest.mark.parametrize("size_wh", [(1, 1), (2, 900), (900, 3)])
def test_pictures_of_hardly_any_pixels_are_scored(tiny_model_path, size_wh) -> None:
    scorer = ImageScorer.load(str(tiny_model_path), device="cpu", tiling=Tiling(4, 4, 0.5))
    record = scorer.score([("a", encoded(Image.new("RGB", size_wh), "PNG"))])[0]
    assert record.error is None  # Detections refuses boxes outside


def shelves(  # pragma: no cover - of a long proof
    seed: int, side: int, size_wh: tuple[int, int]
) -> tuple[bytes, GroundTruth]:
    """`side` x `side` sample scenes as one JPEG, and what is on it."""
    width, height = size_wh[0] // side, size_wh[1] // side
    picture, objects = Image.new("RGB", (width * side, height * side)), []
    for index in range(side * side):
        left, top = index % side * width, index // side * height
        scene, here = draw_scene(seed * 100 + index, (width, height))
        picture.paste(scene, (left, top))
        objects += [(label, np.add(box, (left, top) * 2)) for label, box in here]
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    ids = np.array([LABEL_MAP.id_of(label) for label, _ in objects])
    boxes = np.array([box for _, box in objects], np.float32)
    return stream.getvalue(), GroundTruth(boxes, ids, np.zeros(len(ids), np.bool_), str(seed))


def detections_of(record: Record) -> Detections:
    return Detections(
        np.array([(d.x1, d.y1, d.x2, d.y2) for d in record.detections], np.float32),
        np.array([d.score for d in record.detections], np.float32),
        np.array([d.class_id for d in record.detections], np.int64),
        (record.height_px, record.width_px),
    )


@pytest.mark.skipif(
    not WEIGHTS.exists(),
    reason="needs trained weights: python -m benchmarks.model_speed makes them",
)
def test_a_trained_model_finds_more_small_objects_with_tiles() -> None:
    predictor = Predictor.load(str(WEIGHTS), device="cpu")
    pictures, truth = zip(*(shelves(seed, 3, (1280, 960)) for seed in (1,)), strict=True)
    results = []
    for tiling in (None, Tiling(2, 2, 0.2)):
        scorer = ImageScorer(predictor, tiling=tiling)
        records = scorer.score([("a.jpg", data) for data in pictures])
        answers = [detections_of(record) for record in records]
        results.append(pascal_average_precision(truth, answers, LABEL_MAP))
    plain, tiled = results
    assert tiled.map > plain.map + 0.2
    assert tiled.best.recall > plain.best.recall + 0.2
    assert tiled.best.precision > 0.9
