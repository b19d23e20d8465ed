"""One JSON line a request, on the logger `serve_app.access`.

Raw paths, queries, headers and bodies are never logged: they may hold keys and pictures.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import stat
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler

logger = logging.getLogger("serve_app.access")
_own_logger = logging.getLogger(__name__)

_to_json = json.JSONEncoder(separators=(",", ":")).encode

STANDARD_ERROR = "-"


class _PipeHandler(logging.Handler):
    """Writes into a named pipe that somebody else reads, and never waits for that."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)

    def emit(self, record: logging.LogRecord) -> None:
        text = (self.format(record) + "\n").encode("utf-8", "replace")
        with contextlib.suppress(OSError):  # full, or nobody reads it: the request matters more
            # So much is written whole or not at all, whoever else writes.
            for start in range(0, len(text), select.PIPE_BUF):
                os.write(self._pipe, text[start : start + select.PIPE_BUF])

    def close(self) -> None:
        super().close()
        os.close(self._pipe)


class _FileHandler(WatchedFileHandler):
    """Appends to a file. A disk that is full, or a folder that is gone, costs lines and no request."""

    _error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        failed_before, self._error = self._error is not None, None
        try:
            super().emit(record)
        except OSError as error:
            self._error = error
        if self._error is not None and not failed_before:
            _own_logger.warning("the access log cannot be written: %s", self._error)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what did not fit before does not fit now
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name in logging
        self._error = sys.exception()


def write_access_log_to(place: str) -> None:
    """Has the lines written, by themselves and not once more by whoever listens to all loggers.

    Args:
        place: A file to append to, which others may rotate; a named pipe, which then gets warnings and failures of
            the whole process, too; `-` is standard error; empty is nowhere.
    """
    for listener in (logger, logging.getLogger()):
        for handler in listener.handlers[:]:
            if listener is logger or isinstance(handler, _PipeHandler):
                listener.removeHandler(handler)
                handler.close()
    logger.propagate = False
    logger.disabled = not place
    if place:
        handler = _handler(place)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def _handler(place: str) -> logging.Handler:
    if place == STANDARD_ERROR:
        # Not `sys.stderr`, in whose place Serve puts a logger of its own, which keeps a thousand lines back.
        return logging.StreamHandler(sys.__stderr__)
    if not (os.path.exists(place) and stat.S_ISFIFO(os.stat(place).st_mode)):
        return _FileHandler(place, encoding="utf-8", delay=True)
    troubles = _PipeHandler(place)
    troubles.setLevel(logging.WARNING)
    logging.getLogger().addHandler(troubles)
    return _PipeHandler(place)


def log_request(facts: Mapping[str, object]) -> None:
    """Writes one line: the time, then `facts`, those that are None left out."""
    if not logger.isEnabledFor(logging.INFO):
        return
    line: dict[str, object] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
    line.update((name, value) for name, value in facts.items() if value is not None)
    # As `logger.info` does, without looking up who called.
    logger.handle(
        logging.LogRecord(logger.name, logging.INFO, __file__, 0, _to_json(line), None, None)
    )
