"""What the service adds to decoding and model: one client, one connection, JPEGs of 200 KB.

    python -m benchmarks.serve_latency --json

Starts `appliance serve` as a user does, sends one request after the other from another process, and takes
from the time of each what its Server-Timing header says of decoding and model. The rest is overhead: client,
HAProxy, Ray Serve, HTTP, waiting for threads, JSON. Prints a table, then with --json one JSON document last;
the same goes to `benchmarks/results/FOLDER/NAME.json`.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.commands import add_result_arguments, positive, run_command
from benchmarks.measurement import write_result
from benchmarks.serving.figures import summary
from benchmarks.serving.preparation import prepared_for
from benchmarks.serving.service import memory_mib, running_service, send_load

TARGET_MS = {"p50": 5.0, "p99": 15.0}
_SIZE_WH = (1280, 960)
_SIZE_BYTES = 200_000


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve_latency",
        description="Measures the overhead of the service.",
    )
    parser.add_argument("--seconds", type=positive, default=30, help="of load")
    parser.add_argument("--backbone", default="mobilenet_v2", help="of the compact network")
    add_result_arguments(parser, name="serve_latency")
    run_command(parser, _run, {"seconds": 3})


def _run(options: argparse.Namespace) -> dict[str, Any]:
    with (
        prepared_for(options, size_wh=_SIZE_WH, size_bytes=_SIZE_BYTES) as prepared,
        running_service(prepared.model) as url,
    ):
        idle_mib = memory_mib()
        told = send_load(url, prepared.pictures, clients=1, seconds=options.seconds, warm_up=20)
    found = summary(told)
    overhead = found["overhead_ms"]
    result = {
        "picture_bytes": prepared.mean_bytes,
        "picture_wh": prepared.size_wh,
        "target_ms": TARGET_MS,
        "met": all(overhead[name] <= limit for name, limit in TARGET_MS.items()),
        "summary": found,
        "idle_pss_mib": {**idle_mib, "all": sum(idle_mib.values())},
        "requests": told["requests"],
    }
    _print(found, prepared.mean_bytes)
    write_result(options.name, "benchmarks.serve_latency", result, options.folder)
    return result


def _print(found: dict[str, Any], mean_bytes: int) -> None:
    print(f"{found['requests']} requests of {mean_bytes:,} bytes, {found['good_per_s']} a second")
    rows = {"total": found["total_ms"], **found["stages_ms"], "overhead": found["overhead_ms"]}
    for name, times in rows.items():
        print(f"{name:12}" + "".join(f"{key} {value:8.2f} ms  " for key, value in times.items()))


if __name__ == "__main__":
    main()
