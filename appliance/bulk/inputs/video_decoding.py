"""Videos decoded by FFmpeg, through PyAV of the extra `video`: packets, frames, and pixels as they are shown."""

from __future__ import annotations

import contextlib
import functools
import math
from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from appliance.bulk.inputs.streams import open_sequential
from appliance.errors import ConfigError, StorageError
from appliance.storage.failures import explained, transient

if TYPE_CHECKING:
    from av import Packet, VideoFrame

# Demuxers that read one file. Others would open the files and addresses that a playlist names.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo"
_INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")
# How far before a frame to look for a keyframe, where the one that the file gives is too late.
_SEEK_BACK_S = (0, 2, 10, 60)


class OpenVideo:
    """A video that stands at its beginning, or before a frame that was sought.

    Args:
        uri: The file.
        max_pixels: Frames that are much larger are not decoded.

    Raises:
        ConfigError: PyAV is not installed.
        StorageError: The file cannot be opened, or is no video.
    """

    def __init__(self, uri: str, max_pixels: int) -> None:
        self._av = _import_av()
        self._explained = functools.partial(explained, "Cannot read the video", uri)
        with contextlib.ExitStack() as stack, self._explained():
            file: Any = stack.enter_context(open_sequential(uri))
            with self._forgiving() as faults:
                container = self._av.open(
                    file,
                    container_options={"format_whitelist": _FORMATS},
                    metadata_errors="replace",
                )
            for error in faults:
                raise StorageError(
                    "The video cannot be opened",
                    where=uri,
                    got=error.strerror,
                    expected="MP4, QuickTime, Matroska, WebM, AVI or MPEG",
                    hint="It may be damaged or copied in part",
                )
            self._container = stack.enter_context(container)
            stream = self._container.streams.best("video")
            if stream is None:
                raise StorageError("The file holds no video", where=uri, got="sound only")
            if stream.codec_context is None:
                raise StorageError("The coding of the video is not known", where=uri)
            self._stream: Any = stream
            self._closing = stack.pop_all()
        self._demuxed = self._container.demux(self._stream)
        self._ahead: deque[Packet[Any]] = deque()
        context = self._stream.codec_context
        # Where a video is damaged, several threads make other pixels every time.
        context.thread_count = 1
        # Frames are told from it by their own size: it counts the margins that decoders need.
        context.options = {"max_pixels": str(2 * max_pixels + 2**20)}
        self.size_hw = (int(context.height), int(context.width))

    def close(self) -> None:
        """Closes the file."""
        self._closing.close()

    def packets(self) -> Iterator[Packet[Any]]:
        """What is left of the encoded video, up to where it cannot be followed any more."""
        while self._ahead or self._read_ahead():
            yield self._ahead.popleft()

    def frames(self) -> Iterator[VideoFrame]:
        """Decodes what is left, in the order of showing; what cannot be decoded is left out."""
        for packet in chain(self.packets(), (None,)):
            with self._forgiving():
                yield from self._stream.decode(packet)

    def seek(self, pts: int) -> bool:
        """Goes to a keyframe that is shown at `pts` or before; begin `frames` anew.

        Where the file has no index it does nothing: what comes first there has no time of its own, and is
        given a wrong one. Where it finds none, the place is lost.
        """
        if self._container.format.name not in _INDEXED:
            return False
        for back_s in _SEEK_BACK_S:
            self._ahead.clear()
            with self._forgiving():
                self._container.seek(
                    pts - int(back_s / self._stream.time_base), stream=self._stream
                )
                self._demuxed = self._container.demux(self._stream)
                while self._read_ahead():
                    if self._ahead[-1].is_keyframe:
                        break
                    self._ahead.clear()
            if self._ahead and _is_until(self._ahead[-1], pts):
                return True
        return False

    def skip_to(self, pts: int) -> None:
        """Leaves out what need not be decoded from here on for the frame shown at `pts`."""
        while not (self._ahead and _is_behind(self._ahead[-1], pts)) and self._read_ahead():
            # Of what follows a keyframe, only what is shown before it needs more than that.
            if self._ahead[-1].is_keyframe and _is_until(self._ahead[-1], pts):
                self._stream.codec_context.flush_buffers()
                self._ahead = deque((self._ahead[-1],))

    def _read_ahead(self) -> bool:
        with self._explained(), self._forgiving():
            for packet in self._demuxed:
                if packet.size:
                    self._ahead.append(packet)
                    return True
        return False

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[list[OSError]]:
        """Ends a block where a file is damaged, and gives the error; one of its store is raised."""
        faults: list[Any] = []
        try:
            yield faults
        except self._av.FFmpegError as error:
            faults.append(error)
        except OSError as error:
            if transient(error):
                raise
            faults.append(error)  # a damaged file may lead to a place that is none


def _is_until(packet: Packet[Any], pts: int) -> bool:
    return packet.pts is not None and packet.pts <= pts


def _is_behind(packet: Packet[Any], pts: int) -> bool:
    """Whether all that is shown at `pts` or before, and what it needs, has come before a packet."""
    starts_later = packet.is_keyframe and not _is_until(packet, pts)
    return starts_later or (packet.dts is not None and packet.dts > pts)


class Walk:
    """Goes forward through numbered frames, and may stop between them.

    Args:
        frames: Each with its number; the numbers rise.

    Attributes:
        number: Of the frame where it stands; minus infinity before the first, infinity behind the last.
    """

    def __init__(self, frames: Iterator[tuple[int, VideoFrame]]) -> None:
        self._frames = frames
        self._here: VideoFrame | None = None
        self.number = -math.inf

    @classmethod
    def by_time(cls, frames: Iterator[VideoFrame]) -> Walk:
        """Numbers are the times at which frames are shown."""
        return cls((frame.pts, frame) for frame in frames if frame.pts is not None)

    def forward(self, wanted: int) -> VideoFrame | None:
        """The frame of that number, if there is one and it is sound."""
        while self.number < wanted:
            self.number, self._here = next(self._frames, (math.inf, None))
        if self.number > wanted or self._here is None or self._here.is_corrupt:
            return None
        return self._here


def rgb_pixels(frame: VideoFrame) -> torch.Tensor:
    """The pixels of a frame as it is shown: uint8 RGB `[3, h, w]`, the channels last in memory."""
    rgb = frame.to_ndarray(format="rgb24", threads=1)
    return torch.from_numpy(np.ascontiguousarray(_upright(rgb, frame))).permute(2, 0, 1)


def _upright(rgb: np.ndarray[Any, Any], frame: VideoFrame) -> np.ndarray[Any, Any]:
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return rgb
    # A point (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(bytes(side_data), np.int32)[:5].tolist()
    if abs(b) > abs(a):
        rgb, mirrored_x, mirrored_y = rgb.transpose(1, 0, 2), c < 0, b < 0
    else:
        mirrored_x, mirrored_y = a < 0, d < 0
    return rgb[:: -1 if mirrored_y else 1, :: -1 if mirrored_x else 1]


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            "Reading videos needs PyAV",
            got=str(error),
            hint="Install the extra video: pip install 'detection-appliance[video]'",
        ) from None
    return av
