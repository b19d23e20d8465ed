"""Compares the servers: rounds in turn, in another order each, and a table."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers.detector import decode, detect, load_detector
from benchmarks.peers.online.figures import figures_of, saturated_per_s
from benchmarks.peers.online.rounds import Loads, run_round
from benchmarks.peers.online.servers import SERVERS, Server
from benchmarks.peers.preparation import Material, prepare_material
from benchmarks.peers.turns import of_side, take_turns

EQUAL_SHARE = 0.7
OVERLOAD_SHARE = 3.0
"""Rates of the open loads, by the speed of plain torchvision in a loop on the same cores."""
_HEAD = (
    f"{'':24} {'images/s':>9} {'1 client p50':>12} {'p99':>7} {'equal p50':>9} {'p99':>7} {'goodput':>8} "
    f"{'overload':>8} {'MiB':>6} {'start s':>7} {'lines':>5}"
)


def compare_servers(
    options: argparse.Namespace, write: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Runs all rounds.

    Args:
        options: Of the command.
        write: Called after every round with what there is.
    """
    servers = [SERVERS[name] for name in options.peers or SERVERS]
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        material = prepare_material(
            Path(folder), backbone=options.backbone, cache=options.cache, quick=options.quick
        )
        plain_per_s = plain_torchvision_per_s(material, options.seconds)
        loads = Loads(
            options.seconds,
            options.clients,
            round(EQUAL_SHARE * plain_per_s, 2),
            round(OVERLOAD_SHARE * plain_per_s, 2),
            2 * options.objective_ms / 1000,
        )
        result: dict[str, Any] = {
            "picture_bytes": material.mean_bytes,
            "picture_wh": material.size_wh,
            "objective_ms": options.objective_ms,
            "plain_torchvision_loop_images_per_s": plain_per_s,
            "loads": asdict(loads),
        }

        def measure(server: Server, python: Path, number: int) -> dict[str, Any]:
            return _measure(server, python, material, loads)

        def after() -> None:
            for server in servers:
                if rounds := of_side(result, server.name):
                    result["sides"][server.name]["figures"] = figures_of(
                        rounds, seconds=options.seconds, objective_ms=options.objective_ms
                    )
            write(result)

        take_turns(
            servers,
            measure,
            rounds=options.rounds,
            environments=options.environments,
            result=result,
            after=after,
        )
    print(table(result))
    return result


def plain_torchvision_per_s(material: Material, seconds: float) -> float:
    """Pictures a second of torchvision's network in a loop in this process, decoding included."""
    network = load_detector(material.weights)
    jpegs = [picture.jpeg for picture in material.read_pictures()]
    detect(network, [decode(jpegs[0])])
    done, start_s = 0, time.perf_counter()
    while time.perf_counter() < start_s + seconds:
        detect(network, [decode(jpegs[done % len(jpegs)])])
        done += 1
    return round(done / (time.perf_counter() - start_s), 3)


def table(result: Mapping[str, Any]) -> str:
    """All sides as lines for people."""
    rows = [_HEAD]
    for name, side in result["sides"].items():
        if "failed" in side:
            rows.append(f"{name:24} {side['failed']}")
            continue
        figures = side["figures"]
        one, equal = figures["one_client_ms"], figures["equal_load_ms"]
        rows.append(
            f"{name:24} {figures['saturated_images_per_s']:9.2f} {_ms(one['p50']):>12} {_ms(one['p99']):>7} "
            f"{_ms(equal['p50']):>9} {_ms(equal['p99']):>7} {figures['goodput_at_equal_load_per_s']:8.2f} "
            f"{figures['goodput_at_overload_per_s']:8.2f} {figures['peak_mib']:6.0f} {figures['start_up_s']:7.1f} "
            f"{side['lines_of_user_code']:5}"
        )
    rows.append(
        f"equal load {result['loads']['equal_per_s']} a second, overload {result['loads']['overload_per_s']}; goodput "
        f"is what is right within {result['objective_ms']:g} ms. A p99 is that of the requests of all rounds, "
        "whose number is in the JSON: below 10,000 an indication."
    )
    return "\n".join(rows)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _measure(server: Server, python: Path, material: Material, loads: Loads) -> dict[str, Any]:
    told = run_round(server, python, material, loads)
    speed = saturated_per_s(told)
    line = (
        f"{speed:7.2f} images/s, start {told['start_up_s']:.1f} s, {told['pictures_compared']} pictures agree, "
        f"peak {told['peak_mib']} MiB"
    )
    return {"images_per_s": speed, **told, "line": line}
