import json
from dataclasses import replace

import numpy as np
import pytest
from factories import encoded, picture
from PIL import Image
from planted_defects import EGG, add, annotate, plant_sound_pictures

from appliance.annotations.contact_sheet import draw_sheet
from appliance.annotations.formats.opening import open_source
from appliance.errors import ConfigError, DatasetError, LabelError, StorageError
from appliance.images.drawing import colour_of, save_picture


def sheet_of(folder, **wishes):
    return draw_sheet({"": open_source(folder)}, "shelf", **wishes)


def pixels_of(sheet, colour):
    """How many pixels of the sheet have exactly this colour."""
    return int((np.asarray(sheet.picture) == colour).all(-1).sum())


@pytest.fixture
def shelf(tmp_path):
    """Three pictures with egg and milk, one with tea alone; ids by name: egg 1, milk 2, tea 3."""
    plant_sound_pictures(tmp_path, 3)
    add(tmp_path, "tea", ("tea", (20, 10, 70, 50)))
    return tmp_path


def test_sheet_shows_what_was_asked_for(shelf):
    sheet = sheet_of(shelf)
    assert sheet.names == ("p0", "p1", "p2", "tea")
    assert sheet.label_counts == {"egg": 3, "milk": 3, "tea": 1}
    assert sheet.picture.mode == "RGB"
    for class_id in (1, 2, 3):
        assert pixels_of(sheet, colour_of(class_id)) > 300


def test_equal_seeds_draw_equal_sheets(shelf):
    plant_sound_pictures(shelf, 20)
    first, again = sheet_of(shelf, count=5, seed=7), sheet_of(shelf, count=5, seed=7)
    assert len(first.names) == 5
    assert first.names == again.names == tuple(sorted(first.names))
    assert first.picture.tobytes() == again.picture.tobytes()
    assert sheet_of(shelf, count=5, seed=8).names != first.names


def test_the_colour_of_a_label_is_that_of_the_whole_data(shelf):
    sheet = sheet_of(shelf, labels=["tea"])
    assert sheet.names == ("tea",)
    assert pixels_of(sheet, colour_of(3)) > 300
    # Neither on the picture nor in the legend is there any other class.
    assert pixels_of(sheet, colour_of(1)) == pixels_of(sheet, colour_of(2)) == 0


def test_only_the_objects_asked_for_are_drawn(shelf):
    sheet = sheet_of(shelf, labels=["milk"])
    assert sheet.names == ("p0", "p1", "p2")
    assert pixels_of(sheet, colour_of(2)) > 300
    assert pixels_of(sheet, colour_of(1)) == 0


def test_labels_that_the_format_declares_keep_their_order(shelf):
    source = replace(open_source(shelf), labels=("tea", "nothing"))
    sheet = draw_sheet({"": source}, "shelf")
    assert list(sheet.label_counts) == ["tea", "nothing", "egg", "milk"]
    assert pixels_of(sheet, colour_of(3)) > 300


def test_parts_lie_on_one_sheet(tmp_path):
    for part in ("train", "test"):
        plant_sound_pictures(tmp_path / part, 2)
    sources = {part: open_source(tmp_path / part) for part in ("train", "test")}
    sheet = draw_sheet(sources, "shelf", count=4)
    assert sheet.names == ("p0", "p1", "p0", "p1")
    assert sheet.label_counts == {"egg": 4, "milk": 4}


def test_boxes_lie_where_they_are_on_pictures_of_any_size(tmp_path):
    large = picture((1600, 1200), seed=3)
    add(tmp_path, "large", ("egg", (400, 300, 1200, 900)), data=encoded(large))
    pixels = np.asarray(sheet_of(tmp_path).picture)
    rows, columns = np.nonzero((pixels == colour_of(1)).all(-1))
    # The box is half as wide and high as the picture, which is 420 pixels wide on the sheet. Above it
    # stand the legend's patch and the caption, so that only its lower part is looked at.
    below = rows > rows.max() - 100
    assert columns[below].max() - columns[below].min() == pytest.approx(210, abs=3)
    assert columns[below].min() - 24 == pytest.approx(105, abs=3)


def test_what_cannot_be_shown_says_why(shelf):
    add(shelf, "broken", EGG, data=b"no picture")
    add(shelf, "resized", EGG, size_hw=(10, 10))
    add(shelf, "negative")
    add(shelf, "outside", ("egg", (200, 5, 210, 9)), ("egg", (90, 5, 101, 30)))
    (shelf / "Annotations/p0.xml").write_text("<annotation>")
    annotate(shelf, "alone", EGG)
    sheet = sheet_of(shelf)
    assert "alone" not in sheet.names
    notes = dict(zip(sheet.names, sheet.notes, strict=True))
    assert notes["broken"] == "Not a picture"
    assert notes["resized"] == "Annotation and picture disagree about the size"
    assert notes["negative"] == "no object"
    assert notes["outside"] == "1 object"
    assert notes["p0"] == "The annotation is no well-formed XML"
    assert notes["p1"] == "2 objects"


def test_long_names_and_many_labels_stay_on_the_sheet(tmp_path):
    objects = [(f"label {index:02d}", (index, 4, index + 20, 40)) for index in range(40)]
    add(tmp_path, "a" * 120, *objects)
    sheet = draw_sheet({"": open_source(tmp_path)}, "n" * 300)
    assert pixels_of(sheet, colour_of(40)) > 100
    frame = np.asarray(sheet.picture)
    assert (frame[:, -20:] == 255).all()
    assert sheet.picture.width < 600


@pytest.mark.parametrize(("columns", "wider"), [(1, False), (4, True)])
def test_columns(shelf, columns, wider):
    width, height = sheet_of(shelf, columns=columns).picture.size
    assert (width > height) == wider


def test_mistakes(shelf, tmp_path):
    with pytest.raises(LabelError, match="Unknown label: yak .expected one of egg, milk, tea"):
        sheet_of(shelf, labels=["egg", "yak"])
    with pytest.raises(ConfigError, match="count is out of range .got 0, expected 1 to 200"):
        sheet_of(shelf, count=0)
    with pytest.raises(ConfigError, match="columns is out of range"):
        sheet_of(shelf, columns=0)
    annotate(tmp_path / "lonely", "alone", EGG)
    (tmp_path / "lonely/JPEGImages").mkdir()
    with pytest.raises(DatasetError, match="An annotation has no picture"):
        sheet_of(tmp_path / "lonely")
    (tmp_path / "a.jpg").write_bytes(encoded(picture()))
    image = {"id": 1, "file_name": "a.jpg", "width": 96, "height": 64}
    document = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "yak"}]}
    (tmp_path / "set.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match="There is no picture to show: shelf"):
        sheet_of(tmp_path / "set.json", labels=["yak"])


def test_sheets_are_saved_as_their_name_says(shelf, tmp_path):
    sheet = sheet_of(shelf)
    for name, kind in (("a.png", "PNG"), ("new/b.JPG", "JPEG")):
        save_picture(sheet.picture, tmp_path / name)
        with Image.open(tmp_path / name) as saved:
            assert (saved.format, saved.size) == (kind, sheet.picture.size)
    with pytest.raises(StorageError, match=r"End the name in .png or .jpg"):
        save_picture(sheet.picture, tmp_path / "c.gif")
    with pytest.raises(StorageError, match="Cannot write"):
        save_picture(sheet.picture, tmp_path / "a.png" / "d.png")


def test_data_without_objects(tmp_path):
    add(tmp_path, "a")
    assert sheet_of(tmp_path).label_counts == {}
