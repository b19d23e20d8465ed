"""The command's side of a run on a cluster: follows its steps, hands on the wish to stop, waits for its end."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from typing import Any

import ray

from appliance.errors import ServiceError, TrainingStopped

logger = logging.getLogger(__name__)

_INTERVAL_S = 0.25
# A step and its checkpoint should be done by then; workers that wait for a lost node never will be.
_STOP_TIMEOUT_S = 120.0
_REMINDER_S = 60.0


def follow(
    fit: Callable[[], Any],
    control: Any,
    on_line: Callable[[dict[str, Any]], None],
    *,
    stop: StopWish | None = None,
    start_timeout_s: float | None = None,
    stop_timeout_s: float = _STOP_TIMEOUT_S,
) -> Any:
    """Runs a trainer in a thread, and in this one shows its steps and heeds signals.

    In the main thread Ray Train would take Ctrl-C for itself, for good, and end the process without a
    word; so it is ours, as everywhere.

    Args:
        fit: Runs until the training has ended.
        control: Actor of `on_ray.run_control`.
        on_line: Shown each line of metrics.
        stop: Which signals ask for a stop; None for SIGTERM alone.
        start_timeout_s: How long the first step may take to come; None waits for ever.
        stop_timeout_s: How long the last step may take once it was asked for.

    Returns:
        What `fit` returns.

    Raises:
        TrainingStopped: A signal came, and there was no step to finish.
        KeyboardInterrupt: Ctrl-C came a second time.
        ServiceError: No step came in time.
        Exception: What `fit` raises.
    """
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(fit())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for it
            outcome.set_exception(error)

    stop = stop or StopWish()
    with stop.heeded():
        threading.Thread(target=run, name="ray-train", daemon=True).start()
        started_s = time.monotonic()
        told_s = started_s
        asked_s: float | None = None
        began = False
        while not wait([outcome], timeout=_INTERVAL_S).done:
            # Before the lines, so that a step from before the signal is among them.
            came = stop.came
            lines = _lines(control)
            for line in lines:
                on_line(line)
            began = began or bool(lines)
            now_s = time.monotonic()
            if stop.at_once:
                raise KeyboardInterrupt
            if came and not began:
                raise TrainingStopped("Training was stopped before its first step", step=0)
            if came and asked_s is None:
                by_hand = came == signal.SIGINT
                again = "; Ctrl-C again does not wait for that" if by_hand else ""
                logger.info("stopping after this step, which is saved%s", again)
                control.request_stop.remote()
                asked_s = now_s
            if asked_s is not None and now_s > asked_s + stop_timeout_s:
                raise TrainingStopped("Training was stopped while its workers stood still", step=0)
            if not began and start_timeout_s is not None:
                if now_s > told_s + _REMINDER_S:
                    told_s = now_s
                    waited_s = now_s - started_s
                    logger.info(
                        "no room yet: waited %.0f of %.0f s for it", waited_s, start_timeout_s
                    )
                if now_s > started_s + start_timeout_s:
                    raise ServiceError(
                        "The cluster has no room for the workers",
                        got=f"no step in {start_timeout_s:.0f} s",
                        hint="Ask for fewer --workers, or see by `ray status` what the cluster has",
                    )
        for line in _lines(control):
            on_line(line)
    return outcome.result()


def _lines(control: Any) -> list[dict[str, Any]]:
    with suppress(ray.exceptions.RayError):  # of a cluster that is lost, `fit` tells
        return list(ray.get(control.take_lines.remote()))
    return []


class StopWish:
    """Whether and how this process was asked to stop its run: by SIGTERM, or by Ctrl-C where that is taken too.

    Plain attributes: an Event would wait for its own lock where a second signal interrupts the first in setting it.

    Args:
        ctrl_c: Whether the first Ctrl-C asks as SIGTERM does; the second ends the run at once. Else it is left to
            whoever has it.

    Attributes:
        came: The signal that came first, None before that.
        at_once: Whether the run shall not even be waited for.
    """

    def __init__(self, *, ctrl_c: bool = False) -> None:
        self.ctrl_c = ctrl_c
        self.came: int | None = None
        self.at_once = False
        self._interrupted = False

    @property
    def exit_code(self) -> int:
        """Of a command that a signal has stopped, as shells count."""
        return 128 + (self.came or signal.SIGTERM)

    def __call__(self, number: int, _: object) -> None:
        """Handles a signal.

        Raises:
            KeyboardInterrupt: Ctrl-C came a second time.
        """
        self.came = self.came or number
        if number == signal.SIGINT and self._interrupted:
            # From here on there is only cleaning up, which a third one must not interrupt.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self.at_once = True
            raise KeyboardInterrupt
        self._interrupted = self._interrupted or number == signal.SIGINT

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Takes its signals for the length of a block; elsewhere than in the main thread they never come."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        # Who is in the background, or wants to hear nothing of Ctrl-C, has it ignored.
        if not self.ctrl_c or before[signal.SIGINT] is signal.SIG_IGN:
            del before[signal.SIGINT]
        for number in before:
            signal.signal(number, self)
        try:
            yield
        finally:
            if self.at_once:
                before.pop(signal.SIGINT, None)
            for number, handler in before.items():
                if handler is not None:  # else it is native code's own, and Python cannot set it
                    signal.signal(number, handler)
