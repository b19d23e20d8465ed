"""`appliance data`: sample data, checks and statistics of annotated pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Make, check and describe annotated pictures.")

DataArgument = Annotated[str, typer.Argument(metavar="DATA", help="Pascal VOC folder.")]


@app.command()
def sample(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder to write train/ and test/ to.")],
    train: Annotated[int, typer.Option(min=1, help="Pictures for training.")] = 120,
    test: Annotated[int, typer.Option(min=1, help="Pictures for testing.")] = 20,
    seed: Annotated[int, typer.Option(help="Equal seeds draw equal pictures.")] = 0,
) -> None:
    """Draw shelf scenes of eight grocery classes as Pascal VOC folders."""
    from appliance.annotations.sample_scenes import make_sample_dataset

    make_sample_dataset(out, train=train, test=test, seed=seed)
    print(f"Wrote {train} training and {test} test pictures to {out}")


@app.command()
def check(data: DataArgument) -> None:
    """List defects that break or spoil training; exit code 1 when there are errors."""
    from appliance.annotations.checks import check_dataset

    findings = check_dataset(data)
    for finding in findings:
        print(finding)
    errors = sum(finding.severity == "error" for finding in findings)
    print(f"{errors} errors, {len(findings) - errors} warnings in {data}")
    raise typer.Exit(1 if errors else 0)


@app.command()
def stats(data: DataArgument) -> None:
    """Print classes, objects and box sizes."""
    from appliance.annotations.dataset import ObjectDetectionDataset

    ObjectDetectionDataset.create_from_dir(Path(data).name or "data", data).print_info()
