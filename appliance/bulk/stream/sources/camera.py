"""A camera: its frames as they come, the newest where they come faster than they can be scored.

What waits is bounded, and the oldest makes room for what comes, counted. A camera that falls silent or a
connection that breaks is tried again, until the stream is stopped.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from appliance.bulk.inputs.containers import Frame
from appliance.bulk.inputs.video_decoding import rgb_pixels
from appliance.bulk.stream.sources.arrivals import Arrival, NotYet, Source, Waiting
from appliance.errors import ConfigError, ImageError, StorageError
from appliance.images.decoding import DecodedImage
from appliance.storage.failures import reason

if TYPE_CHECKING:
    from av import VideoFrame

logger = logging.getLogger(__name__)

_SILENCE_S = 10.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 30.0


@dataclass(frozen=True)
class CameraAddress:
    """Where a camera is, and how FFmpeg opens it.

    Attributes:
        url: A device or URL, perhaps with a password.
        format: FFmpeg's name of the device or format; None lets it find out.
        options: FFmpeg's, of that format.
    """

    url: str
    format: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> CameraAddress | None:
        """The camera of `/dev/videoN`, `rtsp://...` or `rtsps://...`; None if it is something else."""
        if text.startswith("/dev/video"):
            return cls(text, "v4l2")
        if text.startswith(("rtsp://", "rtsps://")):
            # Over UDP, lost packets are frames with grey blocks.
            return cls(text, "rtsp", {"rtsp_transport": "tcp"})
        return None

    @property
    def shown(self) -> str:
        """The address without user and password."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


class Camera(Source):
    """The frames of a camera.

    Args:
        address: Where it is.
        frame_every: Only every so many frames.
        max_waiting: Frames that may wait; further ones push out the oldest.
        max_pixels: Larger frames give an error record.
    """

    def __init__(
        self, address: CameraAddress, *, frame_every: int, max_waiting: int, max_pixels: int
    ) -> None:
        self.uri = address.shown
        self.in_store = self.is_lasting = False
        self.is_live = True
        self.dropped = 0
        self._address = address
        self._frame_every, self._max_pixels = frame_every, max_pixels
        self._max_waiting = max_waiting
        self._session = uuid.uuid4().hex
        self._changed = threading.Condition()
        self._frames: deque[Arrival] = deque()
        self._failure: StorageError | ConfigError | None = None
        self._stopped = threading.Event()
        self._number = 0

    def stop(self) -> None:
        """Takes no more frames."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def arrivals(self) -> Iterator[Arrival]:
        """The frames that are not given up."""
        # A daemon, since a silent camera keeps it for a while after the end.
        threading.Thread(target=self._capture, name="camera", daemon=True).start()
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._frames or self._failure or self._stopped.is_set()
                )
                if self._stopped.is_set():
                    return
                if self._failure is not None:
                    raise self._failure
                arrival = self._frames.popleft()
            yield arrival

    def done(self, arrival: Arrival) -> None:
        """Nothing is kept of it."""

    def put_back(self, arrival: Arrival, why: NotYet) -> None:
        """Never asked for: each frame is scored or damaged."""
        raise NotImplementedError

    def waiting(self) -> Waiting:
        """The frames that wait here."""
        with self._changed:
            oldest_s = time.monotonic() - self._frames[0].came_s if self._frames else 0.0
            return Waiting(len(self._frames), oldest_s)

    def _capture(self) -> None:
        delay_s = _FIRST_DELAY_S
        while not self._stopped.is_set():
            before = self._number
            try:
                self._read()
                got = "the end of the stream"
            except ConfigError as error:
                self._fail(error)
                return
            except OSError as error:  # PyAV's are of this kind
                got = reason(error)
            if not self._number:
                self._fail(
                    StorageError(
                        "The camera cannot be read",
                        where=self.uri,
                        got=got,
                        hint="Check that it is there and that nothing else uses it",
                    )
                )
                return
            if self._stopped.is_set():
                return
            delay_s = (
                _FIRST_DELAY_S if self._number > before else min(2 * delay_s, _LONGEST_DELAY_S)
            )
            logger.warning("the camera is gone (%s): trying again in %.1f s", got, delay_s)
            self._stopped.wait(delay_s)

    def _read(self) -> None:
        av = _import_av()
        with av.open(
            self._address.url,
            format=self._address.format,
            options=dict(self._address.options),
            timeout=(_SILENCE_S, _SILENCE_S),
        ) as container:
            for frame in container.decode(video=0):
                if self._stopped.is_set():
                    return
                self._add(frame)

    def _add(self, frame: VideoFrame) -> None:
        self._number += 1
        if frame.is_corrupt or (self._number - 1) % self._frame_every:
            return
        # By the clock of this machine, for people; what tells frames apart is their number.
        shown = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        image_uri = f"{self.uri}#time={shown}"
        identity = f"{self._session}-{self._number}"
        fetch = functools.partial(frame_content, frame, image_uri, self._max_pixels)
        with self._changed:
            if len(self._frames) >= self._max_waiting:
                self._frames.popleft()
                self.dropped += 1
            self._frames.append(
                Arrival(image_uri, identity, lambda: identity, fetch, time.monotonic())
            )
            self._changed.notify_all()

    def _fail(self, error: StorageError | ConfigError) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()


def frame_content(frame: VideoFrame, image_uri: str, max_pixels: int) -> Frame:
    """The pixels of a frame and their hash.

    Raises:
        ImageError: It is too large, or of colours that cannot be converted.
    """
    if frame.width * frame.height > max_pixels:
        raise ImageError(
            "The frame is too large",
            kind="too_large",
            where=image_uri,
            got=f"{frame.width}x{frame.height} pixels",
            expected=f"at most {max_pixels:,} pixels",
        )
    try:
        pixels = rgb_pixels(frame)
    except (OSError, ValueError) as error:
        raise ImageError(
            "The colours of the frame cannot be converted to RGB",
            kind="unsupported",
            where=image_uri,
            got=error.args[-1],
        ) from None
    digest = hashlib.sha256(pixels.permute(1, 2, 0).numpy().data).hexdigest()
    return Frame(DecodedImage(pixels, (pixels.shape[1], pixels.shape[2])), digest)


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            "Reading a camera needs PyAV",
            got=str(error),
            hint="Install the extra video: pip install 'detection-appliance[video]'",
        ) from None
    return av
