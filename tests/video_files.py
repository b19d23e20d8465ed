"""Videos made with PyAV for tests, and what a plain decoder makes of them."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from factories import picture
from input_reading import read_all

av = pytest.importorskip("av", reason="needs the extra video")

FRAMES = 70
SIZE_WH = (96, 64)
X264 = {"x264-params": "keyint=20:min-keyint=5:bframes=3:open-gop=1"}


def write(
    path,
    codec="libx264",
    options=X264,
    *,
    frames=FRAMES,
    muxing=None,
    pix_fmt="yuv420p",
    size_wh=SIZE_WH,
) -> str:
    """Encodes a scene that moves, no two frames alike."""
    width, height = size_wh
    scene = np.asarray(picture((width + frames, height), seed=1))
    with av.open(str(path), "w", options=muxing or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for index in range(frames):
            pixels = np.ascontiguousarray(scene[:, index : index + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def decoded(path) -> list[np.ndarray]:
    """What a plain decoder makes of a whole file."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def packets(path) -> list:
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def overwrite(path, position: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(position)
        file.write(data)


def hashes(refs, **options) -> list[str]:
    """The hash of each frame, or the kind of its error."""
    found = read_all("video", refs, **options)
    return [frame if isinstance(frame, str) else frame.content_sha256 for frame in found]


def decoded_loosely(path):
    with av.open(path) as container:
        for packet in container.demux(video=0):
            with contextlib.suppress(av.FFmpegError):
                yield from (frame.to_ndarray(format="rgb24") for frame in packet.decode())
