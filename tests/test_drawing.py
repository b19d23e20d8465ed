import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from factories import detections, jpeg_bytes
from PIL import Image, ImageDraw, ImageFont

from appliance.errors import ImageError, StorageError
from appliance.images import drawing


def drawn(size_wh, boxes, captions, class_ids=None, background="white"):
    image = Image.new("RGB", size_wh, background)
    picture = drawing.draw_detections(image, boxes, captions, class_ids or [1] * len(captions))
    return np.asarray(picture)


def test_box_has_the_colour_of_its_class_at_its_edge():
    pixels = drawn((100, 100), [[20, 30, 60, 80]], [""], [5])
    blue = list(drawing.colour_of(5))
    for y, x in ((30, 40), (79, 40), (50, 20), (50, 59)):
        assert pixels[y, x].tolist() == blue
    assert pixels[50, 40].tolist() == [255, 255, 255]
    assert pixels[50, 19].tolist() == [20, 20, 20]


def test_input_stays_as_it_was():
    image = Image.new("RGB", (40, 40), "white")
    drawing.draw_detections(image, [[5, 5, 20, 20]], ["egg"], [1])
    assert np.asarray(image).min() == 255


def test_tensors_and_other_modes():
    tensor = torch.zeros((3, 20, 30), dtype=torch.uint8)
    tensor[2] = 200
    picture = drawing.draw_detections(tensor, np.zeros((0, 4)), [], [])
    assert picture.size == (30, 20)
    assert picture.getpixel((3, 4)) == (0, 0, 200)
    assert drawing.draw_detections(Image.new("L", (8, 8)), [], [], []).mode == "RGB"


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="differ in length: 1, 2, 1"):
        drawing.draw_detections(Image.new("RGB", (9, 9)), [[1, 1, 5, 5]], ["a", "b"], [1])


@pytest.mark.parametrize("background", ["black", "white", "orange", (128, 128, 128)])
@pytest.mark.parametrize("class_id", [*range(1, 10), 17, 19])
def test_captions_have_contrast_on_any_background(background, class_id):
    pixels = drawn((120, 60), [[10, 30, 110, 55]], ["egg 0.98"], [class_id], background)
    chip = list(drawing.colour_of(class_id))
    ink = 0 if contrast(chip, (0, 0, 0)) > contrast(chip, (255, 255, 255)) else 255
    rows, columns = np.nonzero((pixels[:27] == chip).all(-1))
    assert len(rows) > 100
    inside = pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert (np.abs(inside.astype(int) - ink) < 60).all(-1).sum() > 20
    assert contrast(chip, (ink,) * 3) >= 4.5  # what WCAG asks of small text


def contrast(one, other):
    def luminance(colour):
        srgb = np.array(colour) / 255
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        return np.dot(linear, [0.2126, 0.7152, 0.0722]) + 0.05

    return max(luminance(one), luminance(other)) / min(luminance(one), luminance(other))


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 100, 80),
        (0, 0, 10, 10),
        (90, 0, 100, 10),
        (90, 70, 100, 80),
        (0, 70, 10, 80),
        (-20, -20, 5, 5),
        (40, 2, 60, 78),
    ],
)
@pytest.mark.parametrize("caption", ["egg", "a very long caption that never fits 0.98"])
def test_captions_stay_inside_the_picture(box, caption):
    draw = ImageDraw.Draw(Image.new("RGB", (100, 80)))
    font = ImageFont.load_default(11)
    chip = drawing._draw_caption(draw, np.array(box), caption, (0, 0, 0), font, 1, [])
    x1, y1, x2, y2 = chip
    assert 0 <= x1 < x2 <= 100
    assert 0 <= y1 < y2 <= 80


def test_captions_of_touching_boxes_do_not_cover_each_other():
    boxes = [(60, 60, 120, 120), (66, 60, 126, 120), (72, 60, 132, 120)]
    captions, class_ids = ["one 0.91", "two 0.82", "six 0.73"], [1, 2, 3]
    together = drawn((200, 180), boxes, captions, class_ids)
    bare = drawn((200, 180), boxes, [""] * 3, class_ids)
    for box, caption, class_id in zip(boxes, captions, class_ids, strict=True):
        alone = drawn((200, 180), [box], [caption], [class_id])
        bare_alone = drawn((200, 180), [box], [""], [class_id])
        chip_px = coloured_px(alone, class_id) - coloured_px(bare_alone, class_id)
        assert coloured_px(together, class_id) - coloured_px(bare, class_id) > 0.8 * chip_px


