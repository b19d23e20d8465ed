"""What the replicas of a service log, on the standard error of the process that has started them.

Ray keeps what a process writes there in a file of its own, in a folder that goes with a local cluster. So the
replicas write into a named pipe, and a thread of this process copies what comes. They never wait for it: what a
full pipe does not take is lost, not the request.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

from appliance.on_ray.scratch import scratch_folder

_PREFIX = "appliance-log-"
_CHUNK_BYTES = 2**16
_END = b"\0"
"""No log line has it."""
_WAIT_S = 2.0


@contextlib.contextmanager
def replica_lines_on_stderr() -> Iterator[str]:
    """The path of a pipe; what is written into it appears on standard error as long as the block lasts."""
    with scratch_folder(_PREFIX) as folder:
        path = folder / "lines"
        os.mkfifo(path, 0o600)
        # A writer, too: else reading would end with the first replica that does.
        pipe = os.open(path, os.O_RDWR)  # the copier closes it
        copier = threading.Thread(target=_copy, args=(pipe,), name="service log", daemon=True)
        copier.start()
        try:
            yield str(path)
        finally:
            end = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            with contextlib.suppress(BlockingIOError):  # it is full, and nobody reads us either
                os.write(end, _END)
            os.close(end)
            copier.join(_WAIT_S)


def _copy(pipe: int) -> None:
    while _END not in (chunk := os.read(pipe, _CHUNK_BYTES)):
        _tell(chunk)
    _tell(chunk.partition(_END)[0])
    os.close(pipe)


def _tell(chunk: bytes) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
        sys.stderr.write(chunk.decode(errors="replace"))
        sys.stderr.flush()
