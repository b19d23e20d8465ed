"""Compares the ways to score a folder: rounds in turn, and a table."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers.batch.jobs import JOBS, OURS, Job, score
from benchmarks.peers.preparation import prepare_material
from benchmarks.peers.turns import summarise, take_turns


def compare_jobs(
    options: argparse.Namespace, write: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Runs all rounds.

    Args:
        options: Of the command.
        write: Called after every round with what there is.
    """
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        material = prepare_material(
            Path(folder), backbone=options.backbone, cache=options.cache, quick=options.quick
        )
        pictures = Path(folder) / "many"
        pictures.mkdir()
        sources = sorted(Path(material.pictures).glob("*.jpg"))
        for index in range(options.images):
            (pictures / f"{index:06d}.jpg").symlink_to(sources[index % len(sources)])
        result: dict[str, Any] = {
            "images": options.images,
            "picture_bytes": material.mean_bytes,
            "picture_wh": material.size_wh,
        }

        def measure(job: Job, python: Path, number: int) -> dict[str, Any]:
            told = score(job, python, material, pictures)
            line = (
                f"{told['images_per_s']:7.2f} images/s, start {told['start_up_s']:.1f} s, {options.images} pictures agree, "
                f"peak {told['peak_mib']} MiB"
            )
            return {**told, "line": line}

        def after() -> None:
            summarise(result, ("images_per_s", "start_up_s", "wall_s", "peak_mib"), ours=OURS)
            write(result)

        take_turns(
            [JOBS[name] for name in options.peers or JOBS],
            measure,
            rounds=options.rounds,
            environments=options.environments,
            result=result,
            after=after,
        )
    print(table(result))
    return result


def table(result: Mapping[str, Any]) -> str:
    """All sides as lines for people."""
    rows = [f"{'':16} {'images/s':>9} {'ours by it':>10} {'start s':>8} {'MiB':>6} {'lines':>6}"]
    for name, side in result["sides"].items():
        if "failed" in side:
            rows.append(f"{name:16} {side['failed']}")
            continue
        figures = side["figures"]
        ratio = result["ratios"].get(name)
        rows.append(
            f"{name:16} {figures['images_per_s']:9.2f} {'' if ratio is None else format(ratio['median'], '.2f'):>10} "
            f"{figures['start_up_s']:8.1f} {figures['peak_mib']:6.0f} {side['lines_of_user_code']:6}"
        )
    return "\n".join(rows)
