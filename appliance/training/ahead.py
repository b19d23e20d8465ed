"""Batches made ahead of the step that needs them: in one thread, or in processes of their own.

Both give the same batches in the same order; which process makes one decides nothing about it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from types import FrameType
from typing import Protocol, Self, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from appliance.errors import ApplianceError, TrainingError

_BATCHES_AHEAD_EACH = 2


class Pinnable(Protocol):
    """What can be moved to page-locked memory."""

    def pin_memory(self) -> Self:
        """The same in page-locked memory."""


T = TypeVar("T", bound=Pinnable)


def in_thread(
    make: Callable[[int], list[T]], steps: Sequence[int], *, pin: bool = False
) -> Generator[list[T], None, None]:
    """Makes what each step needs in a thread, while the step before it is computed.

    Args:
        make: From a step to its batches.
        steps: In this order.
        pin: Move them to page-locked memory.
    """

    def made(step: int) -> list[T]:
        batches = make(step)
        return [batch.pin_memory() for batch in batches] if pin else batches

    # As in processes: a new thread asks the machine for its number where nobody has set one.
    same_threads = partial(torch.set_num_threads, torch.get_num_threads())
    with ThreadPoolExecutor(1, "batch-loader", initializer=same_threads) as thread:
        pending = [thread.submit(made, step) for step in steps[:1]]
        for step in steps[1:]:
            batches = pending.pop().result()
            pending = [thread.submit(made, step)]
            yield batches
        for last in pending:
            yield last.result()


def in_processes(
    make: Callable[[int], list[T]], steps: Sequence[int], *, workers: int, pin: bool = False
) -> Generator[list[T], None, None]:
    """The same in processes, each some steps ahead.

    They are begun anew instead of forked, for a fork of a process with threads may hang, and end by
    themselves when this process has ended in whatever way.

    Args:
        make: From a step to its batches; it is pickled, with all that it holds.
        steps: In this order.
        workers: Number of processes.
        pin: Move the batches to page-locked memory.

    Raises:
        ApplianceError: `make` raised it, in its process.
        TrainingError: A process died and its batch is due.
    """
    loader = DataLoader(
        _Steps(make),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=_BATCHES_AHEAD_EACH,
        collate_fn=_as_it_is,
        pin_memory=pin,
        multiprocessing_context="spawn",
        # As many threads as here: sums over a picture depend on their number in the last bit.
        worker_init_fn=partial(_begin_process, torch.get_num_threads()),
        # Or it would draw from the generator of the run.
        generator=torch.Generator(),
    )
    batches: Iterator[list[T] | ApplianceError] | None = None
    others = multiprocessing.active_children()
    try:
        with _deaf_to_interrupts(), _own_child_handler():
            batches = iter(loader if steps else ())
        for _ in steps:
            with _dead_processes_told():
                made: list[T] | ApplianceError = next(batches)
            if isinstance(made, ApplianceError):
                raise made
            yield made
    except KeyboardInterrupt:
        # Whoever is told of it keeps the frames of torch, and with them the processes until Python ends: one that
        # is still beginning then finds nobody to ask, and would show a traceback.
        for process in set(multiprocessing.active_children()) - set(others):
            process.terminate()
        raise
    finally:
        # The processes end when nobody has them any more; an error that is kept would keep this frame.
        del batches


class _Steps(Dataset[list[T] | ApplianceError]):
    """The batches of a step by its number.

    An error comes as a value: torch would raise it again as another one, with a traceback in its message.
    """

    def __init__(self, make: Callable[[int], list[T]]) -> None:
        self._make = make

    def __getitem__(self, step: int) -> list[T] | ApplianceError:
        try:
            return self._make(step)
        except ApplianceError as error:
            return error


@contextmanager
def _dead_processes_told() -> Iterator[None]:
    """One sentence for what torch raises where the batch of a dead process is due.

    Raises:
        TrainingError: Instead of that.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
        # The others: it died while its batch was fetched.
        if type(error) is RuntimeError and not str(error).startswith("DataLoader worker"):
            raise
        raise TrainingError(
            "A process that prepared pictures died",
            got=str(error).partition("\n")[0].rstrip(". "),
            hint="Lower cache_mb or loader_workers if memory ran out",
        ) from error.with_traceback(None)  # whose frames would keep the other processes alive


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes begun here never see Ctrl-C: this one does, and ends them, without a traceback of each.

    It does so when all of them have been begun: one whose parent leaves before it has told it what to do would
    show a traceback, too.
    """
    # Python begins it with the first process, and lets Ctrl-C through again after that.
    resource_tracker.ensure_running()
    came: list[tuple[int, FrameType | None]] = []
    handler = signal.getsignal(signal.SIGINT)
    handles = threading.current_thread() is threading.main_thread()
    # The mask is for the processes. Here another thread may get the signal, and this one handles it all the same.
    if handles and callable(handler):
        signal.signal(signal.SIGINT, lambda *told: came.append(told))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if handles and callable(handler):
            signal.signal(signal.SIGINT, handler)
            for told in came[:1]:
                handler(*told)


@contextmanager
def _own_child_handler() -> Iterator[None]:
    """Keeps torch from a signal handler that raises anywhere in the main thread as soon as a process dies.

    A dead process is found all the same, within seconds, where its batch is waited for.
    """
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGCHLD, before)


def _as_it_is(batches: object) -> object:
    return batches


def _begin_process(threads: int, _worker: int) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the one that began it has ended.

    torch compares the parent with whoever it was when its own watch began: of one that was killed while this
    process was still importing, it would never know.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
