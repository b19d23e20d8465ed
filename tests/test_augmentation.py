"""Random changes to pictures: boxes stay on their pixels, what is lost is counted, chance can be repeated."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from appliance.annotations.dataset import AnnotatedImage, ObjectDetectionDataset
from appliance.cli.data_augment import augment as augment_command
from appliance.errors import ConfigError, StorageError
from appliance.images import drawing
from appliance.labels import LabelMap
from appliance.model.spec import ModelSpec
from appliance.training.augmentation import Picture, Sample, augment, partners
from appliance.training.augmentation_sheet import draw_augmentation_sheet
from appliance.training.config import AUGMENTATION_SETTINGS, TrainingConfig

SPEC = ModelSpec.of(LabelMap(("a", "b")), shorter_side_px=64, longer_side_px=64)
STILL = TrainingConfig(flip=0.0, scale_jitter=0.0, colour_jitter=0.0)
# A red rectangle on black, x 8..24 and y 16..40 of 64 x 64.
BOX = np.array([[8, 16, 24, 40]], np.float32)


def picture(boxes=BOX, size_hw=(64, 64), class_ids=None, stored_hw=None) -> Picture:
    """Red rectangles on black; stored smaller when asked."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    height, width = stored_hw or size_hw
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    stretch = [width / size_hw[1], height / size_hw[0]] * 2
    for x1, y1, x2, y2 in (boxes * stretch).round().astype(int).tolist():
        pixels[0, y1:y2, x1:x2] = 255
    ids = np.ones(len(boxes), np.int64) if class_ids is None else np.array(class_ids)
    return Picture(pixels, boxes, ids, size_hw)


def changed(config: TrainingConfig, seed: int = 0, of: Picture | None = None, others=()) -> Sample:
    return augment(of or picture(), SPEC, config, np.random.default_rng(seed), others)


def extent(sample: Sample) -> list[int]:
    """The box around what is red."""
    ys, xs = torch.nonzero(sample.pixels[0] > 127, as_tuple=True)
    return [xs.min().item(), ys.min().item(), xs.max().item() + 1, ys.max().item() + 1]


def test_nothing_changes_when_nothing_is_asked():
    sample = changed(STILL)
    assert sample.boxes_xyxy.tolist() == BOX.tolist()
    assert sample.class_ids.tolist() == [1]
    assert sample.dropped == 0
    torch.testing.assert_close(sample.pixels, picture().pixels.float())


def test_flips_move_the_box_with_its_pixels():
    for settings_, box in (
        ({"flip": 1.0}, [40, 16, 56, 40]),
        ({"flip_vertical": 1.0}, [8, 24, 24, 48]),
        ({"flip": 1.0, "flip_vertical": 1.0}, [40, 24, 56, 48]),
    ):
        sample = changed(replace(STILL, **settings_))
        assert sample.boxes_xyxy.tolist() == [box]
        assert extent(sample) == box


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "config",
    [
        replace(STILL, scale_jitter=0.2),
        replace(STILL, crop=1.0),
        replace(STILL, crop=1.0, scale_jitter=0.3, flip=0.5, flip_vertical=0.5),
    ],
)
@pytest.mark.parametrize("stored_hw", [(64, 64), (32, 32)])
def test_the_box_stays_on_its_pixels(config, seed, stored_hw):
    sample = changed(config, seed, picture(stored_hw=stored_hw))
    assert sample.dropped == 0
    assert sample.boxes_xyxy[0].tolist() == pytest.approx(extent(sample), abs=1.5)


@pytest.mark.parametrize("seed", range(6))
def test_a_turned_object_lies_within_its_box(seed):
    # The turned rectangle touches all four sides of the box around it.
    sample = changed(replace(STILL, rotate_degrees=15), seed, picture([[20, 24, 44, 40]]))
    box = sample.boxes_xyxy[0].tolist()
    assert box == pytest.approx(extent(sample), abs=1.6)
    assert box != [20, 24, 44, 40]


def test_a_crop_holds_one_object_whole_and_comes_closer():
    corners = [[0, 0, 6, 6], [56, 0, 64, 10], [0, 58, 6, 64]]
    config = replace(STILL, crop=1.0, crop_smallest=0.3)
    whole_seen: set[int] = set()
    for seed in range(30):
        sample = changed(config, seed, picture(corners, class_ids=[1, 2, 3]))
        assert len(sample.class_ids) >= 1
        assert len(sample.class_ids) + sample.dropped == 3
        whole_seen.update(sample.class_ids.tolist())
    assert whole_seen == {1, 2, 3}


def test_a_crop_of_a_large_object_is_as_large_as_the_object():
    sample = changed(replace(STILL, crop=1.0, crop_smallest=0.1), 3, picture([[2, 4, 60, 63]]))
    assert sample.dropped == 0
    assert sample.pixels[0].mean() > 200


def test_a_picture_without_objects_stays_one():
    config = TrainingConfig(crop=1.0, rotate_degrees=5, hue_jitter=0.1, blur=1.0)
    sample = changed(config, 1, picture([]))
    assert sample.boxes_xyxy.shape == (0, 4)
    assert sample.class_ids.shape == (0,)
    assert sample.dropped == 0


