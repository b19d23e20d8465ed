"""What changed between two results beyond noise, for a person and for continuous integration.

    python -m benchmarks.compare OLD.json NEW.json
    python -m benchmarks.compare OLD_FOLDER NEW_FOLDER --json

Exit code 1 says that something got worse beyond noise, 2 that there is nothing to compare: other machines, void
results, no figure in common. Of folders, files of the same name are compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from appliance.errors import ApplianceError, ConfigError
from benchmarks.comparison import FEWEST_ROUNDS, Change, compare

_WORSE = 1


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
    parser.add_argument("--json", action="store_true", help="print one JSON document last")
    options = parser.parse_args()
    try:
        pairs = _pairs(options.old, options.new)
        compared = {name: _compare(*pair, options) for name, pair in pairs.items()}
    except ApplianceError as error:
        parser.error(str(error))
    for name, changes in compared.items():
        print(name)
        for change in changes:
            print(_line(change))
    changes = [change for found in compared.values() for change in found]
    if any(change.verdict == "too few rounds" for change in changes):
        print(f"A verdict needs {FEWEST_ROUNDS} rounds on both sides.")
    if options.json:
        told = {name: [asdict(one) for one in found] for name, found in compared.items()}
        print(json.dumps(told))
    sys.exit(_WORSE if any(change.verdict == "worse" for change in changes) else 0)


def _pairs(old: Path, new: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    if old.is_dir() and new.is_dir():
        names = sorted(
            {path.name for path in old.glob("*.json")} & {p.name for p in new.glob("*.json")}
        )
        if not names:
            raise ConfigError("The folders have no result of the same name", where=f"{old}, {new}")
        return {name: (_read(old / name), _read(new / name)) for name in names}
    return {new.name: (_read(old), _read(new))}


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
        _ = document["machine"]["processor"], document["benchmark"]
    except OSError as error:
        raise ConfigError("A result cannot be read", where=path, got=error.strerror) from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError("A file is no result of a benchmark", where=path) from None
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
    changes = compare(old, new, confidence=options.confidence, tolerance=options.tolerance)
    if not changes:
        raise ConfigError(
            "The results have no figure in common", got=f"{old['benchmark']} and {new['benchmark']}"
        )
    return changes


def _line(change: Change) -> str:
    between = ""
    if change.ratio_interval is not None:
        low, high = (100 * (ratio - 1) for ratio in change.ratio_interval)
        between = f"{low:+.1f} to {high:+.1f} %"
    return (
        f"  {change.name:44} {change.old:10.4g} {change.new:10.4g}  {between:20} {change.verdict}"
    )


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
