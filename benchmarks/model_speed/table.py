"""One comparison as lines for people."""

from __future__ import annotations

from typing import Any

_UNKNOWN = "-"


def table(one: dict[str, Any]) -> str:
    """Ours beside torchvision's.

    Args:
        one: What `Bench.compare` answers with.
    """
    rows = (
        ("images/s", _pair(one, "images_per_s", ".2f")),
        ("processor ms an image", _pair(one, "cpu_ms_per_image", ".0f")),
        ("p50 of a call, ms", _latencies(one, "p50")),
        (f"p99 of {one['latency_ms']['n']} calls, ms", _latencies(one, "p99")),
        ("peak memory, MiB", _pair(one, "peak_memory_mib", ".0f")),
        ("AP50", _pair(one, "ap50", ".4f")),
        ("COCO AP", _pair(one, "coco_ap", ".4f")),
    )
    lines = [f"batch {one['batch']:<21} {'appliance':>12} {'torchvision':>12}"]
    lines += [f"  {name:25} {mine:>12} {theirs:>12}" for name, (mine, theirs) in rows]
    lines.append(f"  {'times as fast':25} {one['ratio']:>12.2f}")
    if one["stages"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in one["stages"].items())
        lines.append(f"  time by stage: {shares}")
    return "\n".join(lines)


def _pair(one: dict[str, Any], name: str, form: str) -> tuple[str, str]:
    return _known(one[name], form), _known(one[f"reference_{name}"], form)


def _latencies(one: dict[str, Any], percentile: str) -> tuple[str, str]:
    both = one["latency_ms"][percentile], one["reference_latency_ms"][percentile]
    return _known(both[0], ".1f"), _known(both[1], ".1f")


def _known(value: float | None, form: str) -> str:
    return _UNKNOWN if value is None else format(value, form)
