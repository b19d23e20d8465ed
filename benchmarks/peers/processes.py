"""Runs a peer as a group of processes that is certainly stopped, and watches what memory it takes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil

_MIB = 2**20
_GRACE_S = 20.0
_SAMPLE_EVERY_S = 2.0
"""A look at a dozen processes takes a part of the cores that are measured."""
_TAIL_LINES = 6


class PeerFailedError(Exception):
    """A peer that does not start, or ends before its time; says what it said last."""


class Running:
    """A command and all processes that come of it.

    Args:
        command: Started in a session of its own, so that Ctrl-C reaches this process alone, which then stops it.
        environment: Variables besides those of this process.
        folder: Where it runs.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self.started_s = time.perf_counter()
        self._process = subprocess.Popen(
            list(command),
            stdout=self._said,
            stderr=self._said,
            cwd=folder,
            env={**os.environ, **environment},
            start_new_session=True,
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Asks it to end, and kills what is left of it after a while."""
        every = self._tree()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        every = [*every, *self._tree()]
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        _, left = psutil.wait_procs(every, timeout=3)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=10)
        self._process.wait()
        self._said.close()

    def alive(self) -> bool:
        """Whether the command itself still runs."""
        return self._process.poll() is None

    def said(self) -> str:
        """The last lines that it wrote."""
        self._said.seek(0)
        lines = [line for line in self._said.read().splitlines() if line.strip()]
        return "\n".join(lines[-_TAIL_LINES:])

    def wait(self, timeout_s: float) -> None:
        """Waits for its end.

        Raises:
            PeerFailedError: It takes longer, or ends with an exit code other than 0.
        """
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise PeerFailedError(f"not done after {timeout_s:g} s: {self.said()}") from None
        if code != 0:
            raise PeerFailedError(f"exit code {code}: {self.said()}")

    def memory_mib(self) -> int:
        """Proportional memory (PSS) of all its processes together, in MiB."""
        total = 0
        for process in self._tree():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return round(total / _MIB)

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[int]]:
        """Fills a list with the memory in MiB, every two seconds for the length of a block, and at its end."""
        samples = [self.memory_mib()]
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_SAMPLE_EVERY_S):
                samples.append(self.memory_mib())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield samples
        finally:
            over.set()
            watcher.join()
            samples.append(self.memory_mib())

    def _tree(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.Error:
            return []


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
