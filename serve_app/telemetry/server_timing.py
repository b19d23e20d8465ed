"""Where the time of a request went, as the header that browsers show beside it."""

from __future__ import annotations

from collections.abc import Mapping


def server_timing(seconds: Mapping[str, float]) -> str:
    """The value of a Server-Timing header: stages in their order, in milliseconds.

    Args:
        seconds: Seconds by stage; the names must be tokens (letters, digits, underscores).
    """
    return ", ".join(f"{stage};dur={stage_s * 1000:.3f}" for stage, stage_s in seconds.items())
