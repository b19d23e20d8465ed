"""Videos frame by frame, none twice; and cameras, whose frames are given up rather than gathered."""

from __future__ import annotations

import sys
import threading

import pytest
from rtsp_server import rtsp_camera
from video_files import FRAMES, SIZE_WH, av, write
from watch_cases import (
    one_thread,  # noqa: F401 - a fixture
    rows_of,
    score_once,
    scorer_of,
    streaming,
)

from appliance.bulk.inputs.listing import PictureRef
from appliance.bulk.inputs.opening import list_input, open_container
from appliance.bulk.stream import watcher
from appliance.bulk.stream.ledger import Ledger
from appliance.bulk.stream.sources import camera, opening
from appliance.bulk.stream.sources.camera import Camera, CameraAddress
from appliance.errors import ConfigError, ImageError, StorageError
from appliance.images.decoding import ImageLimits
from appliance.scoring import DecodedUpload, ImageScorer

# A device of FFmpeg's own, which gives 25 frames a second like a camera; for ever, or only for a while.
PATTERN = "testsrc=size=96x64:rate=25,realtime"
SHORT_PATTERN = "testsrc=size=96x64:rate=25:duration=0.2,realtime"


def of_pattern(text):
    return CameraAddress(text, "lavfi")


def numbers(rows, uri):
    return sorted(int(row.image_uri.removeprefix(f"{uri}#frame=")) for row in rows)


def test_a_video_is_scored_frame_by_frame_over_restarts(tiny_model_path, tmp_path):
    """Stopped in the middle; the next run goes on, and no frame is missing or there twice."""
    video = write(tmp_path / "video.mp4")
    out = tmp_path / "out"
    with streaming(tiny_model_path, video, out, batch_size=4, frame_every=2) as stream:
        stream.wait_for_rows(8)
        first = stream.stop()
    assert 8 <= first.images < FRAMES / 2
    assert first.dropped == 0
    second = score_once(tiny_model_path, video, out, batch_size=4, frame_every=2)
    rows = rows_of(out)
    assert numbers(rows, video) == list(range(0, FRAMES, 2))
    assert (second.rows, second.waiting, second.ended) == (FRAMES / 2, 0, "end")
    refs = [PictureRef(**row) for row in list_input(video).table.to_pylist()]
    with open_container("video", video, ImageLimits()) as container:
        frames = [fetch() for fetch in container.read(refs)]
    scorer = scorer_of(str(tiny_model_path))
    uploads = [
        DecodedUpload(frame.image, ref.image_uri, frame.content_sha256)
        for frame, ref in zip(frames, refs, strict=True)
    ]
    wanted = {record.image_uri: record for record in scorer.predict(uploads[::2])}
    assert {row.image_uri: row for row in rows} == wanted


def test_a_damaged_video_ends_in_a_sentence(tiny_model_path, tmp_path):
    (tmp_path / "video.mp4").write_bytes(b"no video")
    with pytest.raises(StorageError, match="video cannot be opened"):
        score_once(tiny_model_path, tmp_path / "video.mp4", tmp_path / "out")


@pytest.fixture
def from_ffmpeg(monkeypatch):
    """Makes any camera one of FFmpeg's patterns."""

    def use(text):
        monkeypatch.setattr(CameraAddress, "parse", lambda _: of_pattern(text))

    return use


def test_frames_that_come_too_fast_are_given_up_and_counted(
    tiny_model_path, tmp_path, from_ffmpeg, monkeypatch
):
    """The scorer waits for two seconds' worth of frames; what waits meanwhile is bounded."""
    from_ffmpeg(PATTERN)
    go_on = threading.Event()
    predict = ImageScorer.predict

    def slow(self, uploads):
        go_on.wait(30)
        return predict(self, uploads)

    monkeypatch.setattr(watcher.ImageScorer, "predict", slow)
    out = tmp_path / "out"
    made = []
    make = opening.Camera

    def noting(*arguments, **settings):
        made.append(make(*arguments, **settings))
        return made[0]

    monkeypatch.setattr(opening, "Camera", noting)
    with streaming(tiny_model_path, "rtsp://camera", out, batch_size=2) as stream:
        stream.wait_for(lambda: made and made[0].dropped >= 10)
        assert made[0].waiting().pictures <= 2
        go_on.set()
        stream.wait_for_rows(12)
        summary = stream.stop()
    rows = rows_of(out)
    assert summary.dropped >= 10
    assert summary.images == len(rows) == len({row.image_uri for row in rows})
    assert all(row.image_uri.startswith(f"{PATTERN}#time=20") for row in rows)
    assert {(row.width_px, row.height_px) for row in rows} == {(96, 64)}
    ledger = Ledger(out / "_ledger.sqlite")
    assert ledger._rows("SELECT COUNT(*) FROM scored") == [(0,)]  # no frame comes twice
    ledger.close()


