"""A polite stop: the first signal asks for the end, the second ends the process at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGTERM, CTRL_C = "SIGTERM", "Ctrl-C"
_NAMES = {signal.SIGTERM: SIGTERM, signal.SIGINT: CTRL_C}


class StopRequest:
    """Whether a stream was asked to end.

    A handler of a signal may run while its own thread holds any lock, so this is a plain attribute that others
    look at.

    Attributes:
        reason: `SIGTERM`, `Ctrl-C` or any other word; None until then.
    """

    def __init__(self) -> None:
        self.reason: str | None = None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Asks to stop at the first SIGTERM or Ctrl-C within the block. At the second the process is gone.

    Nothing is lost by that: the ledger and the parts agree at any moment.
    """
    request = StopRequest()

    def handle(number: int, _: object) -> None:
        if request.reason is not None:
            os._exit(128 + number)
        request.reason = _NAMES[signal.Signals(number)]

    before = {number: signal.signal(number, handle) for number in _NAMES}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
