"""What lies between the moments of a start: phases that follow each other and add up to all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

_REPLICA = (
    ("Ray's own part of the process", "replica: our code"),
    ("torch imported by the replica", "replica: import torch ends"),
    ("service imported by the replica", "replica: imported"),
    ("settings, metrics", "replica: load"),
    ("model loaded", "replica: loaded"),
    ("warm-up", "replica: warmed up"),
    ("routes", "replica: routes"),
)
_PROCESS = "replica: process"
SERVICE = (
    ("Python of the command", "command: our code"),
    ("imports of the command", "command: imported"),
    ("command line read", "command: import ray"),
    ("Ray imported", "command: import ray ends"),
    ("settings checked", "command: import torch"),
    ("torch imported", "command: import torch ends"),
    ("model checked", "command: connect"),
    ("Ray up", "command: connect ends"),
    ("application and Ray Serve imported, model checked", "command: listen"),
    ("Serve's controller and proxy, until HAProxy accepts", "client: connected"),
    ("rest of Serve's start", "command: listen ends"),
    ("decision, process of the replica", _PROCESS),
    *_REPLICA,
    ("ready through HAProxy", "client: ready"),
    ("first answer", "client: answered"),
)
"""From the command to the first answer: what a phase is called, and the moment at which it ends."""

REPLICA = (
    ("decision, process of the replica", _PROCESS),
    *_REPLICA,
    ("known to Serve and HAProxy, answer", "client: answered"),
)
"""From a need for a replica, or the loss of the only one, to the next answer."""


def moments_of(marks: Iterable[Mapping[str, Any]], since_s: float) -> dict[str, float]:
    """The first moment of each name after a time, with that at which the replica's process began.

    Args:
        marks: As `marks.read_marks` gives them.
        since_s: Wall-clock time.
    """
    marks = list(marks)
    # The command imports the class of the replica, too, to hand it to Serve.
    commands = {one["pid"] for one in marks if one["name"].startswith("command")}
    found: dict[str, float] = {}
    for one in marks:
        of_replica = one["name"].startswith("replica")
        if of_replica and one["pid"] in commands:
            continue
        if one["at_s"] >= since_s and one["name"] not in found:
            found[one["name"]] = one["at_s"]
            if one["name"] == "replica: our code":
                found[_PROCESS] = one["process_began_s"]
    return found


def phases(
    plan: Sequence[tuple[str, str]], moments: Mapping[str, float], since_s: float
) -> dict[str, float]:
    """Seconds of each phase; they add up to the time from `since_s` to the last moment.

    A moment that came before the one listed before it ends a phase of no length: Ray may have had a process ready
    before it was needed, and HAProxy may start beside something else. Moments that were not noted are left out.
    """
    seconds = {}
    reached_s = since_s
    for phase, moment in plan:
        if moment in moments:
            ended_s = max(reached_s, moments[moment])
            seconds[phase] = round(ended_s - reached_s, 3)
            reached_s = ended_s
    return seconds


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each phase, of those rounds that have it."""
    names = dict.fromkeys(name for one in rounds for name in one)
    return {name: round(median(one[name] for one in rounds if name in one), 3) for name in names}
