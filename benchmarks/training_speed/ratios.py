"""What the sides come to beside each other: each round by itself, then the median of the rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

PLAIN = "plain"
OURS = "ours"
RAY_ONE = "ray_one"
RAY_ONE_THREAD = "ray_one_of_one_thread"
RAY_TWO = "ray_two_of_one_thread"
SIDES = (PLAIN, OURS, RAY_ONE, RAY_ONE_THREAD, RAY_TWO)

_RATIOS = {
    "ours_to_plain": (OURS, PLAIN),
    "ray_one_to_ours": (RAY_ONE, OURS),
    "two_workers_to_one": (RAY_TWO, RAY_ONE_THREAD),
}


def ratios(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any] | None]:
    """Images/s of one side by those of the other.

    Args:
        results: With `side`, `round` and `images_per_s`.

    Returns:
        Name -> `median` over the rounds and `rounds`; None where a side was left out.
    """
    speeds = {(one["side"], one["round"]): one["images_per_s"] for one in results}
    rounds = sorted({one["round"] for one in results})
    compared: dict[str, dict[str, Any] | None] = {}
    for name, (side, other) in _RATIOS.items():
        each = [
            speeds[side, number] / speeds[other, number]
            for number in rounds
            if (side, number) in speeds and (other, number) in speeds
        ]
        compared[name] = {"median": median(each), "rounds": each} if each else None
    return compared


def line(one: Mapping[str, Any]) -> str:
    """One training as a line for people."""
    split = ", ".join(f"{name} {ms:.0f}" for name, ms in one["split_ms"].items())
    return (
        f"round {one['round']} {one['side']:22} {one['images_per_s']:7.2f} images/s,"
        f" step {one['step_ms']:.0f} ms ({split}), loss {one['final_loss']:.3f},"
        f" AP50 {one['map_50']:.3f}"
    )
