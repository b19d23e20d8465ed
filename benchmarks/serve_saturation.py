"""How much of the bare predictor's speed the service keeps, and what it does when asked for twice as much.

    python -m benchmarks.serve_saturation --json

On the same machine and pictures: the predictor in a loop without a service; `appliance serve` under more and
more clients, each sending one request after the other; then requests at twice the rate of its best, whatever
becomes of them, each with a deadline. Goodput is what is answered with 200 within it. Load comes from another
process, whose share of the cores is in the result. Prints a table, then with --json one JSON document last;
the same goes to `benchmarks/results/FOLDER/NAME.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from statistics import median
from typing import Any

from benchmarks.commands import add_result_arguments, count, counts, positive, run_command
from benchmarks.measurement import write_result
from benchmarks.programs import told_by
from benchmarks.serving.figures import OK, percentiles, summary
from benchmarks.serving.preparation import Prepared, prepared_for
from benchmarks.serving.service import running_service, send_load

TARGETS = {
    "throughput_to_bare": 0.90,
    "p99_to_model_time": 3.0,
    "overload_goodput_to_peak": 0.90,
    "refusal_p99_ms": 50.0,
}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve_saturation",
        description="Saturates the service, then overloads it.",
    )
    parser.add_argument("--seconds", type=positive, default=12, help="of each load")
    parser.add_argument("--rounds", type=count, default=3, help="of the bare loop and the clients")
    parser.add_argument("--clients", type=counts, default=(1, 2, 3, 4, 8), help="such as 1,2,4")
    parser.add_argument("--deadline-ms", type=positive, default=2000, help="of the overload")
    parser.add_argument("--backbone", default="mobilenet_v2", help="of the compact network")
    parser.add_argument("--serve", default="", help="further options of `appliance serve`")
    add_result_arguments(parser, name="serve_saturation")
    run_command(parser, _run, {"seconds": 2, "rounds": 1, "clients": (1, 2)})


def _run(options: argparse.Namespace) -> dict[str, Any]:
    with prepared_for(options) as prepared:
        # Before and after: an idle service takes some of the machine, too.
        bare = _bare(prepared, options)
        loads: list[dict[str, Any]] = []
        overloads: list[dict[str, Any]] = []
        with running_service(prepared.model, *options.serve.split()) as url:
            for number in range(1, options.rounds + 1):
                for clients in options.clients:
                    told = send_load(
                        url, prepared.pictures, clients=clients, seconds=options.seconds
                    )
                    loads.append({"round": number, "clients": clients, **summary(told)})
                    _print(f"{clients:3} clients", loads[-1])
                # Beside the best of the same minutes: what a shared machine gives changes within a run.
                best = max(load["good_per_s"] for load in loads if load["round"] == number)
                overloads.append({"round": number, **_overload(url, prepared, best, options)})
        bare += _bare(prepared, options)
    saturated = _saturated(loads)
    saturated["to_bare"] = saturated["good_per_s"] / median(bare)
    figures = {
        "throughput_to_bare": saturated["to_bare"],
        "p99_to_model_time": saturated["p99_to_model_time"],
        "overload_goodput_to_peak": median(overload["to_peak"] for overload in overloads),
        "refusal_p99_ms": max(overload["refused_ms"].get("p99", 0.0) for overload in overloads),
    }
    result = {
        "picture_bytes": prepared.mean_bytes,
        "picture_wh": prepared.size_wh,
        "targets": TARGETS,
        "figures": figures,
        "saturated": saturated,
        "bare_images_per_s": bare,
        "loads": loads,
        "overloads": overloads,
    }
    for name, value in figures.items():
        print(f"{name:26} {value:8.3f}  (target {TARGETS[name]})")
    write_result(options.name, "benchmarks.serve_saturation", result, options.folder)
    return result


def _bare(prepared: Prepared, options: argparse.Namespace) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.serving.bare", prepared.model, prepared.pictures]
    found = []
    for _ in range(options.rounds):
        told = json.loads(told_by([*command, f"{options.seconds:g}"]))
        found.append(told["images_per_s"])
        print(f"bare         {found[-1]:8.2f} images/s", flush=True)
    return found


def _saturated(loads: list[dict[str, Any]]) -> dict[str, Any]:
    """The number of clients that saturates the service, and what they get."""

    def of(clients: int) -> list[dict[str, Any]]:
        return [load for load in loads if load["clients"] == clients]

    def throughput(clients: int) -> float:
        return median(load["good_per_s"] for load in of(clients))

    best = max({load["clients"] for load in loads}, key=throughput)
    # As few as reach it but for noise: more clients only wait for each other.
    enough = min(
        clients
        for clients in {load["clients"] for load in loads}
        if throughput(clients) >= 0.98 * throughput(best)
    )
    return {
        "clients": enough,
        "good_per_s": throughput(enough),
        "p99_to_model_time": median(
            load["total_ms"]["p99"] / load["stages_ms"]["model"]["p50"] for load in of(enough)
        ),
    }


def _overload(
    url: str, prepared: Prepared, best_per_s: float, options: argparse.Namespace
) -> dict[str, Any]:
    """What twice the best of some minutes gets."""
    rate = 2 * best_per_s
    told = send_load(
        url,
        prepared.pictures,
        rate=rate,
        seconds=options.seconds,
        deadline_ms=options.deadline_ms,
    )
    good_per_s = _good_in_time_per_s(told, options)
    overload = {
        "rate": rate,
        "deadline_ms": options.deadline_ms,
        **summary(told),
        "good_in_time_per_s": good_per_s,
        "to_peak": good_per_s / max(best_per_s, good_per_s),
    }
    _print(f"{rate:.0f} a second", overload)
    return overload


def _good_in_time_per_s(told: dict[str, Any], options: argparse.Namespace) -> float:
    """Answered within their deadline, by the time that requests came; the rest was sent before."""
    good = [
        request
        for request in told["requests"]
        if request["status"] == OK and request["total_ms"] <= options.deadline_ms
    ]
    return len(good) / float(told["seconds"])


def _print(name: str, load: dict[str, Any]) -> None:
    times, model = load["total_ms"], load["stages_ms"].get("model", percentiles([0.0]))
    print(
        f"{name:12} {load['good_per_s']:8.2f} good/s, p50 {times['p50']:7.1f} p99 {times['p99']:7.1f} ms, "
        f"model p50 {model['p50']:6.1f} ms, {load['per_status']}, "
        f"load generator {load['cores_of_the_load_generator']:.2f} cores",
        flush=True,
    )


if __name__ == "__main__":
    main()
