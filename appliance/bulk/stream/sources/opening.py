"""What a source is, told by its name: a folder, a video, a camera or lines on standard input."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from appliance import storage
from appliance.bulk.inputs import videos
from appliance.bulk.inputs.addresses import ending_of
from appliance.bulk.inputs.patterns import NameFilter
from appliance.bulk.stream.config import StreamConfig
from appliance.bulk.stream.ledger import Ledger
from appliance.bulk.stream.sources.arrivals import Source
from appliance.bulk.stream.sources.camera import Camera, CameraAddress
from appliance.bulk.stream.sources.lines import LineSource
from appliance.bulk.stream.sources.video_file import VideoFile
from appliance.bulk.stream.sources.watched_folder import WatchedFolder
from appliance.errors import ConfigError, StorageError

STDIN = "-"
_POLL_S, _POLL_STORE_S = 1.0, 5.0

SourceKind = Literal["folder", "video", "camera", "lines"]
_NAMES = {
    "folder": "a folder",
    "video": "a video",
    "camera": "a camera",
    "lines": "standard input",
}
_APPLICABLE = {
    "folder": ("--include", "--exclude", "--once"),
    "video": ("--every", "--once"),
    "camera": ("--every",),
    "lines": ("--once",),
}


@dataclass(frozen=True)
class SourceAddress:
    """A source that was named.

    Attributes:
        kind: What it is.
        uri: Its address, absolute, without passwords.
        camera: Of a camera, how it is opened.
    """

    kind: SourceKind
    uri: str
    camera: CameraAddress | None = None


def parse_source(text: str, config: StreamConfig) -> SourceAddress:
    """Tells what a source is, without opening it.

    Args:
        text: `-`, a camera as of `CameraAddress.parse`, a video file, or else a folder or prefix.
        config: How it will be scored.

    Raises:
        ConfigError: An option does not apply to it, or a pattern cannot be read.
        StorageError: There is no such folder.
    """
    address = _parse(text)
    given = {
        "--include": bool(config.include),
        "--exclude": bool(config.exclude),
        "--every": config.frame_every != 1,
        "--once": config.once,
    }
    for flag, is_given in given.items():
        if is_given and flag not in _APPLICABLE[address.kind]:
            raise ConfigError(
                f"{flag} does not apply to {_NAMES[address.kind]}",
                where=address.uri,
                hint=f"Leave out {flag}",
            )
    NameFilter(config.include, config.exclude)
    return address


def open_source(
    address: SourceAddress, ledger: Ledger, config: StreamConfig, *, descriptor: int | None = None
) -> Source:
    """The source of an address; it begins to read when it is asked for pictures.

    Args:
        address: Which.
        ledger: Knows what has been scored.
        config: How it is read.
        descriptor: Where lines come from; by default standard input.
    """
    limits = config.scoring().limits
    if address.kind == "lines":
        return LineSource(
            sys.stdin.fileno() if descriptor is None else descriptor,
            max_bytes=limits.max_bytes,
            memory_bytes=config.memory_bytes,
        )
    if address.camera is not None:
        return Camera(
            address.camera,
            frame_every=config.frame_every,
            max_waiting=config.batch_size,
            max_pixels=limits.max_pixels,
        )
    if address.kind == "video":
        return VideoFile(address.uri, ledger, limits=limits, frame_every=config.frame_every)
    poll_s = _POLL_STORE_S if storage.is_remote(address.uri) else _POLL_S
    return WatchedFolder(
        address.uri,
        ledger,
        names=NameFilter(config.include, config.exclude),
        max_bytes=limits.max_bytes,
        settle_s=config.settle_s,
        poll_s=poll_s if config.poll_s is None else config.poll_s,
        once=config.once,
    )


def _parse(text: str) -> SourceAddress:
    if text == STDIN:
        return SourceAddress("lines", STDIN)
    camera = CameraAddress.parse(text)
    if camera is not None:
        return SourceAddress("camera", camera.shown, camera)
    uri = storage.absolute(text)
    is_remote = storage.is_remote(uri)
    is_folder = text.endswith("/") or (not is_remote and storage.local_path(uri).is_dir())
    if not is_folder and ending_of(uri) in videos.EXTENSIONS:
        return SourceAddress("video", uri)
    if not is_remote and not storage.local_path(uri).is_dir():
        there = storage.local_path(uri).exists()
        raise StorageError(
            "Not a source of pictures",
            where=uri,
            got="a file of another kind" if there else "nothing",
            expected="a folder, a video, a camera (/dev/video0, rtsp://...) or - for standard input",
        )
    return SourceAddress("folder", uri.rstrip("/") or uri)
