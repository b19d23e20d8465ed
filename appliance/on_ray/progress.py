"""How far a batch job is, on stderr: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger(__name__)

ProgressStyle = Literal["auto", "bar", "log", "off"]
LOG_INTERVAL_S = 10.0


class ImageProgress:
    """Counts pictures done, with their rate since the first ones came in.

    Args:
        total: Pictures to do.
        style: "auto" is a bar where stderr is a terminal, log lines elsewhere.
    """

    def __init__(self, total: int, style: ProgressStyle) -> None:
        if style == "auto":
            style = "bar" if sys.stderr.isatty() else "log"
        self._total = total
        self._style = style
        self._done = 0
        self._started = time.perf_counter()
        self._logged = self._started
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if self._style == "bar":
            self._bar = _bar()
            self._task = self._bar.add_task("scoring", total=self._total, rate="starting workers")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, images: int) -> None:
        """So many more pictures are done."""
        self._done += images
        now = time.perf_counter()
        rate = f"{self._done / (now - self._started):.1f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, advance=images, rate=rate)
            return
        due = now - self._logged >= LOG_INTERVAL_S or self._done == self._total
        if self._style == "log" and due:
            logger.info("scored %d of %d pictures, %s", self._done, self._total, rate)
            self._logged = now


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
