"""`appliance runs`: which trainings there are, how they stand, how good they became."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from appliance.cli.options import Json
from appliance.cli.tables import cell, print_json, print_table


def runs(
    folder: Annotated[
        str, typer.Argument(metavar="[DIR]", help="Folder of runs, or of one run.")
    ] = "runs",
    json: Json = False,
) -> None:
    """List training runs: status, step, best validation metric, model.

    Example: appliance runs runs/
    """
    from appliance.training.runs import list_runs

    found = list_runs(folder)
    if json:
        print_json({"runs": [asdict(run) for run in found]})
        return
    if not found:
        print(f"No runs in {folder}.")
        return
    print_table(
        ("run", "status", "step", "loss", "best", "started", "model"),
        [
            (
                *(run.run_dir, run.status, f"{run.step}/{cell(run.steps)}", run.loss),
                None if run.best is None else f"{run.metric} {run.best:.4f} at {run.best_step}",
                *(run.started_at, run.model),
            )
            for run in found
        ],
        dispensable=("model", "started", "loss", "best"),
    )
    for run in found:
        if run.error:
            print(f"{cell(run.run_dir)} failed: {run.error}")
