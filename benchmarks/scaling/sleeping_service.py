"""`appliance` with a service whose model sleeps.

    python -m benchmarks.scaling.sleeping_service serve MODEL --replicas 8

Options are those of `appliance serve`: only the class of the replica is another one.
"""

from __future__ import annotations

from typing import Any

from benchmarks.serving.command import run_with_replicas


def _replica() -> Any:
    from benchmarks.scaling.sleeping import SleepingService

    return SleepingService


if __name__ == "__main__":
    run_with_replicas(_replica)
