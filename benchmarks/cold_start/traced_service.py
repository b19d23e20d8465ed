"""`appliance` with notes of how far the start of its service has got.

APPLIANCE_BENCH_MARKS=FILE python -m benchmarks.cold_start.traced_service serve MODEL
"""

# ruff: noqa: E402 - what is imported is what is timed

from __future__ import annotations

from benchmarks.cold_start.marks import mark, mark_imports

mark("command: our code")
mark_imports("command", ("ray", "torch", "ray.serve", "serve_app.app"))

from collections.abc import Callable
from typing import Any

from appliance.on_ray import serving
from benchmarks.serving.command import run_with_replicas

mark("command: imported")


def _between_marks(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def marked(*arguments: Any, **options: Any) -> Any:
        mark(f"command: {name}")
        try:
            return function(*arguments, **options)
        finally:
            mark(f"command: {name} ends")

    return marked


def _replica() -> Any:
    from benchmarks.cold_start.traced import TracedService
    from serve_app.ingress import listening

    listening.listen = _between_marks("listen", listening.listen)
    return TracedService


if __name__ == "__main__":
    serving.connect = _between_marks("connect", serving.connect)  # type: ignore[attr-defined]
    run_with_replicas(_replica)
