"""Frames of videos, the same from wherever reading begins.

A frame is known by its number and, where the file gives reliable times, by the time at which it is shown; the
time is what is sought. Where it does not, frames are counted from the beginning. Only what a decoder makes up
for damaged parts may depend on where reading began.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from appliance.bulk.inputs.containers import Fetch, Frame
from appliance.bulk.inputs.listing import Listing, PictureRef
from appliance.bulk.inputs.video_decoding import OpenVideo, Walk, rgb_pixels
from appliance.bulk.inputs.video_times import frame_times
from appliance.errors import ConfigError, ImageError, StorageError
from appliance.images.decoding import DecodedImage, ImageLimits

if TYPE_CHECKING:
    from av import VideoFrame

EXTENSIONS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts")
# From so many on, it is worth looking for a keyframe among the frames that are not wanted.
_SKIPPED_FRAMES = 16


def list_video(uri: str, frame_every: int = 1) -> Listing:
    """Frames 0, n, 2 n, ... of a video; `member` is the time at which each is shown, if it is reliable.

    Args:
        uri: The file.
        frame_every: n.

    Raises:
        ConfigError: `frame_every` is less than 1, or PyAV is not installed.
        StorageError: It cannot be read, or has no frames.
    """
    if frame_every < 1:
        raise ConfigError(
            "--every is too small", got=frame_every, expected="a number of frames, at least 1"
        )
    times = frame_times(uri)
    if not times:
        raise StorageError("No frames in the video", where=uri)
    refs = (
        PictureRef(f"{uri}#frame={n}", uri, "" if times[n] is None else str(times[n]), n)
        for n in range(0, len(times), frame_every)
    )
    return Listing("video", refs)


class Video(AbstractContextManager["Video"]):
    """A video to read frames from.

    Args:
        uri: The file.
        limits: `max_pixels` is for frames.

    Raises:
        ConfigError: PyAV is not installed.
        StorageError: It cannot be read.
    """

    def __init__(self, uri: str, limits: ImageLimits) -> None:
        self._uri, self._max_pixels = uri, limits.max_pixels
        self._video = OpenVideo(uri, limits.max_pixels)
        self._walk: Walk | None = None
        self._position = 0
        # Whether a frame that does not come after leaving out others would not come either way.
        self._skipping_is_sound = False

    def __exit__(self, *exc: object) -> None:
        self._walk = None
        self._video.close()

    def read(self, refs: Sequence[PictureRef]) -> Iterator[Fetch]:
        """One `Fetch` a frame, in the order given; fastest forward.

        Raises:
            StorageError: The store of the video fails.
        """
        too_large = math.prod(self._video.size_hw) > self._max_pixels
        for ref in refs:
            frame = None if too_large else self._frame(ref)
            yield functools.partial(self._picture, ref, frame)

    def _frame(self, ref: PictureRef) -> VideoFrame | None:
        """None where it cannot be decoded."""
        gap = ref.position - self._position
        self._position = ref.position
        wanted = int(ref.member) if ref.member else ref.position
        walk = self._walk
        if walk is None or wanted < walk.number or (ref.member and gap >= _SKIPPED_FRAMES):
            walk = self._nearer(ref, walk)
        frame = walk.forward(wanted)
        if frame is None and not self._skipping_is_sound:
            walk = self._from_the_start(ref)
            frame = walk.forward(wanted)
        self._skipping_is_sound = True
        self._walk = walk
        return frame

    def _nearer(self, ref: PictureRef, walk: Walk | None) -> Walk:
        """A walk that comes to a frame without decoding all before it, if its time is known."""
        if not ref.member:
            return self._from_the_start(ref)
        time = int(ref.member)
        if walk is None or time < walk.number:
            sought = self._video.seek(time)
            walk = Walk.by_time(self._video.frames()) if sought else self._from_the_start(ref)
        self._video.skip_to(time)
        return walk

    def _from_the_start(self, ref: PictureRef) -> Walk:
        self._walk = None
        self._video.close()
        self._video = OpenVideo(self._uri, self._max_pixels)
        frames = self._video.frames()
        return Walk.by_time(frames) if ref.member else Walk(enumerate(frames))

    def _picture(self, ref: PictureRef, frame: VideoFrame | None, /) -> Frame:
        height, width = (frame.height, frame.width) if frame is not None else self._video.size_hw
        if height * width > self._max_pixels:
            raise ImageError(
                "The frame is too large",
                kind="too_large",
                where=ref.image_uri,
                got=f"{width}x{height} pixels",
                expected=f"at most {self._max_pixels:,} pixels",
            )
        if frame is None:
            raise ImageError("The frame cannot be decoded", kind="unreadable", where=ref.image_uri)
        try:
            pixels = rgb_pixels(frame)
        except (OSError, ValueError) as error:
            raise ImageError(
                "The colours of the frame cannot be converted to RGB",
                kind="unsupported",
                where=ref.image_uri,
                got=error.args[-1],
            ) from None
        digest = hashlib.sha256(pixels.permute(1, 2, 0).numpy().data).hexdigest()
        return Frame(DecodedImage(pixels, (pixels.shape[1], pixels.shape[2])), digest)
