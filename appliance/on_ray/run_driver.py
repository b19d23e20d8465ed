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


def follow(
    fit: Callable[[], Any],
    control: Any,
    on_line: Callable[[dict[str, Any]], None],
    *,
    start_timeout_s: float | None = None,
    stop_timeout_s: float = _STOP_TIMEOUT_S,
) -> Any:
    """Runs a trainer in a thread, and in this one shows its steps and heeds SIGTERM.

    In the main thread Ray Train would take Ctrl-C for itself, for good, and end the process without a
    word; so it is ours, as everywhere.

    Args:
        fit: Runs until the training has ended.
        control: Actor of `on_ray.run_control`.
        on_line: Shown each line of metrics.
        start_timeout_s: How long the first step may take to come; None waits for ever.
        stop_timeout_s: How long the last step may take once it was asked for.

    Returns:
        What `fit` returns.

    Raises:
        TrainingStopped: SIGTERM came, and there was no step to finish.
        ServiceError: No step came in time.
        Exception: What `fit` raises.
    """
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(fit())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for it
            outcome.set_exception(error)

    with _sigterm() as sigterm:
        threading.Thread(target=run, name="ray-train", daemon=True).start()
        started_s = time.monotonic()
        asked_s: float | None = None
        began = False
        while not wait([outcome], timeout=_INTERVAL_S).done:
            lines = _lines(control)
            for line in lines:
                on_line(line)
            began = began or bool(lines)
            now_s = time.monotonic()
            if sigterm.came and not began:
                raise TrainingStopped("Training was stopped before its first step", step=0)
            if sigterm.came and asked_s is None:
                logger.info("stopping after this step")
                control.request_stop.remote()
                asked_s = now_s
            if asked_s is not None and now_s > asked_s + stop_timeout_s:
                raise TrainingStopped("Training was stopped while its workers stood still", step=0)
            if not began and start_timeout_s is not None and now_s > started_s + start_timeout_s:
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


class _Sigterm:
    """Whether SIGTERM came.

    A plain attribute: an Event would wait for its own lock where a second signal interrupts the first in setting it.
    """

    came = False

    def __call__(self, *_: object) -> None:
        self.came = True


@contextmanager
def _sigterm() -> Iterator[_Sigterm]:
    """Takes SIGTERM for the length of a block; elsewhere than in the main thread it never comes."""
    sigterm = _Sigterm()
    if threading.current_thread() is not threading.main_thread():
        yield sigterm
        return
    before = signal.signal(signal.SIGTERM, sigterm)
    try:
        yield sigterm
    finally:
        signal.signal(signal.SIGTERM, before)
