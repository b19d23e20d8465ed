"""A camera that speaks RTSP: one client, one stream of MPEG-2 frames over its own connection."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import numpy as np
from video_files import SIZE_WH, av

_SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 32\r\na=control:track\r\n"
)
_HEADERS = {
    "OPTIONS": "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n",
    "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(_SDP)}\r\n",
    "SETUP": "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n",
    "PLAY": "Session: 1\r\n",
}
_FRAME_S = 0.04
_LAST = b"last"


@contextlib.contextmanager
def rtsp_camera(frames: int) -> Iterator[str]:
    """host:port of a camera that shows so many frames to its first client, and then hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_serve, args=(server, frames))
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def _serve(server: socket.socket, frames: int) -> None:
    connection, _ = server.accept()
    with connection, connection.makefile("rb") as lines:
        method = ""
        while method != "PLAY":
            head = []
            while line := lines.readline().decode().strip():
                head.append(line)
            method = head[0].split()[0]
            number = next(line for line in head if line.lower().startswith("cseq"))
            body = _SDP if method == "DESCRIBE" else ""
            answer = f"RTSP/1.0 200 OK\r\n{number}\r\n{_HEADERS[method]}\r\n{body}"
            connection.sendall(answer.encode())
        with contextlib.suppress(OSError):  # the client has had enough
            _show(connection, frames)


def _show(connection: socket.socket, frames: int) -> None:
    """FFmpeg cuts the frames into packets of RTP, which go from a socket of our own to the client."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
        packets.bind(("127.0.0.1", 0))
        host, port = packets.getsockname()
        sender = threading.Thread(target=_encode, args=(host, port, frames))
        sender.start()
        try:
            while (packet := packets.recv(65_536)) != _LAST:
                connection.sendall(b"$\0" + struct.pack(">H", len(packet)) + packet)
        finally:
            sender.join()


def _encode(host: str, port: int, frames: int) -> None:
    width, height = SIZE_WH
    with av.open(f"rtp://{host}:{port}", "w", format="rtp") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = 1
        for index in range(frames):
            started_s = time.monotonic()
            pixels = np.full((height, width, 3), index * 5 % 255, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
            # A camera has its own pace.
            time.sleep(max(0.0, started_s + _FRAME_S - time.monotonic()))
        container.mux(stream.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
        last.sendto(_LAST, (host, port))
