"""Videos that are damaged, cut, oversized, or none at all."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest
from input_reading import refs_of
from video_files import (
    SIZE_WH,
    av,
    decoded,
    decoded_loosely,
    hashes,
    overwrite,
    packets,
    write,
)

from appliance.bulk.inputs.listing import PictureRef
from appliance.bulk.inputs.opening import open_container
from appliance.bulk.inputs.video_decoding import OpenVideo
from appliance.bulk.inputs.videos import list_video
from appliance.errors import ImageError, StorageError
from appliance.images.decoding import ImageLimits

LIMITS = ImageLimits()
FASTSTART = {"movflags": "faststart"}


def test_a_damaged_frame_is_an_error_of_that_frame(tmp_path):
    path = write(tmp_path / "v.mov", "mjpeg", {}, pix_fmt="yuvj420p", frames=50)
    refs = refs_of(list_video(path))
    expected = hashes(refs)
    for index in (3, 40):
        position, size = packets(path)[index]
        overwrite(path, position, bytes(size))
        expected[index] = "unreadable"
    assert refs_of(list_video(path)) == refs
    assert hashes(refs) == expected
    assert hashes(refs[40:]) == expected[40:]
    assert hashes(refs[3::37]) == expected[3::37]


def test_a_damaged_keyframe_leaves_what_follows_the_next_one_alone(tmp_path):
    path = write(tmp_path / "v.mp4", options={"g": "20", "bf": "0", "sc_threshold": "0"})
    refs = refs_of(list_video(path))
    expected = hashes(refs)
    position, size = packets(path)[40]
    overwrite(path, position, bytes(size))
    found = hashes(refs)
    assert found[:41] == [*expected[:40], "unreadable"]
    assert found[60:] == expected[60:]
    assert hashes(refs[40:41]) == ["unreadable"]
    assert hashes(refs[60:]) == expected[60:]


def test_a_video_that_was_cut_short_has_its_last_frames_in_error(tmp_path):
    path = write(tmp_path / "v.mp4", muxing=FASTSTART)
    refs = refs_of(list_video(path))
    expected = hashes(refs)
    position, size = packets(path)[50]
    (tmp_path / "v.mp4").write_bytes((tmp_path / "v.mp4").read_bytes()[: position + size // 2])
    cut = refs_of(list_video(path))
    assert 45 < len(cut) <= 51
    found = hashes(cut)
    assert found[:45] == expected[:45]
    assert found[-1] == hashes(cut[-1:])[0] == "unreadable"


def test_a_recording_that_begins_in_the_midst_begins_with_what_can_be_decoded(tmp_path):
    path = write(tmp_path / "v.ts")
    data = (tmp_path / "v.ts").read_bytes()
    (tmp_path / "v.ts").write_bytes(data[len(data) // 188 // 3 * 188 :])
    refs = refs_of(list_video(path))
    assert 20 < len(refs) < 50
    assert refs[0].position == 0
    expected = [hashlib.sha256(pixels).hexdigest() for pixels in decoded(path)]
    assert hashes(refs) == expected
    assert hashes(refs[5:]) == expected[5:]


def test_times_that_go_back_are_not_relied_on(tmp_path):
    path = write(tmp_path / "v.ts", frames=30)
    data = (tmp_path / "v.ts").read_bytes()
    (tmp_path / "v.ts").write_bytes(data + data)
    refs = refs_of(list_video(path))
    expected = [hashlib.sha256(pixels).hexdigest() for pixels in decoded(path)]
    assert {ref.member for ref in refs} == {""}
    assert len(refs) == len(expected) > 30
    assert hashes(refs) == expected
    assert hashes(refs[35:]) == expected[35:]


def test_a_video_whose_packets_are_mostly_no_frames_is_counted_by_its_frames(tmp_path):
    path = write(tmp_path / "v.mov", "mjpeg", {}, pix_fmt="yuvj420p", frames=20)
    for position, size in packets(path)[1::2]:
        overwrite(path, position, bytes(size))
    refs = refs_of(list_video(path))
    assert len(refs) == 10
    assert hashes(refs) == [hashlib.sha256(pixels).hexdigest() for pixels in decoded_loosely(path)]


def test_a_frame_that_is_not_there_is_an_error(tmp_path):
    path = write(tmp_path / "v.mp4", frames=30)
    refs = refs_of(list_video(path))
    odd = [PictureRef("odd", path, member, 1) for member in ("-5000", "1", "99999999")]
    assert hashes([*odd, refs[3]]) == [*["unreadable"] * 3, hashes(refs)[3]]
    with open_container("video", path, LIMITS) as video:
        (fetch,) = video.read(odd[:1])
    with pytest.raises(ImageError, match="The frame cannot be decoded: odd"):
        fetch()


def test_large_frames_are_refused(tmp_path):
    path = write(tmp_path / "v.mp4", frames=3)
    refs = refs_of(list_video(path))
    assert hashes(refs, limits=ImageLimits(max_pixels=96 * 64)) == hashes(refs)
    assert hashes(refs, limits=ImageLimits(max_pixels=96 * 64 - 1)) == ["too_large"] * 3


def test_frames_that_grow_are_refused(tmp_path):
    write(tmp_path / "small.ts", frames=3)
    write(tmp_path / "large.ts", frames=3, size_wh=(192, 128))
    data = (tmp_path / "small.ts").read_bytes() + (tmp_path / "large.ts").read_bytes()
    (tmp_path / "v.ts").write_bytes(data)
    refs = refs_of(list_video(str(tmp_path / "v.ts")))
    found = hashes(refs, limits=ImageLimits(max_pixels=96 * 64))
    assert found == [*hashes(refs)[:3], *["too_large"] * 3]


def test_colours_that_cannot_be_converted_are_told(tmp_path):
    path = str(tmp_path / "v.mkv")
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE_WH, "yuv420p"
        stream.codec_context.colorspace = 8  # YCgCo
        container.mux([*stream.encode(av.VideoFrame(*SIZE_WH, "yuv420p")), *stream.encode()])
    assert hashes(refs_of(list_video(path))) == ["unsupported"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no video at all" * 99,
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{uri}\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile {name}\n",
    ],
)
def test_what_is_no_video_says_so_and_opens_nothing_else(tmp_path, content):
    other = write(tmp_path / "secret.ts", frames=3)
    text = content.replace(b"{uri}", f"file://{other}".encode()).replace(b"{name}", b"secret.ts")
    (tmp_path / "v.mp4").write_bytes(text)
    for read in (list_video, lambda path: open_container("video", path, LIMITS)):
        with pytest.raises(
            StorageError, match=r"The video cannot be opened: .*v\.mp4 .*expected MP4"
        ):
            read(str(tmp_path / "v.mp4"))


def test_sound_is_no_video(tmp_path):
    path = str(tmp_path / "v.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate, sound.pts, sound.time_base = 44100, 0, Fraction(1, 44100)
        container.mux([*stream.encode(sound), *stream.encode()])
    with pytest.raises(StorageError, match=r"The file holds no video: .*v\.mp4"):
        list_video(path)


def test_a_video_without_a_frame_says_so(tmp_path):
    path = write(tmp_path / "v.mov", "mjpeg", {}, pix_fmt="yuvj420p", frames=2)
    for position, size in packets(path):
        overwrite(path, position, bytes(size))
    with pytest.raises(StorageError, match=r"No frames in the video: .*v\.mov"):
        list_video(path)


def test_a_disk_that_fails_is_an_error_of_the_storage():
    with pytest.raises(StorageError, match=r"Cannot read the video: /proc/self/mem .*Input/output"):
        OpenVideo("/proc/self/mem", LIMITS.max_pixels)  # it cannot be read at its beginning


def test_a_coding_that_nobody_knows_is_told(tmp_path):
    path = write(tmp_path / "v.mp4", frames=2)
    data = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "v.mp4").write_bytes(data.replace(b"avc1", b"zzzz"))
    with pytest.raises(StorageError, match=r"The coding of the video is not known: .*v\.mp4"):
        list_video(path)
