"""What the benchmarks of starts ask a service, and what they see of its replicas."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

import psutil

from benchmarks.serving.service import name_of

ANSWER_TIMEOUT_S = 120.0


def answer(url: str, picture: bytes) -> None:
    """Sends a picture until it is answered.

    Raises:
        OSError: It is not, for two minutes.
    """
    end_s = time.monotonic() + ANSWER_TIMEOUT_S
    while True:
        request = urllib.request.Request(  # noqa: S310 - ours
            f"{url}/v1/detect", picture, {"Content-Type": "image/jpeg"}
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S):  # noqa: S310 - ours
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end_s:
                raise
            time.sleep(0.05)


def wait_for_none() -> None:
    """Returns when no replica is left.

    Raises:
        RuntimeError: There is one, for two minutes.
    """
    end_s = time.monotonic() + ANSWER_TIMEOUT_S
    while replicas():
        if time.monotonic() > end_s:
            raise RuntimeError(
                f"there is a replica after {ANSWER_TIMEOUT_S:.0f} s without a request"
            )
        time.sleep(0.2)


def replicas() -> list[psutil.Process]:
    """The processes of all replicas that this one has started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.Error:
            continue
        if words and name_of(words) == "ServeReplica":
            found.append(child)
    return found