def test_colours_change_and_boxes_do_not():
    for config in (replace(STILL, colour_jitter=0.5), replace(STILL, hue_jitter=0.5)):
        sample = changed(config, 3)
        assert sample.boxes_xyxy.tolist() == BOX.tolist()
        assert sample.pixels[:, 20, 10].tolist() != [255, 0, 0]
        assert sample.pixels.min() >= 0
        assert sample.pixels.max() <= 255.001


def test_a_blur_softens_edges_and_keeps_the_light():
    sample = changed(replace(STILL, blur=1.0))
    assert 0 < sample.pixels[0, 20, 7] < 255
    assert sample.pixels.sum().item() == pytest.approx(picture().pixels.sum().item(), rel=0.01)


def test_what_is_mostly_cut_off_is_dropped_and_counted():
    # All of the picture lies in the window but what a larger scale pushes out on one side.
    corners = picture([[0, 0, 6, 6], [58, 0, 64, 6], [0, 58, 6, 64], [58, 58, 64, 64]])
    config = replace(STILL, scale_jitter=0.9)
    dropped = 0
    for seed in range(10):
        sample = changed(config, seed, corners)
        assert len(sample.boxes_xyxy) == len(sample.class_ids) == 4 - sample.dropped
        assert (sample.boxes_xyxy[:, 2:] <= torch.tensor(sample.pixels.shape[:0:-1])).all()
        dropped += sample.dropped
        keeps_slivers = changed(replace(config, min_visible=0.0), seed, corners)
        assert keeps_slivers.dropped <= sample.dropped
    assert dropped > 0


def test_half_an_object_is_kept_or_dropped_as_asked():
    # Twice as large, a window of half the sides: the share left of a box over all of it is a quarter.
    whole = picture([[0, 0, 64, 64]])
    config = replace(STILL, scale_jitter=0.999)
    seed = next(s for s in range(99) if np.random.default_rng(s).uniform(-1, 1) > 0.98)
    assert changed(replace(config, min_visible=0.2), seed, whole).dropped == 0
    assert changed(replace(config, min_visible=0.3), seed, whole).dropped == 1


def test_objects_too_small_to_learn_are_dropped():
    sample = changed(STILL, 0, picture([[0, 0, 6, 6], [30, 30, 60, 60]], (640, 640), [1, 2]))
    assert sample.class_ids.tolist() == [2]
    assert sample.dropped == 1


def test_a_mosaic_fills_the_input_with_four_pictures():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    pictures = [
        Picture(
            torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, *size_hw),
            np.array([[0, 0, size_hw[1], size_hw[0]]], np.float32),
            np.array([class_id]),
            size_hw,
        )
        for class_id, (colour, size_hw) in enumerate(
            zip(colours, [(64, 64), (30, 60), (60, 30), (128, 100)], strict=True), start=1
        )
    ]
    config = replace(STILL, min_visible=0.1, scale_jitter=0.2)
    for seed in range(8):
        sample = changed(config, seed, pictures[0], pictures[1:])
        assert sample.pixels.shape == (3, 64, 64)
        assert sample.class_ids.tolist() == [1, 2, 3, 4]
        boxes = sample.boxes_xyxy.int().tolist()
        assert sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes) == 64 * 64
        for (x1, y1, x2, y2), colour in zip(boxes, colours, strict=True):
            corner = sample.pixels[:, y1:y2, x1:x2]
            assert (corner.round() == torch.tensor(colour)[:, None, None]).all()


def test_how_often_a_mosaic_is_made():
    rng = np.random.default_rng(0)
    drawn = [partners(7, TrainingConfig(mosaic=0.25), rng) for _ in range(1000)]
    mosaics = [others for others in drawn if others]
    assert 200 < len(mosaics) < 300
    assert {len(others) for others in mosaics} == {3}
    assert {index for others in mosaics for index in others} == set(range(7))
    state = rng.bit_generator.state
    assert partners(7, TrainingConfig(), rng) == []
    assert rng.bit_generator.state == state


EVERYTHING = TrainingConfig(
    flip_vertical=0.5, crop=0.7, rotate_degrees=20, hue_jitter=0.1, blur=0.5, scale_jitter=0.5
)


@pytest.mark.parametrize("others", [(), (picture(), picture([]), picture(size_hw=(20, 90)))])
def test_the_generator_alone_decides(others):
    torch.manual_seed(1)
    first = changed(EVERYTHING, 5, others=others)
    torch.manual_seed(2)
    second = changed(EVERYTHING, 5, others=others)
    torch.testing.assert_close(first.pixels, second.pixels, rtol=0, atol=0)
    assert torch.equal(first.boxes_xyxy, second.boxes_xyxy)
    assert not torch.equal(first.pixels, changed(EVERYTHING, 6, others=others).pixels)


@st.composite
def pictures(draw) -> Picture:
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    side = st.floats(0, 1)
    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        (x1, x2), (y1, y2) = (sorted((draw(side), draw(side))) for _ in range(2))
        boxes.append([x1 * width, y1 * height, x2 * width, y2 * height])
    stored = draw(st.sampled_from([1.0, 0.5]))
    stored_hw = (max(1, round(height * stored)), max(1, round(width * stored)))
    return picture(boxes, (height, width), stored_hw=stored_hw)


