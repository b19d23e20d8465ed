"""What changed between two results beyond noise, for a person and for continuous integration.

    python -m benchmarks.compare OLD.json NEW.json
    python -m benchmarks.compare OLD_FOLDER NEW_FOLDER --json

Exit code 1 says that something got worse beyond noise, or is gone: a figure, a file. 2 says that nothing can be told:
other machines, other options, void or unfinished results, no figures, too few rounds. Of folders, files of the same
name are compared; those without figures to compare are named and left out.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from appliance.errors import ApplianceError, ConfigError
from benchmarks.commands import MISTAKE
from benchmarks.comparison import FEWEST_ROUNDS, Change, compare, figures_of

_WORSE = 1
_NO_MATTER = frozenset(
    {"--json", "--name", "--folder", "--cache", "--rounds", "--repeats", "--seed", "--pictures"}
)
_FROM_NOTHING = 1e6


def main() -> None:
    """Compares."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description="Says what changed beyond noise."
    )
    parser.add_argument("old", type=Path, help="a result, or a folder of them")
    parser.add_argument("new", type=Path, help="the same, later")
    parser.add_argument("--confidence", type=_share, default=0.95, help="of all verdicts together")
    parser.add_argument(
        "--tolerance", type=_share, default=0.02, help="smaller changes do not count: 0.02 is 2 %%"
    )
    parser.add_argument(
        "--any-machine", action="store_true", help="also where the machines are not the same"
    )
    parser.add_argument(
        "--any-options", action="store_true", help="also where the commands had other options"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document last")
    options = parser.parse_args()
    try:
        pairs, gone = _pairs(options.old, options.new)
        compared = {name: _compare(*pair, options) for name, pair in pairs.items()}
        if not any(compared.values()):
            raise ConfigError("The results have no figure to compare", got=", ".join(compared))
    except ApplianceError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(MISTAKE)
    for name, changes in compared.items():
        print(name if changes else f"{name}: no figure to compare")
        for change in changes:
            print(_line(change))
    for name in gone:
        print(f"{name}: gone, not in {options.new}")
    if options.json:
        told = {name: [asdict(one) for one in found] for name, found in compared.items()}
        print(json.dumps({**told, **dict.fromkeys(gone)}))
    verdicts = [change.verdict for found in compared.values() for change in found]
    if "too few rounds" in verdicts:
        print(
            f"A verdict needs {FEWEST_ROUNDS} rounds on both sides: measure with --rounds {FEWEST_ROUNDS}",
            file=sys.stderr,
        )
    if gone or {"worse", "gone"} & set(verdicts):
        sys.exit(_WORSE)
    sys.exit(MISTAKE if set(verdicts) == {"too few rounds"} else 0)


def _pairs(
    old: Path, new: Path
) -> tuple[dict[str, tuple[dict[str, Any], dict[str, Any]]], list[str]]:
    """What is to be compared by name, and the names of results that are gone."""
    if old.is_dir() != new.is_dir():
        raise ConfigError(
            "A folder is compared with a folder, and a file with a file", got=f"{old} and {new}"
        )
    if not old.is_dir():
        return {new.name: (_read(old), _read(new))}, []
    before, after = ({path.name for path in folder.glob("*.json")} for folder in (old, new))
    if not before & after:
        raise ConfigError("The folders have no result of the same name", where=f"{old}, {new}")
    pairs = {name: (_read(old / name), _read(new / name)) for name in sorted(before & after)}
    return pairs, sorted(before - after)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
        _ = document["machine"]["processor"], document["machine"]["cores"], document["command"]
        for _, samples in figures_of(document):
            samples.value()
    except OSError as error:
        raise ConfigError("A result cannot be read", where=path, got=error.strerror) from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            "A file is no result of a benchmark",
            where=path,
            expected="a JSON document as `appliance bench` and `python -m benchmarks...` write it",
        ) from None
    if not document.get("finished", True):
        raise ConfigError(
            "A result is unfinished",
            where=path,
            hint="Its run was stopped, or goes on: wait for it, or measure again",
        )
    if document.get("void"):
        raise ConfigError(
            "A result is void",
            where=path,
            got=document["void"][0],
            hint="Measure again, with the load generator on another machine or at a lower rate",
        )
    return dict(document)


def _compare(old: dict[str, Any], new: dict[str, Any], options: argparse.Namespace) -> list[Change]:
    machines = [{key: one["machine"][key] for key in ("processor", "cores")} for one in (old, new)]
    if machines[0] != machines[1] and not options.any_machine:
        raise ConfigError(
            "The results are of different machines",
            got=" and ".join(f"{one['processor']}, {one['cores']} cores" for one in machines),
            hint="--any-machine compares them nevertheless",
        )
    settings = [settings_of(one["command"]) for one in (old, new)]
    if settings[0] != settings[1] and not options.any_options:
        differ = [
            " ".join(f"{name} {value}".strip() for name, value in sorted(one - other)) or "none"
            for one, other in (settings, settings[::-1])
        ]
        raise ConfigError(
            "The results were measured with other options",
            where=new.get("benchmark"),
            got=f"{differ[0]} before, {differ[1]} now",
            hint="--any-options compares them nevertheless",
        )
    return compare(old, new, confidence=options.confidence, tolerance=options.tolerance)


def settings_of(command: str) -> set[tuple[str, str]]:
    """The options of a command that change what is measured, with their values, and the module.

    How often and where to is no matter, nor is the address of a service.
    """
    *_, module = command.partition("-m ")
    words = shlex.split(module)
    found = {("module", words[0])} if words else set()
    name = None
    for word in words[1:]:
        if word.startswith("--"):
            name, given, value = word.partition("=")
            found.add((name, value))
            name = None if given else name
        elif name is not None and "://" not in word:
            found.remove((name, ""))
            found.add((name, word))
            name = None
    return {(name, value) for name, value in found if name not in _NO_MATTER}


def _line(change: Change) -> str:
    between = ""
    if change.ratio_interval is not None:
        low, high = (100 * (ratio - 1) for ratio in change.ratio_interval)
        between = "from nothing" if low > _FROM_NOTHING else f"{low:+.1f} to {high:+.1f} %"
    new = "-" if change.new is None else f"{change.new:.4g}"
    return f"  {change.name:44} {change.old:10.4g} {new:>10}  {between:20} {change.verdict}"


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, got {text}")
    return value


if __name__ == "__main__":
    main()