def test_a_camera_that_breaks_off_is_opened_again(
    tiny_model_path, tmp_path, from_ffmpeg, monkeypatch, caplog
):
    monkeypatch.setattr(camera, "_FIRST_DELAY_S", 0.01)
    from_ffmpeg(SHORT_PATTERN)
    with streaming(
        *(tiny_model_path, "rtsp://camera", tmp_path / "out"),
        frame_every=2,
        max_image_pixels=100,
    ) as stream:
        rows = stream.wait_for_rows(7)
        stream.stop()
    assert "trying again in" in caplog.text
    assert {row.error_kind for row in rows} == {"too_large"}


def test_a_stop_while_a_camera_is_away_is_heard(tiny_model_path, tmp_path, from_ffmpeg, caplog):
    from_ffmpeg(SHORT_PATTERN)
    with streaming(tiny_model_path, "rtsp://camera", tmp_path / "out") as stream:
        stream.wait_for(lambda: "trying again in 0.5 s" in caplog.text)
        assert stream.stop().ended == "SIGTERM"


@pytest.mark.parametrize("source", ["/dev/video99", "rtsp://user:hunter2@127.0.0.1:9/live"])
def test_a_camera_that_is_not_there_ends_in_a_sentence(source, tiny_model_path, tmp_path):
    with (
        streaming(tiny_model_path, source, tmp_path / "out") as stream,
        pytest.raises(StorageError, match="camera cannot be read") as raised,
    ):
        stream.end()
    assert "hunter2" not in str(raised.value)


def test_without_pyav_the_extra_is_named(tiny_model_path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with (
        streaming(tiny_model_path, "/dev/video0", tmp_path / "out") as stream,
        pytest.raises(ConfigError, match="Install the extra video"),
    ):
        stream.end()


def test_a_frame_of_colours_that_cannot_be_converted_is_an_error():
    frame = av.VideoFrame(*SIZE_WH, "yuv420p")
    frame.colorspace = 8  # YCgCo
    with pytest.raises(ImageError, match="colours of the frame cannot be converted"):
        camera.frame_content(frame, "camera#1", 10**6)


def test_a_camera_on_the_network_is_scored_until_it_hangs_up(tiny_model_path, tmp_path, caplog):
    with rtsp_camera(frames=20) as host:
        source = f"rtsp://me:hunter2@{host}/live"
        with streaming(tiny_model_path, source, tmp_path / "out", batch_size=4) as stream:
            stream.wait_for(lambda: "the camera is gone" in caplog.text)
            summary = stream.stop()
    rows = rows_of(tmp_path / "out")
    assert 4 <= len(rows) <= 20
    assert summary.images + summary.dropped <= 20
    assert all(row.image_uri.startswith(f"rtsp://{host}/live#time=") for row in rows)
    assert len({row.content_sha256 for row in rows}) == len(rows)
    assert "hunter2" not in caplog.text + str(summary)


@pytest.mark.parametrize(
    ("text", "kind", "uri"),
    [
        ("-", "lines", "-"),
        ("/dev/video0", "camera", "/dev/video0"),
        ("rtsp://me:pw@host:554/live?x=1", "camera", "rtsp://host:554/live?x=1"),
        ("s3://bucket/a.mp4", "video", "s3://bucket/a.mp4"),
        ("s3://bucket/incoming/", "folder", "s3://bucket/incoming"),
        ("/", "folder", "/"),
    ],
)
def test_a_source_is_told_by_its_name(text, kind, uri):
    address = opening.parse_source(text, watcher.StreamConfig())
    assert (address.kind, address.uri) == (kind, uri)


@pytest.mark.parametrize(
    ("source", "settings", "flag"),
    [
        ("-", {"include": ("*.jpg",)}, "--include"),
        ("rtsp://host", {"once": True}, "--once"),
        ("rtsp://host", {"exclude": ("a",)}, "--exclude"),
        ("/", {"frame_every": 2}, "--every"),
    ],
)
def test_options_that_do_not_apply_are_refused(source, settings, flag):
    with pytest.raises(ConfigError, match=f"{flag} does not apply"):
        opening.parse_source(source, watcher.StreamConfig(**settings))


def test_a_camera_drops_the_oldest():
    live = Camera(of_pattern(PATTERN), frame_every=1, max_waiting=3, max_pixels=10**6)
    frames = live.arrivals()
    first = next(frames)
    reached = threading.Event()
    while live.dropped < 5:
        reached.wait(0.02)
    second = next(frames)
    numbers = [int(arrival.identity.rpartition("-")[2]) for arrival in (first, second)]
    assert numbers[0] == 1
    assert numbers[1] > 5
    live.stop()
    assert list(frames) == []
