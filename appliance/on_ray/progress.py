"""How far a batch job is, on stderr: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
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
    """Counts pictures done, with their rate since the first ones came in.

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
        self._started_s = self._logged_s = time.perf_counter()
        self._counted_from = done
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

    def advance(self, images: int) -> None:
        """So many more pictures are done."""
        self._done += images
        now_s = time.perf_counter()
        per_s = (self._done - self._counted_from) / max(now_s - self._started_s, 1e-9)
        is_first = self._counted_from == self._before
        if is_first:
            # Their time is that of the start: what is measured from here on says how long the rest takes.
            self._started_s, self._counted_from = now_s, self._done
        if self._bar is not None:
            rate = "" if is_first else f"{per_s:.1f} images/s"
            self._bar.update(self._task, advance=images, rate=rate)
            return
        is_last = self._done == self._total
        due = not is_first and now_s - self._logged_s >= LOG_INTERVAL_S
        if self._style == "log" and (due or is_last):
            left = timedelta(seconds=round((self._total - self._done) / per_s))
            speed = "" if is_first else f", {per_s:.1f} images/s, {left} left"
            logger.info("scored %d of %d pictures%s", self._done, self._total, speed)
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
