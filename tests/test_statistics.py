import json
import warnings

import numpy as np
import pytest
from PIL import Image

from appliance.annotations.dataset import AnnotatedImage, ObjectDetectionDataset
from appliance.annotations.statistics import DatasetStatistics, percentiles
from appliance.annotations.statistics_charts import (
    aspect_ratios,
    labels_together,
    objects_per_label,
    objects_per_picture,
    write_charts,
)
from appliance.errors import StorageError
from appliance.labels import LabelMap


def image(name, *objects, size_hw=(60, 80), **flags):
    boxes = np.array([box for _, box in objects], np.float32).reshape(-1, 4)
    labels = tuple(label for label, _ in objects)
    difficult = flags.pop("difficult", np.zeros(len(objects), bool))
    return AnnotatedImage(name, name, size_hw, boxes, labels, difficult, **flags)


@pytest.fixture
def statistics():
    """Three pictures with six objects, and a negative; worked out by hand below."""
    images = [
        image(
            "a.jpg",
            ("egg", (0, 0, 10, 20)),
            ("egg", (0, 0, 20, 20)),
            ("milk", (0, 0, 40, 10)),
            difficult=[True, False, True],
        ),
        image("b.jpg", ("milk", (0, 0, 30, 30)), ("egg", (0, 0, 8, 8)), truncated=[True, False]),
        image("c.jpg", ("tea", (0, 0, 5, 10)), size_hw=(100, 50), crowd=[True]),
        image("d.jpg"),
    ]
    return DatasetStatistics.of(images, LabelMap(("milk", "egg", "tea", "yak")))


def test_counts_worked_out_by_hand(statistics):
    assert (statistics.image_count, statistics.empty_image_count) == (4, 1)
    assert statistics.object_count == 6
    assert statistics.object_counts == {"milk": 2, "egg": 3, "tea": 1, "yak": 0}
    assert statistics.image_counts == {"milk": 2, "egg": 2, "tea": 1, "yak": 0}
    assert statistics.objects_per_image == {0: 1, 1: 1, 2: 1, 3: 1}
    assert list(statistics.image_sizes_hw.items()) == [((60, 80), 3), ((100, 50), 1)]
    # In the order of the class ids, and each picture once however many eggs it shows.
    assert statistics.image_counts_of_pairs == {("milk", "egg"): 2}
    assert statistics.marked_counts == {"difficult": 2, "truncated": 1, "crowd": 1}
    assert statistics.widths_px.tolist() == [10, 20, 40, 30, 8, 5]
    assert statistics.heights_px.tolist() == [20, 20, 10, 30, 8, 10]
    assert statistics.aspect_ratios.tolist() == [0.5, 1, 4, 1, 1, 0.5]


def test_percentiles_are_interpolated():
    assert percentiles(np.array([0.0, 10.0])) == (0, 0.5, 2.5, 5, 7.5, 9.5, 10)
    assert percentiles(np.zeros(0)) is None


def test_text(statistics):
    assert statistics.describe("shelf").splitlines() == [
        "Dataset name: shelf",
        "Total classes: 4, total images: 4",
        "Label-wise object counts:",
        "    Label milk: 2 objects",
        "    Label egg: 3 objects",
        "    Label tea: 1 objects",
        "    Label yak: 0 objects",
        "Bounding box width and height distribution:",
        "    Bounding box widths  0/5/25/50/75/95/100-percentile: 5/6/8/15/28/38/40 pixels",
        "    Bounding box heights 0/5/25/50/75/95/100-percentile: 8/8/10/15/20/28/30 pixels",
    ]
    assert statistics.describe_more().splitlines() == [
        (
            "Bounding box aspect ratio, width by height: 0/5/25/50/75/95/100-percentile: "
            "0.50/0.50/0.62/1.00/1.00/3.25/4.00"
        ),
        "Objects: 6 (2 difficult, 1 truncated, 1 crowd)",
        "Objects per image: 0/5/25/50/75/95/100-percentile: 0/0/1/2/2/3/3 objects",
        "Images without any object (negatives): 1",
        "Image sizes: 2",
        "    80x60 pixels: 3 images",
        "    50x100 pixels: 1 image",
        "Labels seen together most often:",
        "    milk and egg: 2 images",
    ]


def test_json(statistics):
    document = json.loads(json.dumps(statistics.to_json()))
    assert document["percentiles"] == [0, 5, 25, 50, 75, 95, 100]
    assert document["box_width_px"][3] == 15
    assert document["aspect_ratio"][-1] == 4
    assert document["images_with_both"] == [{"labels": ["milk", "egg"], "images": 2}]
    assert document["image_sizes_wh"][0] == {"width": 80, "height": 60, "images": 3}
    assert (document["negatives"], document["difficult"], document["classes"]) == (1, 2, 4)


