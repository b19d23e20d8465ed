"""A plan as people read it before training starts, and what a dry run found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from appliance.training.dry_run import DryRun
    from appliance.training.plan import TrainingPlan

_MIB = 2**20
_MINUTE_S = 60


def show_plan(plan: TrainingPlan) -> None:
    """Prints what was decided and why, and all settings, on standard error."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "plan", "why"):
        table.add_column(column, overflow="fold")
    for decision in plan.decisions:
        table.add_row(decision.name, decision.value, decision.reason)
    console = Console(stderr=True, highlight=False, markup=False)
    console.print(table)
    settings = ", ".join(f"{name} {value}" for name, value in plan.config.to_json().items())
    console.print(f"Settings: {settings}", style="dim")


def dry_run_rows(found: DryRun, plan: TrainingPlan) -> list[tuple[str, str]]:
    """What a dry run found, as rows of a table."""
    where = "GPU" if found.on_gpu else "process"
    peak = "unknown" if found.peak_bytes is None else f"{found.peak_bytes / _MIB:,.0f} MiB"
    return [
        ("steps measured", str(found.steps)),
        ("time of a step", f"{found.step_s:.3f} s"),
        ("pictures a second", f"{found.images_per_s:.2f}"),
        ("waiting for data", f"{found.data_wait_share:.0%}"),
        (f"training, {plan.steps:,} steps", duration(found.training_s)),
        ("validation", duration(found.validation_s)),
        (
            "all in all, without the start of workers",
            duration(found.training_s + found.validation_s),
        ),
        (f"peak memory of the {where}, one worker", peak),
    ]


def duration(seconds: float) -> str:
    """`45 s`, `7 min`, `3 h 20 min`."""
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.0f} s"
    minutes = round(seconds / _MINUTE_S)
    return f"{minutes} min" if minutes < _MINUTE_S else f"{minutes // 60} h {minutes % 60} min"
