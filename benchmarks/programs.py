"""Programs that a benchmark runs: they end as it ends, and have the time to clear away what they have made."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil

from appliance.errors import ServiceError

_END_TIMEOUT_S = 60.0


def run_program(command: Sequence[str]) -> int:
    """Runs it to its end; gives its exit code."""
    with started(command) as process:
        return int(process.wait())


def told_by(command: Sequence[str]) -> str:
    """Runs it to its end; gives what it printed.

    Raises:
        ServiceError: It failed.
    """
    with started(command, stdout=subprocess.PIPE) as process:
        told = str(process.communicate()[0])
    if process.returncode:
        raise ServiceError(
            "A part of the benchmark failed",
            where=" ".join(command[1:4]),
            got=f"exit code {process.returncode}",
            hint="What it said stands above",
        )
    return told


@contextmanager
def started(command: Sequence[str], stdout: int | None = None) -> Iterator[psutil.Popen]:
    """A program that is told to end, by SIGTERM, when the block ends by an exception; if it hangs it is killed.

    Ctrl-C of a terminal does not reach it: a Python that is just starting would print pages about it.
    """
    with psutil.Popen(
        list(command), stdin=subprocess.DEVNULL, stdout=stdout, text=True, process_group=0
    ) as process:
        try:
            yield process
        except BaseException:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            _wait(process)
            raise


def _wait(process: psutil.Popen) -> None:
    try:
        process.wait(_END_TIMEOUT_S)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()