def test_long_lists_are_cut():
    images = [
        image(f"{side}.jpg", ("a", (0, 0, 1, 1)), size_hw=(side, side)) for side in range(10, 18)
    ]
    text = DatasetStatistics.of(images, LabelMap(("a",))).describe_more()
    assert "Image sizes: 8" in text
    assert "    and 3 more" in text
    assert text.endswith("    none")


def test_only_negatives(tmp_path):
    statistics = DatasetStatistics.of([image("a.jpg")], LabelMap(("egg",)))
    assert (
        "aspect ratio, width by height: unknown: there are no boxes" in statistics.describe_more()
    )
    assert statistics.to_json()["box_width_px"] is None
    written = write_charts(statistics, "empty", tmp_path)
    assert [path.rpartition("/")[2] for path in written] == [
        "objects_per_label.png",
        "objects_per_picture.png",
    ]


def test_charts_are_pictures(statistics, tmp_path):
    written = write_charts(statistics, "shelf", tmp_path / "new" / "charts")
    names = ("objects_per_label", "objects_per_picture", "box_sizes", "aspect_ratios")
    assert [path.rpartition("/")[2] for path in written] == [
        f"{name}.png" for name in (*names, "labels_together")
    ]
    for path in written:
        with Image.open(path) as chart:
            assert chart.format == "PNG"
            assert min(chart.size) > 300
            assert len(chart.convert("RGB").getcolors(maxcolors=10**6)) > 20
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="Cannot write"):
        write_charts(statistics, "shelf", tmp_path / "file")


def bars_of(figure):
    return [round(bar.get_height()) for bar in figure.axes[0].patches]


def test_charts_of_labels_in_any_script_are_drawn_without_a_warning(tmp_path):
    boxes = [("水", (0, 0, 10, 20)), ("Käse", (0, 0, 9, 9))]
    images = [image("a.jpg", *boxes), image("b.jpg", *boxes)]
    statistics = ObjectDetectionDataset("s", images, LabelMap(("水", "Käse"))).statistics()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(write_charts(statistics, "架", tmp_path)) == 5


def test_charts_show_the_figures(statistics):
    per_label = objects_per_label(statistics).axes[0]
    assert [tick.get_text() for tick in per_label.get_yticklabels()] == [
        "egg",
        "milk",
        "tea",
        "yak",
    ]
    assert [round(bar.get_width()) for bar in per_label.patches] == [3, 2, 1, 0]
    assert per_label.get_title(loc="left") == "6 objects of 4 labels"
    # Pictures with 1, 2 and 3 objects, then the negative.
    assert bars_of(objects_per_picture(statistics)) == [1, 1, 1, 1]
    heights = np.array(bars_of(aspect_ratios(statistics)))
    assert heights.sum() == 6
    share = labels_together(statistics).axes[0].images[0].get_array()
    # Both pictures with milk show egg too; yak is never seen.
    assert share.filled(-1).tolist() == [[-1, 1, 0, 0], [1, -1, 0, 0], [0, 0, -1, 0], [0, 0, 0, -1]]


def test_charts_of_many_labels_and_many_objects():
    labels = tuple(f"a label with quite a long name {index}" for index in range(45))
    objects = [(label, (0, 0, 9, 9)) for label in labels]
    images = [image("a.jpg", *objects), image("b.jpg", *objects * 2), image("c.jpg")]
    statistics = DatasetStatistics.of(images, LabelMap(labels))
    chart = objects_per_label(statistics).axes[0]
    assert len(chart.patches) == 40
    assert chart.get_title(loc="left") == "135 objects of 45 labels, the 40 most frequent"
    assert chart.get_yticklabels()[0].get_text() == "a label with quite a lo…"
    # 45 and 90 objects in bars of four, and the negative last.
    heights = bars_of(objects_per_picture(statistics))
    assert len(heights) <= 31
    assert (sum(heights), heights[-1]) == (3, 1)
    assert labels_together(statistics).axes[0].images[0].get_array().shape == (40, 40)


def test_fridge_statistics(shared_dir):
    dataset = ObjectDetectionDataset.create_from_dir("fridge", shared_dir / "data/fridge/train")
    statistics = dataset.statistics()
    assert statistics.image_sizes_hw == {(1333, 1000): 20}
    assert statistics.objects_per_image == {9: 20}
    assert set(statistics.image_counts_of_pairs.values()) == {20}
    assert len(statistics.image_counts_of_pairs) == 8 * 7 / 2
