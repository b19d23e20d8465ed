"""The ways to score a folder that are compared, and one round of one of them."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet

from benchmarks.online.protocols import DETECT, Found, WrongAnswerError
from benchmarks.peers.agreement import found_of
from benchmarks.peers.detector import WEIGHTS
from benchmarks.peers.preparation import Material
from benchmarks.peers.processes import PeerFailedError, Running

FOLDER = Path(__file__).parent
OURS = "ours"
_DETECTOR = FOLDER.parent / "detector.py"
_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Job:
    """One side of the comparison.

    Attributes:
        name: As options and tables say it.
        packages: Whose versions are told.
        user_code: What a user writes for it.
        requirements: Whose file of pinned packages it needs; None where the project pins them.
        variables: Of its environment, besides those that all have.
        settings: How it is configured, in words.
    """

    name: str
    packages: tuple[str, ...]
    user_code: tuple[Path, ...] = ()
    requirements: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""

    def command(self, python: Path, model: str, pictures: Path, output: Path) -> list[str]:
        """What scores a folder."""
        if self.name == OURS:
            words = ["score", model, str(pictures), str(output / "scores"), "--json"]
            return [sys.executable, "-m", "appliance.cli.main", *words]
        module = f"benchmarks.peers.batch.{self.user_code[0].stem}"
        return [str(python), "-m", module, str(pictures), str(output)]


JOBS = {
    job.name: job
    for job in (
        Job(OURS, ("ray",), settings="appliance score MODEL PICTURES SCORES, defaults; no code"),
        Job(
            "dataloader",
            ("torch",),
            (FOLDER / "dataloader_loop.py", _DETECTOR),
            settings="batches of 8, one process that reads ahead, torch with both cores",
        ),
        Job(
            "ray_data",
            ("ray",),
            (FOLDER / "ray_data.py", _DETECTOR),
            variables={"RAY_USAGE_STATS_ENABLED": "0"},
            settings="batches of 8, two actors of one CPU",
        ),
        Job(
            "daft",
            ("daft",),
            (FOLDER / "daft_job.py", _DETECTOR),
            requirements="daft",
            variables={"DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"},
            settings="batches of 8, max_concurrency=2, one thread of torch each",
        ),
        # Plain torchvision is quicker on CPUs when its pictures come one by one.
        Job(
            "dataloader_tuned",
            ("torch",),
            (FOLDER / "dataloader_loop.py", _DETECTOR),
            variables={"BATCH": "1"},
            settings="as dataloader, batches of 1",
        ),
        Job(
            "ray_data_tuned",
            ("ray",),
            (FOLDER / "ray_data.py", _DETECTOR),
            variables={"RAY_USAGE_STATS_ENABLED": "0", "BATCH": "1"},
            settings="as ray_data, batches of 1",
        ),
        Job(
            "daft_tuned",
            ("daft",),
            (FOLDER / "daft_job.py", _DETECTOR),
            requirements="daft",
            variables={"DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1", "BATCH": "1"},
            settings="as daft, batches of 1",
        ),
    )
}


def score(job: Job, python: Path, material: Material, pictures: Path) -> dict[str, Any]:
    """Scores a folder; speed is that of the steady state, from the first batch to the last.

    Raises:
        PeerFailedError: It fails, or finds something else than plain torchvision.
    """
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        output = Path(folder)
        variables = {WEIGHTS: material.weights, **job.variables}
        began_s = time.time()
        command = job.command(python, material.model, pictures, output)
        with Running(command, variables, output) as running:
            with running.watched() as samples_mib:
                running.wait(_TIMEOUT_S)
            wall_s = time.time() - began_s
            said = running.said()
        files = sorted(output.rglob("*.parquet"))
        rows = [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
        images = len(list(pictures.iterdir()))
        told = _of_ours(said) if job.name == OURS else _of_rows(rows, began_s)
    compare_rows(job, rows, material, images)
    speed = images / told["seconds"] if "seconds" in told else told["images_per_s"]
    return {
        "images": images,
        "images_per_s": speed,
        "start_up_s": told["start_up_s"],
        "wall_s": round(wall_s, 2),
        "peak_mib": max(samples_mib),
        "samples_mib": samples_mib,
    }


def _of_ours(said: str) -> dict[str, float]:
    summary = json.loads(said.splitlines()[-1])
    return {name: float(summary[name]) for name in ("images_per_s", "start_up_s")}


def _of_rows(rows: Sequence[Mapping[str, Any]], began_s: float) -> dict[str, float]:
    stamps = [json.loads(row["found"]) for row in rows]
    first_s = min(stamp["began_s"] for stamp in stamps)
    last_s = max(stamp["ended_s"] for stamp in stamps)
    return {"seconds": last_s - first_s, "start_up_s": first_s - began_s}


def compare_rows(
    job: Job, rows: Sequence[Mapping[str, Any]], material: Material, images: int
) -> None:
    """Holds every row of a job's Parquet files against what plain torchvision finds.

    Args:
        job: Whose they are.
        rows: `path` and `found`, as `stamped.detect_stamped` gives it; of ours, rows of records.
        material: What was sent; picture N of the folder is number N of these, from the front again and again.
        images: How many rows there should be.

    Raises:
        PeerFailedError: Others were found, or not as many.
    """
    sent = material.read_pictures()
    held = material.references()
    if len(rows) != images:
        raise PeerFailedError(f"{len(rows)} rows of {images} pictures")
    for row in rows:
        name = Path(row["image_uri" if job.name == OURS else "path"]).name
        picture = sent[int(Path(name).stem) % len(sent)]
        try:
            found: Found = (
                DETECT.read(json.dumps(row).encode(), [picture])[0]
                if job.name == OURS
                else found_of(json.loads(row["found"]))
            )
            held.check(found, picture)
        except WrongAnswerError as error:
            raise PeerFailedError(f"{name}: {error}") from None
