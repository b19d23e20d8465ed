"""Frames of videos: the very same from wherever reading begins, in every kind of file."""

from __future__ import annotations

import hashlib
import struct
import sys

import numpy as np
import pytest
from factories import picture
from input_reading import names_of, read_all, refs_of
from video_files import (
    FRAMES,
    SIZE_WH,
    X264,
    av,
    decoded,
    hashes,
    overwrite,
    write,
)

from appliance import storage
from appliance.bulk.inputs.containers import Frame
from appliance.bulk.inputs.listing import PictureRef
from appliance.bulk.inputs.videos import EXTENSIONS, list_video
from appliance.errors import ConfigError
from appliance.images.decoding import ImageLimits

LIMITS = ImageLimits()
X265 = {"x265-params": "keyint=20:bframes=3:open-gop=1:log-level=none"}
STRIP_BY_STRIP = {"x264-params": "intra-refresh=1:keyint=20"}


@pytest.mark.parametrize(
    ("name", "codec", "options", "has_times"),
    [
        ("v.mp4", "libx264", X264, True),
        ("v.ts", "libx264", X264, True),
        ("v.mkv", "libx265", X265, True),
        ("v.avi", "mpeg4", {"g": "20", "bf": "2"}, True),
        ("v.mpg", "mpeg2video", {"g": "20", "bf": "2"}, True),
        ("v.webm", "libvpx-vp9", {"g": "20", "deadline": "realtime", "cpu-used": "8"}, True),
        ("v.mov", "mjpeg", {}, True),
        # AVI has no times for frames that are stored in another order than they are shown in.
        ("v2.avi", "libx264", X264, False),
        ("v3.mp4", "libx264", STRIP_BY_STRIP, False),
        ("v4.ts", "libx264", STRIP_BY_STRIP, False),
    ],
)
def test_frames_are_the_same_from_wherever_reading_begins(
    tmp_path, name, codec, options, has_times
):
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write(tmp_path / name, codec, options, pix_fmt=pix_fmt)
    expected = [hashlib.sha256(pixels).hexdigest() for pixels in decoded(path)]
    refs = refs_of(list_video(path))
    assert [ref.position for ref in refs] == list(range(FRAMES))
    assert {bool(ref.member) for ref in refs} == {has_times}
    assert len(set(expected)) == FRAMES
    assert hashes(refs) == expected
    assert hashes(refs, threads=8) == expected
    for begin in range(1, FRAMES, 4):
        assert hashes(refs[begin : begin + 6]) == expected[begin : begin + 6]
    for every in (7, 17, 33):
        assert hashes(refs[::every]) == expected[::every]
    there_and_back = [40, 45, 10, 69, 9, 10, 10, 0, 69]
    assert hashes([refs[n] for n in there_and_back]) == [expected[n] for n in there_and_back]


def test_a_frame_is_what_a_decoded_picture_is(tmp_path):
    path = write(tmp_path / "v.mp4")
    refs = refs_of(list_video(path, 5))
    assert len(refs) == 14
    assert refs[2] == PictureRef(f"{path}#frame=10", path, refs[2].member, 10)
    frame = read_all("video", refs)[2]
    assert isinstance(frame, Frame)
    assert frame.image.size_hw == (64, 96)
    assert frame.image.pixels.permute(1, 2, 0).is_contiguous()
    pixels = frame.image.pixels.permute(1, 2, 0).numpy()
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, decoded(path)[10])
    shown = np.asarray(picture((96 + FRAMES, 64), seed=1))[:, 10:106].astype(int)
    assert np.abs(pixels - shown).mean() < 6


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((1, 0, 0, 1), lambda pixels: pixels),
        ((0, 1, -1, 0), lambda pixels: np.rot90(pixels, -1)),  # as phones do that are held upright
        ((-1, 0, 0, -1), lambda pixels: np.rot90(pixels, 2)),
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, 1), lambda pixels: pixels[:, ::-1]),
        ((0, 1, 1, 0), lambda pixels: pixels.transpose(1, 0, 2)),
    ],
)
def test_frames_are_turned_as_the_file_says(tmp_path, matrix, turned):
    path = write(tmp_path / "v.mp4", frames=2)
    stored = decoded(path)[1]
    header = (tmp_path / "v.mp4").read_bytes().index(b"tkhd")
    a, b, c, d = (65536 * value for value in matrix)
    overwrite(path, header + 44, struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30))
    frame = read_all("video", refs_of(list_video(path)))[1]
    pixels = frame.image.pixels.permute(1, 2, 0)
    assert np.array_equal(pixels, turned(stored))
    assert pixels.is_contiguous()
    assert frame.image.size_hw == turned(stored).shape[:2]


@pytest.mark.parametrize(("matrix", "full_range"), [("ITU709", False), ("ITU601", True)])
def test_colours_are_those_that_the_file_means(tmp_path, matrix, full_range):
    colour = (200, 60, 30)
    path = str(tmp_path / "v.mp4")
    colours = {"ITU709": 1, "ITU601": 6}[matrix], 2 if full_range else 1
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = *SIZE_WH, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = colours
        frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), colour, np.uint8), format="rgb24")
        yuv = frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=colours[1])
        container.mux([*stream.encode(yuv), *stream.encode()])
    (frame,) = read_all("video", refs_of(list_video(path)))
    assert np.abs(frame.image.pixels.float().mean((1, 2)).numpy() - colour).max() < 3


def test_frames_that_the_file_leaves_out_are_no_frames(tmp_path):
    path = write(tmp_path / "v.mp4")
    whole = decoded(path)
    edits = (tmp_path / "v.mp4").read_bytes().index(b"elst") + 4
    version, count, duration, begin, rate = struct.unpack(
        ">IIIiI", (tmp_path / "v.mp4").read_bytes()[edits : edits + 20]
    )
    overwrite(
        path, edits, struct.pack(">IIIiI", version, count, duration - 400, begin + 10 * 512, rate)
    )
    refs = refs_of(list_video(path))
    assert len(refs) == FRAMES - 10
    expected = [hashlib.sha256(pixels).hexdigest() for pixels in whole[10:]]
    assert hashes(refs) == expected
    assert hashes(refs[25:]) == expected[25:]


def test_a_video_may_lie_in_a_bucket(s3_uri, tmp_path):
    local = write(tmp_path / "v.mp4")
    storage.write_bytes(f"{s3_uri}/a b.mp4", (tmp_path / "v.mp4").read_bytes())
    refs = refs_of(list_video(f"{s3_uri}/a b.mp4?scheme=http", 9))
    assert refs[1].image_uri == f"{s3_uri}/a b.mp4?scheme=http#frame=9"
    assert hashes(refs) == hashes(refs_of(list_video(local, 9)))
    assert hashes(refs[4:]) == hashes(refs)[4:]


def test_a_step_must_be_one_at_least(tmp_path):
    with pytest.raises(ConfigError, match="--every is too small .got 0"):
        list_video(str(tmp_path / "v.mp4"), 0)


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        ConfigError, match=r"needs PyAV.*pip install 'detection-appliance\[video\]'"
    ):
        list_video(str(tmp_path / "v.mp4"))


def test_every_ending_is_that_of_a_video(tmp_path):
    for ending in EXTENSIONS:
        codec = (
            "libvpx-vp9" if ending == ".webm" else "mpeg2video" if "mp" in ending[:3] else "libx264"
        )
        path = write(
            tmp_path / f"v{ending}", "libx264" if ending == ".mp4" else codec, {}, frames=5
        )
        assert len(names_of(list_video(path))) == 5
