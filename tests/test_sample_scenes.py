import hashlib
import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.annotations.formats import pascal_voc
from appliance.annotations.samples.layout import Thing, arrange, plan_shelves, visible_boxes
from appliance.annotations.samples.objects import GROCERIES
from appliance.annotations.samples.painting import Canvas
from appliance.annotations.samples.scenes import LABELS, draw_scene, make_sample_dataset


def test_eight_classes():
    assert LABELS == (
        "eggBox",
        "joghurt",
        "ketchup",
        "mushroom",
        "mustard",
        "orange",
        "squash",
        "water",
    )


@pytest.mark.parametrize("seed", range(6))
def test_scene_has_six_to_ten_objects_with_boxes_inside(seed):
    image, objects = draw_scene(seed)
    assert image.mode == "RGB"
    assert image.size == (384, 288)
    assert 6 <= len(objects) <= 10
    for label, (x1, y1, x2, y2) in objects:
        assert label in LABELS
        assert 0 <= x1 < x2 <= 384
        assert 0 <= y1 < y2 <= 288
        assert x2 - x1 >= 10
        assert y2 - y1 >= 10


def test_the_same_seed_draws_the_same_scene():
    first, second = draw_scene(7), draw_scene(7)
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1] == second[1]
    assert draw_scene(8)[0].tobytes() != first[0].tobytes()


@pytest.mark.parametrize("size_wh", [(200, 300), (90, 60), (640, 480)])
def test_other_sizes(size_wh):
    image, objects = draw_scene(3, size_wh)
    assert image.size == size_wh
    assert objects
    boxes = np.array([box for _, box in objects])
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert (boxes >= 0).all()
    assert (boxes <= [*size_wh, *size_wh]).all()


def test_scenes_show_every_class_about_equally_often():
    counts = Counter(label for seed in range(20) for label, _ in draw_scene(seed, (96, 72))[1])
    assert set(counts) == set(LABELS)
    assert min(counts.values()) >= 10


@pytest.mark.parametrize("label", LABELS)
def test_each_class_looks_different_every_time_but_fills_its_canvas(label):
    drawings = [GROCERIES[label].draw(random.Random(seed), 100) for seed in range(8)]
    assert len({drawing.tobytes() for drawing in drawings}) == 8
    for drawing in drawings:
        alpha = np.asarray(drawing.getchannel("A"))
        rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
        assert rows[-1] - rows[0] >= 0.85 * drawing.height
        assert columns[-1] - columns[0] >= 0.85 * drawing.width


def test_box_is_what_one_can_see():
    behind = Thing("water", Image.new("RGBA", (20, 40), (0, 0, 255, 255)), (10, 10))
    before = Thing(None, Image.new("RGBA", (30, 20), (255, 0, 0, 255)), (5, 35))
    faint = Thing(None, Image.new("RGBA", (50, 50), (0, 255, 0, 20)), (0, 0))
    cut_off = Thing("orange", Image.new("RGBA", (20, 20), (255, 160, 0, 255)), (90, -4))
    boxes = visible_boxes([behind, before, faint, cut_off], (100, 60))
    assert boxes == [("water", (10, 10, 30, 35)), ("orange", (90, 0, 100, 16))]


@pytest.mark.parametrize("width_px", [150, 250, 700])
def test_things_in_a_crowd_are_moved_or_left_out_until_each_can_be_seen(width_px):
    scene_wh = width_px, 400
    for seed in range(4):
        rng = random.Random(seed)
        things = arrange(rng, scene_wh, plan_shelves(rng, 400))
        assert any(thing.label for thing in things)
        owner = np.zeros((400, width_px), int)
        for index, thing in enumerate(things, start=1):
            layer = Image.new("L", scene_wh)
            layer.paste(thing.mask, thing.corner)
            owner[np.asarray(layer) > 0] = index
        for index, thing in enumerate(things, start=1):
            solid_px = np.count_nonzero(thing.mask)
            assert thing.label is None or np.count_nonzero(owner == index) >= 0.45 * solid_px


def test_what_stands_on_a_thing_moves_with_it():
    picture = Image.new("RGBA", (4, 4), "white")
    top = Thing("orange", picture, (6, 0))
    base = Thing("eggBox", picture, (5, 4), on_top=top)
    base.shift(-3)
    assert (base.corner, top.corner) == ((2, 4), (3, 0))


def test_painting_nothing_leaves_the_canvas_empty():
    canvas = Canvas(20, 1.0)
    left, right = canvas.rounded((0, 0, 0.3, 1), 0), canvas.rounded((0.6, 0, 1, 1), 0)
    canvas.paint(left, (255, 0, 0), inside=right)
    assert canvas.image.getbbox() is None


def test_dataset_is_a_pascal_voc_folder_and_repeatable(tmp_path):
    steps = []
    make_sample_dataset(
        tmp_path / "a", train=3, test=2, seed=5, progress=lambda *step: steps.append(step)
    )
    make_sample_dataset(tmp_path / "b", train=3, test=2, seed=5)
    make_sample_dataset(tmp_path / "c", train=3, test=2, seed=6)
    assert steps == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    first, second, other = (_digests(tmp_path / name) for name in "abc")
    assert len(first) == 10
    assert first == second
    assert not set(first.values()) & set(other.values())
    pictures = [digest for path, digest in first.items() if path.endswith(".jpg")]
    assert len(set(pictures)) == 5

    train = ObjectDetectionDataset.create_from_dir("train", tmp_path / "a/train", labels=LABELS)
    assert [image.name for image in train.images] == [f"train_000{i}.jpg" for i in range(3)]
    assert train.images[0].size_hw == (288, 384)
    annotation = pascal_voc.read(tmp_path / "a/train/Annotations/train_0001.xml")
    assert annotation.filename == "train_0001.jpg"
    assert train.images[1].label_names == tuple(item.label for item in annotation.objects)


def test_jpeg_quality_varies(tmp_path):
    make_sample_dataset(tmp_path, train=6, test=0, size_wh=(96, 72))
    tables = set()
    for path in (tmp_path / "train/JPEGImages").iterdir():
        with Image.open(path) as image:
            tables.add(tuple(image.quantization[0]))
    assert len(tables) >= 4


def _digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.*")
    }
