"""The line between the command that started a run and the worker that leads it, over any distance.

An actor on the node of the command: rank 0 tells it each line of metrics and waits on it for the wish to
stop; the command asks for the lines it has not seen. Neither waits for the other, and none needs a file
that both can see.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class RunControl:
    """What both sides know; the methods are called from other processes."""

    def __init__(self) -> None:
        self._stop = asyncio.Event()
        self._lines: list[dict[str, Any]] = []

    async def request_stop(self) -> None:
        """From now on the run shall stop after the step it is in."""
        self._stop.set()

    async def stop_requested(self) -> None:
        """Returns when the run shall stop, and not before."""
        await self._stop.wait()

    async def add_line(self, line: dict[str, Any]) -> None:
        """Keeps a line of metrics until it is asked for."""
        self._lines.append(line)

    async def take_lines(self) -> list[dict[str, Any]]:
        """The lines since the last time."""
        lines, self._lines = self._lines, []
        return lines


def start_run_control() -> Any:
    """Starts the actor on this node; it ends with the handle that is returned, or with this process."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(RunControl)
    return actor.options(num_cpus=0, scheduling_strategy=here).remote()


class StopSignal:
    """On the worker: whether the command has asked to stop; asking costs microseconds.

    Args:
        control: The actor of the run.
    """

    def __init__(self, control: Any) -> None:
        self._waiting = control.stop_requested.remote()

    def __call__(self) -> bool:
        """True also when the actor is gone: then nobody waits for the run any more."""
        return bool(ray.wait([self._waiting], timeout=0)[0])
