"""Steps of a load as lines for people."""

from __future__ import annotations

from typing import Any

from benchmarks.online.latencies import NEEDED
from benchmarks.report.rows import missed_because

_TOLD_FROM = 0.01
_REASONS = 3

HEAD = (
    f"{'':14} {'rate':>7} {'requests':>8} {'right/s':>8} {'in time/s':>9} {'missed':>7} "
    f"{'p50':>7} {'p90':>7} {'p95':>7} {'p99':>7} {'p99.9':>7} {'max ms':>8}  generator"
)
RULE = (
    "p90 is told from 100 samples on, p95 from 200, p99 from 10,000, p99.9 from 100,000. Latencies are those of "
    "right answers, from when a request was due; missed are all others, and those later than the objective."
)


def step_line(name: str, step: dict[str, Any]) -> str:
    """One step, and below it why more than one request in a hundred was missed."""
    times = step["latency_ms"]
    percentiles = " ".join(f"{_ms(times[percentile]):>7}" for percentile in NEEDED)
    generator = step["generator"]
    void = f"  VOID: {'; '.join(step['void'])}" if step["void"] else ""
    return (
        f"{name:14} {step['rate_per_s']:7.2f} {step['requests']:8} {step['answered_per_s']:8.2f} "
        f"{step['goodput_per_s']:9.2f} {step['missed_share']:7.2%} {percentiles} {_ms(times['max']):>8}  "
        f"{generator['cpu_share_mean']:.2f} cores, p99 {generator['lag_ms']['p99']:.1f} ms late{void}"
        f"{_missed(step)}"
    )


def _missed(step: dict[str, Any]) -> str:
    reasons = missed_because(step) if step["missed_share"] > _TOLD_FROM else []
    told = ", ".join(f"{count:,} {reason}" for reason, count in reasons[:_REASONS])
    more = ", and others" if len(reasons) > _REASONS else ""
    return f"\n{'':14} missed: {told}{more}" if told else ""


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
