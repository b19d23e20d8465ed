"""The command `appliance` with another class for the replicas of its service, for benchmarks that look inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from appliance.cli.main import main as appliance
from appliance.on_ray import serving


def run_with_replicas(replica: Callable[[], Any]) -> None:
    """Runs the command with the arguments of this program.

    Args:
        replica: Gives the class, derived from `DetectionService`. Called when the cluster runs: what imports Ray
            Serve before would have it miss the variables that it reads then.
    """
    start_service = serving.start_service

    def start(*arguments: Any, **options: Any) -> serving.RunningService:
        from serve_app import app

        app.DetectionService = replica()  # type: ignore[misc]
        return start_service(*arguments, **options)

    serving.start_service = start
    appliance()
