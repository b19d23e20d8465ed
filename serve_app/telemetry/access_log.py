"""One JSON line a request, on the logger `serve_app.access`.

Raw paths, queries, headers and bodies are never logged: they may hold keys and pictures.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler

logger = logging.getLogger("serve_app.access")

_to_json = json.JSONEncoder(separators=(",", ":")).encode

STANDARD_ERROR = "-"


def write_access_log_to(place: str) -> None:
    """Has the lines written, by themselves and not once more by whoever listens to all loggers.

    Args:
        place: A file to append to, which others may rotate; `-` is standard error; empty is nowhere.
    """
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.disabled = not place
    if place:
        handler = (
            logging.StreamHandler(sys.stderr)
            if place == STANDARD_ERROR
            else WatchedFileHandler(place, encoding="utf-8", delay=True)
        )
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


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
