"""Where the time goes until a service answers, and until another replica of it does.

    python -m benchmarks.cold_start --json

In each round: `service`, from the command to its first answer; `after_kill`, from the end of its only replica by
SIGKILL; `new_replica`, from a picture sent to a service without replicas (`--min-replicas 0`). The processes note the
moments themselves, by wall clock, in a file (`cold_start.marks`): the command and the replica around their imports,
Ray's start, Serve's start, the model and the warm-up; the client when the port accepts, when /readyz says 200 and when
the picture is answered. Prints a table, then with --json one JSON document last; the same goes to
`benchmarks/results/FOLDER/NAME.json`, all moments included.
"""

from __future__ import annotations

import argparse
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cold_start.marks import FILE_VARIABLE, read_marks
from benchmarks.cold_start.phases import REPLICA, SERVICE, medians, moments_of, phases
from benchmarks.commands import add_result_arguments, count, run_command
from benchmarks.measurement import write_result
from benchmarks.serving.preparation import prepared_for
from benchmarks.serving.service import free_port, is_ready, running_service
from benchmarks.serving.starts import answer, replicas, wait_for_none

_MODULE = "benchmarks.cold_start.traced_service"
_POLL_S = 0.02
_TIMEOUT_S = 240.0


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cold_start", description="Takes the starts of the service apart."
    )
    parser.add_argument("--rounds", type=count, default=3, help="of all starts")
    parser.add_argument("--backbone", default="mobilenet_v2", help="of the compact network")
    add_result_arguments(parser, name="cold_start")
    run_command(parser, _run, {"rounds": 1})


def _run(options: argparse.Namespace) -> dict[str, Any]:
    rounds: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    with prepared_for(options) as prepared:
        picture = next(Path(prepared.pictures).iterdir()).read_bytes()
        for number in range(1, options.rounds + 1):
            marks = prepared.folder / f"marks-{number}"
            rounds.append(_measure(prepared.model, picture, marks, quick=options.quick))
            result = _result(rounds, prepared.mean_bytes)
            write_result(options.name, "benchmarks.cold_start", result, options.folder)
    for start, table in result["median_s"].items():
        print(f"\n{start}: {sum(table.values()):.1f} s")
        for phase, seconds in table.items():
            print(f"  {phase:52} {seconds:6.2f} s")
    return result


def _result(rounds: list[dict[str, Any]], picture_bytes: int) -> dict[str, Any]:
    names = rounds[0]["phases_s"]
    return {
        "picture_bytes": picture_bytes,
        "median_s": {name: medians([one["phases_s"][name] for one in rounds]) for name in names},
        "starts": rounds,
    }


def _measure(model: str, picture: bytes, marks: Path, *, quick: bool) -> dict[str, Any]:
    """All starts of one round; the quick set has no service without replicas."""
    environment = {FILE_VARIABLE: str(marks)}
    moments: dict[str, dict[str, float]] = {}
    port = free_port()
    with _Client(port, picture) as client, _traced(model, port, environment) as url:
        client.join()
        moments["service"] = _since(client.began_s, marks, client.moments)
        [replica] = replicas()
        killed_s = time.time()
        replica.kill()
        replica.wait()
        answer(url, picture)
        moments["after_kill"] = _since(killed_s, marks, {"client: answered": time.time()})
    if not quick:
        options = ("--min-replicas", "0", "--max-replicas", "1")
        with _traced(model, free_port(), environment, *options) as url:
            wait_for_none()
            asked_s = time.time()
            answer(url, picture)
            moments["new_replica"] = _since(asked_s, marks, {"client: answered": time.time()})
    plans = {"service": SERVICE}
    return {
        "phases_s": {
            name: phases(plans.get(name, REPLICA), times, 0.0) for name, times in moments.items()
        },
        # Seconds from the beginning of each.
        "moments_s": moments,
    }


def _traced(model: str, port: int, environment: Mapping[str, str], *options: str) -> Any:
    return running_service(model, *options, module=_MODULE, environment=environment, port=port)


def _since(begin_s: float, marks: Path, client: Mapping[str, float]) -> dict[str, float]:
    """All moments as seconds from a beginning, in the order of time."""
    found = {**moments_of(read_marks(marks), begin_s), **client}
    ordered = sorted(found.items(), key=lambda item: item[1])
    return {name: round(at_s - begin_s, 4) for name, at_s in ordered}


class _Client(threading.Thread):
    """Waits in a thread until a port accepts, the service there is ready, and a picture is answered."""

    def __init__(self, port: int, picture: bytes) -> None:
        super().__init__(name="client", daemon=True)
        self.began_s = time.time()
        self.moments: dict[str, float] = {}
        self._port = port
        self._picture = picture

    def __enter__(self) -> _Client:
        self.began_s = time.time()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """A thread that waits for a service that failed ends with this process."""

    def run(self) -> None:
        url = f"http://127.0.0.1:{self._port}"
        end_s = self.began_s + _TIMEOUT_S
        for name, reached in (("connected", self._accepts), ("ready", lambda: is_ready(url))):
            while not reached():
                if time.time() > end_s:
                    return
                time.sleep(_POLL_S)
            self.moments[f"client: {name}"] = time.time()
        answer(url, self._picture)
        self.moments["client: answered"] = time.time()

    def _accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except OSError:
            return False
        return True


if __name__ == "__main__":
    main()
