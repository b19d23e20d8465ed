"""Rounds of the sides in turn: environments first, then each side once a round, in another order each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Protocol, TypeVar

from benchmarks.peers.environment import NotInstalledError, python_of, versions_in
from benchmarks.peers.processes import PeerFailedError
from benchmarks.peers.user_code import lines_of

_LONGEST_SENTENCE = 400


class Side(Protocol):
    """What is compared.

    Attributes:
        name: As options and tables say it.
        packages: Whose versions are told.
        requirements: Whose file of pinned packages it needs; None where the project pins them.
        user_code: What a user writes for it.
        settings: How it is configured, in words.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see above
    @property
    def packages(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def requirements(self) -> str | None: ...  # noqa: D102
    @property
    def user_code(self) -> tuple[Path, ...]: ...  # noqa: D102
    @property
    def settings(self) -> str: ...  # noqa: D102


AnySide = TypeVar("AnySide", bound=Side)


def take_turns(
    sides: Sequence[AnySide],
    measure: Callable[[AnySide, Path, int], Mapping[str, Any]],
    *,
    rounds: int,
    environments: Path,
    result: dict[str, Any],
    after: Callable[[], None],
) -> None:
    """Fills `sides` (facts by name; `failed` with a sentence) and `results` (one entry a side and round).

    Args:
        sides: Those to compare.
        measure: Measures one of them in the Python of its environment in one round, counted from 1; has
            `images_per_s` and `line`, which is printed.
        rounds: Of each; a side that has failed has no more.
        environments: Folder for virtual environments.
        result: Filled in place.
        after: Called after every measurement.
    """
    result["sides"] = {side.name: _facts(side) for side in sides}
    result["results"] = []
    pythons = _pythons(sides, environments, result["sides"])
    for number in range(1, rounds + 1):
        # Whoever comes first in one round comes last in the next: a machine may grow slower within one.
        for side in _turned(sides, number - 1):
            if "failed" in result["sides"][side.name]:
                continue
            try:
                told = dict(measure(side, pythons[side.name], number))
            except PeerFailedError as error:
                # What a program says last may be pages.
                sentence = " ".join(str(error).split())[-_LONGEST_SENTENCE:]
                result["sides"][side.name]["failed"] = f"in round {number}: {sentence}"
                print(f"round {number} {side.name} failed: {error}", flush=True)
            else:
                print(f"round {number} {side.name:24} {told.pop('line')}", flush=True)
                result["results"].append({"side": side.name, "round": number, **told})
            after()


def of_side(result: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The rounds of one side."""
    return [one for one in result["results"] if one["side"] == name]


def summarise(result: dict[str, Any], figures: Sequence[str], *, ours: str) -> None:
    """Fills the `figures` of each side and `ratios` from the rounds that there are.

    Args:
        result: Filled in place. `ratios` is the speed of ours by that of each other side: by round, and their median.
        figures: Of a round, whose medians are told.
        ours: Name of our side.
    """
    speeds = {}
    for name, side in result["sides"].items():
        rounds = of_side(result, name)
        speeds[name] = {one["round"]: one["images_per_s"] for one in rounds}
        if rounds:
            side["figures"] = {figure: median(one[figure] for one in rounds) for figure in figures}
    of_ours = speeds.pop(ours, {})
    result["ratios"] = {}
    for name, theirs in speeds.items():
        if each := [of_ours[at] / speed for at, speed in theirs.items() if at in of_ours]:
            result["ratios"][name] = {"median": median(each), "rounds": each}


def _facts(side: Side) -> dict[str, Any]:
    return {
        "settings": side.settings,
        "lines_of_user_code": lines_of(side.user_code),
        "user_code": [path.name for path in side.user_code],
    }


def _pythons(
    sides: Sequence[Side], environments: Path, facts: dict[str, dict[str, Any]]
) -> dict[str, Path]:
    """Makes all environments before anything is measured."""
    pythons = {}
    for side in sides:
        try:
            python = python_of(side.requirements or "project", environments)
        except NotInstalledError as error:
            facts[side.name]["failed"] = f"does not install: {error}"
            print(f"{side.name} does not install: {error}", flush=True)
            continue
        pythons[side.name] = python
        facts[side.name]["versions"] = versions_in(python, side.packages)
    return pythons


def _turned(sides: Sequence[AnySide], by: int) -> list[AnySide]:
    at = by % len(sides)
    return [*sides[at:], *sides[:at]]
