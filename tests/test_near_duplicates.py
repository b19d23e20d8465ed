"""The same picture re-encoded or resized is found; pictures of the same things are not."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from factories import encoded, jpeg_bytes, picture
from PIL import Image
from planted_defects import EGG, MILK, add

from appliance.annotations.checks.near_duplicates import Look, SeenLooks
from appliance.annotations.checks.survey import check_dataset
from appliance.annotations.samples.scenes import make_sample_dataset
from appliance.images.decoding import decode_image


def look_of(data: bytes) -> Look:
    return Look.of(decode_image(data, source="x", min_shorter_side_px=64).pixels)


def alike(*data: bytes) -> list[str]:
    """The numbers of the pictures that look like an earlier one."""
    seen = SeenLooks()
    for index, one in enumerate(data):
        seen.add("train", str(index), str(index), str(index).encode(), look_of(one))
    return [finding.file for finding in seen.findings()]


def copies(data: bytes) -> list[bytes]:
    """A picture at half to all of its size, as JPEG of poor to good quality, and as PNG."""
    with Image.open(io.BytesIO(data)) as image:
        whole = image.convert("RGB")
    width, height = whole.size
    sizes = [(round(width * scale), round(height * scale)) for scale in (0.5, 0.71, 0.9, 1.0)]
    smaller = [whole.resize(size, Image.Resampling.LANCZOS) for size in sizes]
    return [
        *(encoded(one, quality=quality) for one in smaller for quality in (30, 60, 95)),
        *(encoded(one, "PNG") for one in smaller),
    ]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("scenes")
    make_sample_dataset(folder, train=20, test=1, seed=5)
    return [path.read_bytes() for path in sorted((folder / "train/JPEGImages").iterdir())]


def test_every_copy_of_a_scene_is_found_and_no_other_scene(scenes: list[bytes]) -> None:
    assert alike(*scenes) == []
    for scene in scenes[:3]:
        every = copies(scene)
        assert alike(scene, *every) == [str(1 + index) for index in range(len(every))]


def test_photographs_of_one_fridge_are_different_pictures(shared_dir: Path) -> None:
    paths = sorted((shared_dir / "data/fridge/train/JPEGImages").iterdir())
    photographs = [path.read_bytes() for path in paths]
    assert len(photographs) == 20
    assert alike(*photographs) == []
    assert len(alike(photographs[0], *copies(photographs[0]))) == 16


def test_a_picture_of_another_shape_or_with_one_other_thing_is_another_picture() -> None:
    plain = picture((192, 128), seed=3)
    stretched = plain.resize((192, 160))
    other = plain.copy()
    other.paste((250, 250, 250), (120, 40, 150, 70))
    assert alike(*(encoded(image, "PNG") for image in (plain, stretched, other))) == []
    # The same colours in grey: a hash of grey values would not know.
    red, green = (Image.new("RGB", (160, 120), color) for color in ((200, 30, 30), (30, 117, 30)))
    for image in (red, green):
        image.paste((255, 255, 255), (20, 20, 60, 100))
    assert alike(encoded(red, "PNG"), encoded(green, "PNG")) == []


def test_looks_are_compared_in_pieces_with_all_earlier_ones(
    scenes: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from appliance.annotations.checks import near_duplicates

    small = encoded(picture((80, 60), seed=1), quality=50)
    data = [*scenes, copies(scenes[0])[0], small, copies(scenes[19])[5]]
    for pairs_at_once in (1, 50, 1_000_000):
        monkeypatch.setattr(near_duplicates, "_PAIRS_AT_ONCE", pairs_at_once)
        assert alike(*data) == ["20", "22"]


def test_frames_of_a_film_are_each_found_once(scenes: list[bytes]) -> None:
    frames = [
        encoded(image, quality=quality)
        for image, quality in itertools.product([Image.open(io.BytesIO(scenes[0]))], range(40, 90))
    ]
    assert alike(*frames) == [str(index) for index in range(1, 50)]


def test_the_check_warns_of_copies_in_a_part_and_between_parts(tmp_path: Path) -> None:
    for part, first_seed in (("train", 0), ("test", 50)):
        for index in range(5):
            add(tmp_path / part, f"p{index}", EGG, MILK, seed=first_seed + index)
    image = picture((96, 64), seed=0)
    # In the same part, in another one, and an exact copy of what is told already.
    poor = encoded(image, quality=60)
    add(tmp_path / "train", "poor", EGG, MILK, data=poor)
    add(tmp_path / "train", "poor_again", EGG, MILK, data=poor)
    add(tmp_path / "test", "leaked", EGG, MILK, data=encoded(image, quality=85))
    findings = [str(finding) for finding in check_dataset(tmp_path)]
    train, test = (tmp_path / part / "JPEGImages" for part in ("train", "test"))
    assert findings == [
        (
            f"warning: {train}/poor.jpg: looks like {train}/p0.jpg: the same picture, re-encoded or "
            "resized? [picture-look-alike]"
        ),
        (
            f"warning: {train}/poor_again.jpg: same file as {train}/poor.jpg, annotated alike "
            "[picture-doubled]"
        ),
        (
            f"warning: {test}/leaked.jpg: looks like {train}/p0.jpg of train: if it is the same picture, "
            "re-encoded or resized, test measures too well [picture-look-alike]"
        ),
    ]


def test_a_picture_of_one_colour_has_no_look(tmp_path: Path) -> None:
    for index, grey in enumerate((100, 101)):
        blank = encoded(Image.new("RGB", (96, 64), (grey, grey, grey)), "PNG")
        add(tmp_path, f"blank{index}", EGG, MILK, data=blank, extension="png")
    for index in range(5):
        add(tmp_path, f"p{index}", EGG, MILK, data=jpeg_bytes(seed=index))
    assert {finding.code for finding in check_dataset(tmp_path)} == {"picture-blank"}
    assert np.array_equal(look_of(jpeg_bytes()).thumbnail, look_of(jpeg_bytes()).thumbnail)
