"""What a replica costs besides its model: a service whose model sleeps, with more and more replicas.

Replicas that sleep are answered from as many as wanted on two cores, so that what ends the growth is HAProxy, a
replica's own Python (HTTP, batcher), or the cores. Each number of replicas is a service of its own: how long it takes
to start, what it takes when nobody asks, and what it answers to two clients for each replica. Besides, one replica
that does not even sleep tells how much a single process can pass on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.scaling.processes import CpuTimes, available_mib, object_store_mib
from benchmarks.scaling.sleeping import SLEEP_VARIABLE
from benchmarks.serving.figures import summary
from benchmarks.serving.preparation import Prepared
from benchmarks.serving.service import memory_mib, running_service, send_load

LEAST_FREE_MIB = 4096
"""So much memory stays free, or no more replicas are tried."""

_MODULE = "benchmarks.scaling.sleeping_service"
_REPLICA = "ServeReplica"
_GUESSED_REPLICA_MIB = 450
_REST_MIB = 1700
"""The command, Ray's daemons, Serve's controller and proxy."""
_CLIENTS_PER_REPLICA = 2
_CLIENTS_WITHOUT_SLEEP = 8


@dataclass(frozen=True)
class ControlPlane:
    """What to measure.

    Attributes:
        replicas: Their numbers, in rising order.
        sleep_ms: Of the model, for each picture.
        seconds: Of each load.
        idle_seconds: Of the look at a service that nobody asks.
        rounds: Of the load.
    """

    replicas: tuple[int, ...]
    sleep_ms: float
    seconds: float
    idle_seconds: float
    rounds: int


def measure(prepared: Prepared, plan: ControlPlane) -> dict[str, Any]:
    """All numbers of replicas that memory allows.

    Returns:
        `cases` with raw figures, `limits` that follow from them, and `stopped`: why not all were tried, or None.
    """
    cases = [_case(prepared, plan, 1, 0.0)]
    stopped = None
    for count in plan.replicas:
        # A replica alone is told with all that the others would share with it; so the last number counts.
        stopped = no_room_for(count, replica_mib=cases[-1]["replica_mib"], free_mib=available_mib())
        if stopped is not None:
            print(stopped, flush=True)
            break
        cases.append(_case(prepared, plan, count, plan.sleep_ms))
    return {
        "sleep_ms": plan.sleep_ms,
        "clients_per_replica": _CLIENTS_PER_REPLICA,
        "cases": cases,
        "limits": limits(cases),
        "stopped": stopped,
    }


def no_room_for(count: int, *, replica_mib: int, free_mib: int) -> str | None:
    """Why so many replicas are not tried, or None where they fit beside the rest of a service.

    Args:
        count: Of replicas.
        replica_mib: What one takes.
        free_mib: What can be given out at present, when no service runs.
    """
    left_mib = free_mib - _REST_MIB - count * replica_mib
    if left_mib >= LEAST_FREE_MIB:
        return None
    return (
        f"{count} replicas of {replica_mib} MiB would leave {left_mib} MiB, under {LEAST_FREE_MIB}"
    )


def limits(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """What each part could pass on at most, by the CPU time that it takes for a request.

    Args:
        cases: As `measure` makes them, that without sleep first.

    Returns:
        Requests a second: `one_replica_per_s` as measured, `haproxy_thread_per_s` for one thread of HAProxy at the
        load of the most replicas, `best_per_s` of the whole machine and at how many replicas; CPU ms a request by process
        there; cores that an idle replica takes, and MiB of it.
    """
    without_sleep, *sleeping = cases
    best = max(sleeping, key=_good_per_s) if sleeping else without_sleep
    most = cases[-1]
    cost_ms = _median_of([load["cpu_ms_per_request"] for load in most["loads"]])
    haproxy_ms = cost_ms.get("haproxy")
    return {
        "one_replica_per_s": _good_per_s(without_sleep),
        "best_per_s": _good_per_s(best),
        "replicas_at_best": best["replicas"],
        "cpu_ms_per_request": cost_ms,
        "haproxy_thread_per_s": 1000 / haproxy_ms if haproxy_ms else None,
        "idle_cores_per_replica": most["idle_cores"].get(_REPLICA, 0.0) / most["replicas"],
        "idle_cores_of_the_rest": sum(
            cores for name, cores in most["idle_cores"].items() if name != _REPLICA
        ),
        "replica_mib": most["replica_mib"],
        "object_store_mib": most["object_store_mib"],
    }


def _case(prepared: Prepared, plan: ControlPlane, replicas: int, sleep_ms: float) -> dict[str, Any]:
    """One number of replicas: its start, its rest and its load."""
    begin_s = time.perf_counter()
    with running_service(
        prepared.model,
        *("--replicas", str(replicas), "--set", "num_threads=1"),
        module=_MODULE,
        environment={SLEEP_VARIABLE: f"{sleep_ms:g}"},
    ) as url:
        started_s = time.perf_counter() - begin_s
        clients = _CLIENTS_PER_REPLICA * replicas if sleep_ms else _CLIENTS_WITHOUT_SLEEP
        # What a first request sets up is no cost of those that follow.
        send_load(url, prepared.pictures, clients=clients, seconds=1)
        before = CpuTimes.now()
        time.sleep(plan.idle_seconds)
        idle = CpuTimes.now().since(before)
        case: dict[str, Any] = {
            "replicas": replicas,
            "sleep_ms": sleep_ms,
            "clients": clients,
            "start_s": round(started_s, 2),
            "idle_cores": {
                name: round(seconds / plan.idle_seconds, 4) for name, seconds in idle.items()
            },
            "loads": [
                {"round": number, **_load(url, prepared, plan, clients)}
                for number in range(1, plan.rounds + 1)
            ],
            "memory_mib": memory_mib(),
            "object_store_mib": object_store_mib(),
            "available_mib": available_mib(),
        }
    replicas_mib = case["memory_mib"].get(_REPLICA, replicas * _GUESSED_REPLICA_MIB)
    case["replica_mib"] = replicas_mib // replicas
    case["ideal_per_s"] = 1000 * replicas / sleep_ms if sleep_ms else None
    print(_line(case), flush=True)
    return case


def _load(url: str, prepared: Prepared, plan: ControlPlane, clients: int) -> dict[str, Any]:
    before = CpuTimes.now()
    told = send_load(url, prepared.pictures, clients=clients, seconds=plan.seconds)
    taken_s = CpuTimes.now().since(before)
    answers = max(1, len(told["requests"]))
    per_request = {name: round(1000 * seconds / answers, 4) for name, seconds in taken_s.items()}
    return {**summary(told), "cpu_s": taken_s, "cpu_ms_per_request": per_request}


def _good_per_s(case: Mapping[str, Any]) -> float:
    return float(median(load["good_per_s"] for load in case["loads"]))


def _median_of(tables: list[dict[str, float]]) -> dict[str, float]:
    names = sorted({name for table in tables for name in table})
    return {name: median(table.get(name, 0.0) for table in tables) for name in names}


def _line(case: Mapping[str, Any]) -> str:
    load = case["loads"][-1]
    costs = ", ".join(
        f"{name} {ms:.2f}" for name, ms in load["cpu_ms_per_request"].items() if ms >= 0.01
    )
    of_ideal = "" if case["ideal_per_s"] is None else f" of {case['ideal_per_s']:.0f}"
    return (
        f"{case['replicas']:3} replicas, sleep {case['sleep_ms']:g} ms: start {case['start_s']:6.1f} s, "
        f"{_good_per_s(case):7.1f}{of_ideal} good/s, p50 {load['total_ms'].get('p50', 0):.1f} ms, "
        f"CPU ms a request: {costs}; a replica {case['replica_mib']} MiB, free {case['available_mib']} MiB"
    )
