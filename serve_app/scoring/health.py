"""Whether an engine still answers: what its threads are at, and its answer to a built-in picture.

A thread that hangs raises nothing, so each notes when it begins and ends a piece of work, and one that
takes longer than any client waits is called stuck. An engine that has just answered is believed; one that
has had nothing to do for a while, or has just failed, is asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from appliance.errors import ServiceError

logger = logging.getLogger(__name__)

PATIENCE_S = 2.0
"""How long a health check waits for the built-in picture; no answer by then is not yet a bad one, since
the picture may stand behind others."""


class WorkNotes:
    """When the pieces of work of one kind began and ended. Safe for threads.

    Attributes:
        ended_s: When one last ended well, on the monotonic clock; at first, when this was made.
        failed: Whether the last one failed.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._began_s: dict[object, float] = {}
        self.ended_s = clock_s()
        self.failed = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Notes the block as one piece of work."""
        piece = object()
        self._began_s[piece] = self._clock_s()
        try:
            yield
        except BaseException:
            self.failed = True
            raise
        else:
            self.failed = False
            self.ended_s = self._clock_s()
        finally:
            del self._began_s[piece]

    @property
    def longest_s(self) -> float:
        """How long the piece has been running that began first; 0 when none is."""
        # A copy in one step, since threads may add to it meanwhile.
        began_s = list(self._began_s.values())
        return self._clock_s() - min(began_s) if began_s else 0.0


class EngineHealth:
    """What is known of one engine; all but the notes belongs to the event loop.

    Args:
        probe: Has the engine answer the built-in picture.
        stuck_after_s: A piece of work that takes longer hangs.
        probe_after_s: An engine that has ended nothing for so long is asked; 0 never asks unless it failed.

    Attributes:
        decoding: What the threads that decode are at.
        predicting: What the model's threads are at.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[object]],
        *,
        stuck_after_s: float,
        probe_after_s: float,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.decoding = WorkNotes(clock_s)
        self.predicting = WorkNotes(clock_s)
        self._probe = probe
        self._stuck_after_s = stuck_after_s
        self._probe_after_s = probe_after_s
        self._clock_s = clock_s
        self._probing: asyncio.Task[ServiceError | None] | None = None

    def require_moving(self) -> None:
        """Looks at the threads; asks nobody.

        Raises:
            ServiceError: One of them hangs.
        """
        for what, notes in (("batch", self.predicting), ("picture", self.decoding)):
            if (longest_s := notes.longest_s) > self._stuck_after_s:
                raise ServiceError(
                    "The model does not answer",
                    got=f"a {what} in work for {longest_s:.0f} s",
                    expected=f"at most {self._stuck_after_s:g} s",
                )

    async def check(self) -> None:
        """Looks at the threads, and has the built-in picture answered where that is not known to work.

        Raises:
            ServiceError: A thread hangs, or the built-in picture was not answered.
        """
        self.require_moving()
        if self._probing is None:
            if not self._is_in_doubt():
                return
            self._probing = asyncio.create_task(self._answer_picture(), name="health probe")
        # Shared by all who ask, and it goes on when they stop waiting.
        done, _ = await asyncio.wait({self._probing}, timeout=PATIENCE_S)
        self.require_moving()
        problem = done.pop().result() if done else None
        if problem is not None:
            raise problem

    def _is_in_doubt(self) -> bool:
        if self.predicting.failed:
            return True
        idle_s = self._clock_s() - self.predicting.ended_s
        return 0 < self._probe_after_s < idle_s and self.predicting.longest_s == 0

    async def _answer_picture(self) -> ServiceError | None:
        try:
            await self._probe()
        except Exception as error:
            # Its text may name what is no client's business.
            logger.exception("the model fails on the built-in picture")
            return ServiceError("The model does not answer", got=type(error).__name__)
        else:
            return None
        finally:
            self._probing = None