def coloured_px(pixels, class_id):
    return int((pixels == list(drawing.colour_of(class_id))).all(-1).sum())


def test_tiny_picture():
    assert drawn((3, 2), [[0, 0, 3, 2]], ["caption"]).shape == (2, 3, 3)


def test_line_width_grows_with_the_picture():
    def line_px(side):
        pixels = drawn((side, side), [[side * 0.2, side * 0.2, side * 0.8, side * 0.8]], [""])
        return (pixels[side // 2] == list(drawing.colour_of(1))).all(-1).sum() / 2

    assert line_px(100) == 1
    assert line_px(400) == 2
    assert line_px(2500) == 5


def test_colours_are_stable_and_apart():
    assert [drawing.colour_of(class_id) for class_id in range(1, 9)] == list(drawing.PALETTE)
    colours = [drawing.colour_of(class_id) for class_id in range(1, 23)]
    assert colours == [drawing.colour_of(class_id) for class_id in range(1, 23)]
    for one, other in itertools.combinations(colours, 2):
        assert np.abs(np.subtract(one, other)).sum() > 20


def test_visualize(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes((200, 100)))
    scored = {
        "detection_boxes": [[0.3, 0.1, 0.9, 0.5], [0.5, 0.6, 0.9, 0.9], [0, 0, 1, 1]],
        "detection_scores": [0.9, 0.6, 0.2],
        "detection_classes": [2, 7, 1],
        "num_detections": 3,
    }
    path_save = tmp_path / "new/folder/scored.png"
    axes = drawing.visualize(
        str(tmp_path / "a.jpg"), scored, path_save, image_size=(4, 3), class_map={"egg": 2}
    )
    assert axes.get_figure().get_size_inches().tolist() == [4, 3]
    pixels = np.asarray(axes.images[0].get_array())
    assert pixels[60, 20].tolist() == list(drawing.colour_of(2))
    assert pixels[70, 120].tolist() == list(drawing.colour_of(7))
    assert pixels[99, 100].tolist() != list(drawing.colour_of(1))
    with Image.open(path_save) as saved:
        assert saved.size[0] > 200
    everything = drawing.visualize(tmp_path / "a.jpg", scored, score_threshold=0.0)
    shown = np.asarray(everything.images[0].get_array())
    assert shown[99, 100].tolist() == list(drawing.colour_of(1))


def test_visualize_what_score_returns(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes())
    for count in (0, 3):
        scored = detections(count).to_score_dict()
        axes = drawing.visualize(tmp_path / "a.jpg", scored, score_threshold=0)
        assert np.asarray(axes.images[0].get_array()).shape == (64, 96, 3)


def test_visualize_says_what_is_wrong(tmp_path):
    scored = detections(1).to_score_dict()
    with pytest.raises(StorageError, match=r"nothing\.jpg"):
        drawing.visualize(tmp_path / "nothing.jpg", scored)
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    with pytest.raises(ImageError, match=r"Not a picture: .*broken\.jpg"):
        drawing.visualize(tmp_path / "broken.jpg", scored)
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes())
    with pytest.raises(StorageError, match=r"Cannot write the figure: .*broken\.jpg/a\.png"):
        drawing.visualize(tmp_path / "a.jpg", scored, tmp_path / "broken.jpg/a.png")
    with pytest.raises(StorageError, match=r"Cannot write the figure.*End the name in \.png"):
        drawing.visualize(tmp_path / "a.jpg", scored, tmp_path / "a.docx")


@pytest.mark.parametrize("first", ["import matplotlib.figure", "import matplotlib.pyplot"])
def test_pyplot_is_used_only_where_it_is_in_use(first):
    program = f"""
import sys
{first}
used = "matplotlib.pyplot" in sys.modules
from PIL import Image
from appliance.images import drawing
axes = drawing.show(Image.new("RGB", (4, 4)), title="", image_size=(2, 2))
assert ("matplotlib.pyplot" in sys.modules) is used
if used:
    import matplotlib.pyplot as plt
    assert plt.get_fignums() == [axes.get_figure().number]
"""
    subprocess.run([sys.executable, "-c", program], check=True, env={"MPLBACKEND": "Agg"})
