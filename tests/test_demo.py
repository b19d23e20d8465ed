"""The main job, small: every stage for real, on a cluster of its own, in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

APPLIANCE = str(Path(sys.executable).with_name("appliance"))


def run_demo(data: Path, init: Path, out: Path) -> dict:
    """The summary that the demo prints last, of two steps of training on two thirds of the pictures."""
    command = [
        *(APPLIANCE, "demo", "--data", data, "--test-fraction", "0.34"),
        *("--init", init, "--steps", "2", "--out", out, "--quiet", "--json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, input="")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def leave_a_demo(out: Path) -> None:
    """A folder as an earlier demo might have left it."""
    out.mkdir()
    for name in (".appliance-demo", "summary.json", "of_the_last_demo.txt"):
        (out / name).write_text("of the last demo")


@pytest.mark.timeout(400)
def test_the_demo_on_own_pictures_leaves_everything_it_promises_in_place_of_the_last_one(
    tiny_scenes_dir, tiny_model_path, tmp_path
) -> None:
    out = tmp_path / "out"
    leave_a_demo(out)
    summary = run_demo(tiny_scenes_dir / "train", tiny_model_path, out)
    assert summary == json.loads((out / "summary.json").read_text())
    assert summary["http_equals_batch"] is True
    assert (summary["train_steps"], summary["train_images"], summary["test_images"]) == (2, 4, 2)
    assert len(summary["ap_50"]) == 8
    for name in ("map_50", "train_wall_s", "batch_images_per_s", "http_p50_ms", "total_wall_s"):
        assert isinstance(summary[name], float), name
    assert set(summary["versions"]) >= {"python", "torch", "torchvision", "ray"}
    for name in ("model.safetensors", "report/index.html", "run/metrics.jsonl", "scores/parts"):
        assert (out / name).exists(), name
    assert not (out / "of_the_last_demo.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow  # Over a minute. Trainings that repeat bit for bit are proved on their own, and quickly.
@pytest.mark.timeout(800)
def test_the_demo_again_in_the_same_folder_gives_the_same_figures(
    tiny_scenes_dir, tiny_model_path, tmp_path
) -> None:
    runs = [
        run_demo(tiny_scenes_dir / "train", tiny_model_path, tmp_path / "out") for _ in range(2)
    ]
    assert runs[0]["map_50"] == runs[1]["map_50"]
    assert runs[0]["ap_50"] == runs[1]["ap_50"]


def test_a_file_in_the_way_is_refused_in_one_sentence(run_appliance, tmp_path, capsys) -> None:
    (tmp_path / "out").write_text("a file")
    assert run_appliance("demo", "--out", tmp_path / "out") == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: The output is not a folder")
    assert (tmp_path / "out").read_text() == "a file"


def test_a_folder_that_is_no_demos_is_never_touched(run_appliance, tmp_path, capsys) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert run_appliance("demo", "--out", tmp_path) == 1
    assert "The output folder is in use" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_broken_own_data_is_refused_with_the_file_named_and_the_last_demo_kept(
    run_appliance, tiny_scenes_dir, tmp_path, capsys
) -> None:
    shutil.copytree(tiny_scenes_dir / "train", tmp_path / "data")
    (tmp_path / "data" / "JPEGImages" / "train_0002.jpg").write_bytes(b"broken")
    out = tmp_path / "out"
    leave_a_demo(out)
    assert run_appliance("demo", "--data", tmp_path / "data", "--out", out) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ")
    assert "train_0002.jpg" in message
    assert (out / "summary.json").read_text() == "of the last demo"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
