"""How far a batch job is, on stderr: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import math
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from appliance.bulk.config import ProgressStyle

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 10.0


class ImageProgress:
    """Counts pictures done, with their rate since work on the first of them began.

    Args:
        total: Pictures to do.
        style: "auto" is a bar where stderr is a terminal, log lines elsewhere.
        done: Pictures of these that were done before.
    """

    def __init__(self, total: int, style: ProgressStyle, done: int = 0) -> None:
        if style == "auto":
            style = "bar" if sys.stderr.isatty() else "log"
        self._total = total
        self._style = style
        self._before = self._done = done
        self._began_s = math.inf
        self._logged_s = time.perf_counter()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if self._style == "bar":
            self._bar = _bar()
            self._task = self._bar.add_task(
                "scoring", total=self._total, completed=self._before, rate="starting workers"
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, images: int, began_s: float) -> None:
        """So many more pictures are done.

        Args:
            images: How many.
            began_s: When work on them began, seconds since the epoch. Parts of several workers arrive together,
                so times of arrival say nothing of the rate.
        """
        self._done += images
        self._began_s = min(self._began_s, began_s)
        per_s = (self._done - self._before) / max(time.time() - self._began_s, 1e-3)
        if self._bar is not None:
            self._bar.update(self._task, advance=images, rate=f"{per_s:.1f} images/s")
            return
        now_s = time.perf_counter()
        due = now_s - self._logged_s >= LOG_INTERVAL_S
        if self._style == "log" and (due or self._done == self._total):
            left = timedelta(seconds=round((self._total - self._done) / per_s))
            logger.info(
                "scored %d of %d pictures, %.1f images/s, %s left",
                self._done,
                self._total,
                per_s,
                left,
            )
            self._logged_s = now_s


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
