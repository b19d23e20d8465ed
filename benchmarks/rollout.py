"""What a roll-out costs those who use the service meanwhile: no request may fail, and each reply says who answered.

    python -m benchmarks.rollout --json

Two models of different weights in a registry; a deployment of one of them on a cluster of this machine. First its
best speed is found with clients that send one request after the other, without retries. Then come requests at half
of it (`--load 0.5`), evenly, whatever becomes of those before, from a process that knows nothing of the rest; after a
tenth of them the other model is deployed, and after three fifths rolled back. All is counted by status, by the version that answered
and by second. Prints a table, then with --json one JSON document last; the same goes to
`benchmarks/results/FOLDER/NAME.json`.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.model import model_file
from appliance.on_ray import deployments
from appliance.on_ray.cluster import local_cluster
from appliance.on_ray.serving import service_environment, whole_machine
from appliance.registry.registry import Registry
from benchmarks.commands import add_result_arguments, count, positive, run_command
from benchmarks.measurement import write_result
from benchmarks.serving.figures import OK, percentiles, summary
from benchmarks.serving.preparation import prepared_for
from benchmarks.serving.service import send_load

TARGETS = {"failed_requests": 0}
_NAME = "rollout"
_SWITCH_AT, _BACK_AT = 0.1, 0.6
_FULL_LOAD_S = 10.0


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rollout", description="Switches a deployment under load."
    )
    parser.add_argument("--requests", type=count, default=10_000, help="through both switches")
    parser.add_argument("--load", type=_share, default=0.5, help="share of the best speed")
    parser.add_argument("--replicas", type=count, default=2)
    parser.add_argument("--backbone", default="mobilenet_v2", help="of the compact network")
    add_result_arguments(parser, name="rollout")
    run_command(parser, _run, {"requests": 60, "replicas": 1})


def _run(options: argparse.Namespace) -> dict[str, Any]:
    with prepared_for(options) as prepared:
        registry = _two_versions(prepared.model, prepared.folder)
        with local_cluster(environment=service_environment()):
            measured = _measure(registry, prepared.pictures, options)
    result = {
        "picture_bytes": prepared.mean_bytes,
        "picture_wh": prepared.size_wh,
        "replicas": options.replicas,
        "targets": TARGETS,
        "figures": {"failed_requests": measured["failed"]},
        **measured,
    }
    write_result(options.name, "benchmarks.rollout", result, options.folder)
    return result


def _two_versions(model: str, folder: Path) -> str:
    """A registry whose two versions compute the same, so that no difference in speed is one of models."""
    loaded = model_file.load(model)
    again = str(folder / "again.safetensors")
    model_file.save(again, loaded.network, loaded.spec, name="again", info=loaded.info)
    registry = Registry(folder / "models")
    for file in (model, again):
        registry.add(_NAME, file)
    return registry.root_uri


def _measure(registry: str, pictures: str, options: argparse.Namespace) -> dict[str, Any]:
    def deploy(version: int) -> str:
        settings = {"num_replicas": options.replicas, **_share(options.replicas)}
        model = f"{_NAME}:{version}"
        return deployments.deploy(_NAME, model, settings, registry=registry, port=0, watch_s=2).url

    url = deploy(1)
    seconds = 2.0 if options.quick else _FULL_LOAD_S
    full = summary(send_load(url, pictures, clients=2 * options.replicas, seconds=seconds))
    rate = options.load * full["good_per_s"]
    seconds = options.requests / rate
    print(f"full load {full['good_per_s']:.1f} a second; {seconds:.0f} s at {rate:.1f}", flush=True)
    clock = _Clock(seconds)
    turns = threading.Thread(
        target=clock.run,
        args=(
            ("deploy", _SWITCH_AT, lambda: deploy(2)),
            ("rollback", _BACK_AT, lambda: deployments.roll_back(_NAME, watch_s=2)),
        ),
    )
    turns.start()
    told = send_load(url, pictures, rate=rate, seconds=seconds)
    turns.join()
    deployments.undeploy(_NAME)
    return {"full_load": full, "rate": rate, "switches": clock.switches, **_outcome(told, clock)}


def _share(replicas: int) -> dict[str, Any]:
    """The machine for so many replicas, and room for one more."""
    threads = whole_machine({"num_replicas": replicas})["num_threads"]
    return {"num_threads": threads, "num_cpus": 0.1}


class _Clock:
    """Does things while the load runs, and notes when they began and ended, in seconds from its start."""

    def __init__(self, seconds: float) -> None:
        self.switches: list[dict[str, Any]] = []
        self._seconds = seconds
        self._start_s = time.perf_counter()

    def run(self, *steps: tuple[str, float, Callable[[], Any]]) -> None:
        for name, share, step in steps:
            time.sleep(max(0.0, share * self._seconds - self._now_s()))
            begin_s = self._now_s()
            step()
            self.switches.append({"what": name, "begin_s": begin_s, "end_s": self._now_s()})

    def _now_s(self) -> float:
        return time.perf_counter() - self._start_s


def _outcome(told: dict[str, Any], clock: _Clock) -> dict[str, Any]:
    requests = told["requests"]
    failed = [request for request in requests if request["status"] != OK]
    models = Counter(request["model"] for request in requests if request["status"] == OK)

    def during(request: dict[str, Any]) -> bool:
        return any(s["begin_s"] <= request["start_s"] <= s["end_s"] for s in clock.switches)

    times = {
        when: percentiles([r["total_ms"] for r in requests if during(r) == (when == "switching")])
        for when in ("switching", "otherwise")
    }
    outcome = {
        "requests": len(requests),
        "failed": len(failed),
        "failures": [[request["status"], round(request["start_s"], 3)] for request in failed],
        "answered_by": dict(sorted(models.items())),
        "nobody_told": models[None],
        "total_ms": times,
        "cores_of_the_load_generator": round(told["cores_of_the_load_generator"], 3),
    }
    print(f"requests     {len(requests)}, failed {len(failed)} (target 0)")
    print(f"answered by  {outcome['answered_by']}")
    for switch in clock.switches:
        print(f"{switch['what']:12} {switch['end_s'] - switch['begin_s']:.1f} s")
    for when, found in times.items():
        print(f"{when:12} p50 {found.get('p50', 0):.0f} p99 {found.get('p99', 0):.0f} ms")
    return outcome


def _share(text: str) -> float:
    value = positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, got {text}")
    return value


if __name__ == "__main__":
    main()
