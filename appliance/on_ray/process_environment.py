"""What stays this process's own while Ray starts and stops in it: variables, standard error, signals, its token."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

LOOPBACK_VARIABLES = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Has children of this process join a cluster on loopback where it is: else Ray's agent, and the jobs that it starts, look
for a cluster at 127.0.0.1 under the address of a network interface. It is not about Windows or OSX alone."""

_STOPS = (signal.SIGINT, signal.SIGTERM)


def quiet_variables() -> dict[str, str]:
    """Variables that keep Ray off the console, unless the user has set them.

    Ray's native part writes its errors to the standard error of every program that uses it, such as
    that it misses the dashboard, or that Ray Data made an actor in a way Ray Core does not like.
    """
    wanted = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    return {key: os.environ.get(key, value) for key, value in wanted.items()}


def priority_variables() -> dict[str, str]:
    """The variable that gives workers the priority of this process, unless the user has set it.

    Ray has them yield to all others (nice 15), also to its own daemons: with as many threads as cores, a training step
    waits for the one thread that did.
    """
    name = "RAY_worker_niceness"  # as Ray spells it
    return {name: os.environ.get(name, "0")}


def security_variables() -> dict[str, str]:
    """Variables that switch token authentication on, unless the user has decided about it."""
    wanted = {"RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "token")}
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        # Else Ray would leave a token that every user can read in the home folder.
        wanted["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return wanted


def refresh_authentication() -> None:
    """Makes Ray's native part read the variables again; it has kept those of its first use.

    Ray 2.60 does the same, by the same calls, when it switches authentication on by itself.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables of this process for the length of a block."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def native_output_to(path: Path) -> Iterator[None]:
    """Sends what native code writes to standard error into a file.

    When `RAY_BACKEND_LOG_LEVEL` is set, Ray tells so there once, with no way to ask it not to.
    """
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with path.open("ab") as stream:
            os.dup2(stream.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


@contextmanager
def daemons_apart() -> Iterator[None]:
    """Gives Ray's daemons that start in the block a session of their own, out of reach of what signals ours.

    `timeout`, a terminal or `kill -- -GROUP` signal a whole process group. SIGTERM would end Ray's daemons, and with
    them the workers that are to save before this process ends. They still die with this process, however it dies:
    the kernel sees to that by itself (Ray sets `PR_SET_PDEATHSIG`).
    """
    from ray._private import services

    # The one place where Ray 2.60 starts a process; it takes no wish for a session.
    start = services.ConsolePopen
    services.ConsolePopen = partial(start, start_new_session=True)  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        services.ConsolePopen = start  # type: ignore[misc]


@contextmanager
def daemons_on_loopback() -> Iterator[None]:
    """Has Ray's daemons that start in the block, and all that they start, listen on loopback alone.

    On Linux Ray 2.60 takes the address of a network interface and listens on all of them, also when it is told
    127.0.0.1; on other systems it does as here. The variable behind that is read when Ray is imported.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def any_agent_port() -> Iterator[None]:
    """Has the agent of a node that starts in the block listen on any port that is free.

    Ray 2.60 has it take 52365, with no way for `ray.init` to say otherwise; of two clusters on a machine the second
    has an agent that takes no jobs.
    """
    from ray._private import parameter

    before = parameter.RayParams
    parameter.RayParams = partial(before, dashboard_agent_listen_port=0)  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        parameter.RayParams = before  # type: ignore[misc]


@contextmanager
def own_signals() -> Iterator[None]:
    """Puts Ctrl-C and SIGTERM off to the end of the block, and gives both back to whoever had them before.

    A start of Ray that is broken off takes longer to clear away than one that is let finish. And Python drops
    what a handler raises after the forks by which Ray starts its processes. Who cannot wait, for a cluster that
    does not answer, asks a second time. (Ray's native part would take SIGTERM for good, print its own stack and
    end the process without cleaning up.)
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in _STOPS}
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            _handle(handlers[number], number, frame)

    for number in (number for number, handler in handlers.items() if callable(handler)):
        signal.signal(number, note)
    try:
        yield
    except Exception:
        if came:  # what it broke on the way is no error of Ray's
            _handle(handlers[came[0]], came[0], None)
        raise
    finally:
        _restore(handlers)
    if came:
        _handle(handlers[came[0]], came[0], None)


def _restore(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None:  # else it is native code's own, and Python cannot set it
            signal.signal(number, handler)


def _handle(handler: Any, number: int, frame: FrameType | None) -> None:
    if callable(handler):
        handler(number, frame)


class UndisturbedStack(ExitStack):
    """An `ExitStack` that neither Ctrl-C nor SIGTERM keeps from clearing away all that is on it."""

    def __exit__(self, *error: Any) -> bool:
        """Leaves what is on the stack; signals that come meanwhile come to nothing."""
        if threading.current_thread() is not threading.main_thread():
            return bool(super().__exit__(*error))
        handlers: dict[int, Any] = {
            number: signal.signal(number, signal.SIG_IGN) for number in _STOPS
        }
        try:
            return bool(super().__exit__(*error))
        finally:
            _restore(handlers)