@settings(deadline=None, max_examples=150)
@given(
    pictures(), st.integers(0, 99), st.sampled_from([TrainingConfig(), EVERYTHING]), st.booleans()
)
def test_boxes_are_always_valid_and_nothing_is_lost_uncounted(given_picture, seed, config, mosaic):
    others = [given_picture] * 3 if mosaic else []
    sample = changed(config, seed, given_picture, others)
    height, width = sample.pixels.shape[1:]
    assert height <= 64
    assert width <= 64
    assert len(sample.class_ids) + sample.dropped == len(given_picture.boxes_xyxy) * (
        1 + len(others)
    )
    x1, y1, x2, y2 = sample.boxes_xyxy.T
    assert ((x1 >= 0) & (x1 < x2) & (x2 <= width)).all()
    assert ((y1 >= 0) & (y1 < y2) & (y2 <= height)).all()
    assert torch.isfinite(sample.pixels).all()


def test_the_settings_that_are_listed_are_those_of_the_configuration():
    assert set(AUGMENTATION_SETTINGS) <= set(asdict(TrainingConfig()))


class TestSheet:
    """What a configuration does, to be seen."""

    def test_it_shows_the_original_and_what_becomes_of_it(self, tmp_path):
        pixels = np.zeros((60, 80, 3), np.uint8)
        pixels[10:30, 20:50] = (255, 0, 0)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        image = AnnotatedImage(
            str(tmp_path / "a.png"), "a.png", (60, 80), [[20, 10, 50, 30]], ("egg",), [False]
        )
        dataset = ObjectDetectionDataset("shelf", [image], LabelMap(("egg",)))
        config = replace(STILL, flip=1.0)
        sheet, kept, dropped = draw_augmentation_sheet(dataset, config, variants=2)
        assert (kept, dropped) == (2, 0)
        ratio = 360 / 80
        shown = np.asarray(sheet)
        reds = (shown == (255, 0, 0)).all(-1)
        top = int(np.nonzero(reds.any(1))[0][0]) - round(10 * ratio)
        edge = np.array(drawing.colour_of(1))
        for left, x in ((26, 20), (26 + 374, 30), (26 + 748, 30)):
            inside = (top + round(20 * ratio), left + round((x + 15) * ratio))
            assert shown[inside].tolist() == [255, 0, 0]
            border = shown[inside[0], left + round(x * ratio) - 3 : left + round(x * ratio) + 6]
            assert (np.abs(border.astype(int) - edge).sum(-1) < 30).any()

    def test_many_settings_take_a_second_line(self, tiny_scenes):
        heights = [
            draw_augmentation_sheet(tiny_scenes, config, count=1, variants=1)[0].height
            for config in (STILL, replace(EVERYTHING, mosaic=0.5, colour_jitter=0.25))
        ]
        assert heights[1] == heights[0] + 22

    @pytest.mark.parametrize("wrong", [{"count": 0}, {"variants": 13}])
    def test_its_size_has_limits(self, tiny_scenes, wrong):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            draw_augmentation_sheet(tiny_scenes, STILL, **wrong)

    def test_the_command_writes_it(self, tiny_scenes_dir, tmp_path):
        (tmp_path / "train.yaml").write_text("mosaic: 1.0\nmin_visible: 1.0\nflip: 0\n")
        arguments = [
            *(str(tiny_scenes_dir / "train"), "-o", str(tmp_path / "sheet.png")),
            *("--config", str(tmp_path / "train.yaml"), "--count", "2", "--variants", "2"),
            *("--seed", "3", "--shorter-side", "96", "--flip", "0.5"),
        ]
        result = self.run([*arguments, "--json"])
        document = json.loads(result.output)
        assert document["objects_kept"] > 0
        assert document["objects_dropped"] > 0
        with Image.open(tmp_path / "sheet.png") as sheet:
            assert sheet.width == 26 * 2 + 3 * 360 + 2 * 14
            first = sheet.tobytes()
        assert "Wrote" in self.run(arguments).output
        with Image.open(tmp_path / "sheet.png") as sheet:
            assert sheet.tobytes() == first

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--mosaic", "2"], "mosaic is out of range"),
            (["--seed", "-1"], "seed is out of range"),
            (["--config", "wrong.yaml"], "Unknown setting: wrong.yaml .*mosaik.*'mosaic'"),
            (["--config", "nowhere.yaml"], "Cannot read the file"),
        ],
    )
    def test_the_command_names_what_is_wrong(
        self, tiny_scenes_dir, tmp_path, monkeypatch, flags, message
    ):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "wrong.yaml").write_text("mosaik: 1.0\n")
        with pytest.raises((ConfigError, StorageError), match=message):
            raise self.run([str(tiny_scenes_dir / "train"), "-o", "a.png", *flags]).exception

    def run(self, arguments):
        import typer

        app = typer.Typer()
        app.command()(augment_command)
        return CliRunner().invoke(app, arguments)
