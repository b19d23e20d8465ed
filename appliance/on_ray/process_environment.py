"""What stays this process's own while Ray starts in it: variables, standard error, SIGTERM, its token."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


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
def own_sigterm() -> Iterator[None]:
    """Gives SIGTERM back to whoever had it before the block.

    Ray's native part takes it, prints its own stack and ends the process without cleaning up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
