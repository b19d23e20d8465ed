"""`appliance score` under `kill -9`: whatever dies, the same command ends with each picture exactly once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from factories import jpeg_bytes

from appliance.bulk.inputs.opening import list_input
from appliance.bulk.part_scorer import PartScorer, ScorerSettings
from appliance.bulk.scores.folder import ScoresFolder
from appliance.bulk.scores.manifest import read_records
from appliance.images.decoding import ImageLimits
from appliance.on_ray import job_run

IMAGES = 160
IMAGES_PER_PART = 2
BROKEN = (3, 77)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(IMAGES):
        data = b"no picture" if index in BROKEN else jpeg_bytes((96, 64), seed=index)
        (folder / f"{index:04d}.jpg").write_bytes(data)
    return folder


def command(model: Path, pictures: Path, output: Path) -> list[object]:
    options = ["--images-per-part", IMAGES_PER_PART, "--workers", "2", "--json"]
    return [sys.executable, "-m", "appliance.cli.main", "score", model, pictures, output, *options]


def digest(output: Path) -> str:
    """Of all rows, sorted, to the last bit."""
    rows = sorted(json.dumps(record.to_row()) for record in read_records(output))
    assert len(rows) == IMAGES
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def parts_done(output: Path) -> int:
    return len(list(output.glob("_job-*/parts/part-*.parquet")))


def of_the_driver(word: str) -> Callable[[psutil.Popen], list[psutil.Process]]:
    """Finds processes below a driver by a word of their command line."""

    def find(driver: psutil.Popen) -> list[psutil.Process]:
        found = []
        for child in driver.children(recursive=True):
            try:
                if word in " ".join(child.cmdline()):
                    found.append(child)
            except psutil.NoSuchProcess:  # pragma: no cover - it ended meanwhile
                continue
        return found

    return find


VICTIMS = {
    "driver": lambda driver: [driver],
    "actor": of_the_driver("ray::MapWorker"),
    "raylet": of_the_driver("raylet/raylet"),
    "head": of_the_driver("gcs_server"),
}


def run_and_kill(
    words: list[object], output: Path, victims: list[str], left: list[psutil.Process]
) -> list[str]:
    """Runs the job and kills one victim after another; those that were found alive.

    Returns when the job has ended, by itself or with a victim. What lives longer than it, such as workers
    that have not noticed yet, is in `left`.
    """
    killed = []
    # Into a file: Ray's agents outlive a killed driver by a minute, and would keep a pipe open.
    errors = output.with_suffix(".stderr")
    with errors.open("w") as stderr:
        driver = psutil.Popen(
            [str(word) for word in words], stdout=subprocess.DEVNULL, stderr=stderr
        )
    for victim in victims:
        after = parts_done(output) + random.randrange(1, 8)
        try:
            wait_until(lambda wanted=after: parts_done(output) >= wanted, driver)
            left += driver.children(recursive=True)
            random.choice(VICTIMS[victim](driver)).kill()
            killed.append(victim)
        except (EndedError, IndexError, psutil.NoSuchProcess):  # pragma: no cover
            break  # it has ended, or is starting such a process
    driver.wait(timeout=240)
    assert "Traceback" not in errors.read_text()
    return killed


class EndedError(Exception):
    """The job was faster than its killer."""


def wait_until(condition: Callable[[], bool], process: psutil.Popen) -> None:
    """Returns when the condition holds; raises `EndedError` when the process ends before that."""
    while not condition():
        if process.poll() is not None:
            raise EndedError  # pragma: no cover - the job was faster
        psutil.wait_procs([process], timeout=0.02)


def survive(model: Path, pictures: Path, output: Path, rounds: list[list[str]]) -> list[str]:
    """Kills in each round, lets the last run end, and checks that nothing is wrong; who was killed."""
    words = command(model, pictures, output)
    left: list[psutil.Process] = []
    killed = [victim for victims in rounds for victim in run_and_kill(words, output, victims, left)]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["images"], summary["rows"]) == (IMAGES, IMAGES)
    assert summary["errors_by_kind"] == {"unreadable": len(BROKEN)}
    assert sorted(path.name for path in output.iterdir()) == [
        "_manifest.json",
        "_summary.json",
        "parts",
    ]
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(output) in str(p.info)]
    return killed


@pytest.fixture(scope="module")
def clean(tiny_model_path, pictures, tmp_path_factory) -> str:
    """The digest of the rows as they come without a cluster, in this process, undisturbed."""
    folder = ScoresFolder(str(tmp_path_factory.mktemp("clean")))
    facts = {"created_at": "", "mode": "new", "model": {"labels": []}, "input": {}, "settings": {}}
    job = folder.begin(list_input(str(pictures)), IMAGES_PER_PART, **facts)
    threads = torch.get_num_threads()
    scorer = PartScorer(ScorerSettings(str(tiny_model_path), ImageLimits(), device="cpu"))
    parts = [scorer.score_part(part).counts for part in job_run.part_jobs(job, {})]
    torch.set_num_threads(threads)
    job.decide(parts, {}, None)
    job.publish()
    return digest(Path(folder.uri))


@pytest.mark.timeout(600)
def test_a_killed_job_goes_on_where_it_was(clean, tiny_model_path, pictures, tmp_path) -> None:
    output = tmp_path / "scores"
    killed = survive(tiny_model_path, pictures, output, [["actor", "driver"]])
    assert killed == ["actor", "driver"]
    assert digest(output) == clean


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thirty_kills_cost_no_row_and_change_no_bit(
    clean, tiny_model_path, pictures, tmp_path
) -> None:
    killed: list[str] = []
    for attempt in range(40):
        output = tmp_path / f"scores-{attempt}"
        last = ["driver", "raylet", "head"][attempt % 3]
        rounds = [["actor", "actor", last], ["driver"]]
        killed += survive(tiny_model_path, pictures, output, rounds)
        assert digest(output) == clean
        if len(killed) >= 30:
            break
    print("killed:", {victim: killed.count(victim) for victim in sorted(set(killed))})
    assert len(killed) >= 30
    assert set(killed) == set(VICTIMS)
