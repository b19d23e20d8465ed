"""The main job, small: every stage for real, on a cluster of its own, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

APPLIANCE = str(Path(sys.executable).with_name("appliance"))


@pytest.mark.timeout(400)
def test_the_demo_on_own_pictures_leaves_everything_it_promises(
    tiny_scenes_dir, tiny_model_path, tmp_path
) -> None:
    out = tmp_path / "out"
    command = [
        *(APPLIANCE, "demo", "--data", tiny_scenes_dir / "train", "--test-fraction", "0.34"),
        *("--init", tiny_model_path, "--steps", "2", "--out", out, "--quiet", "--json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary == json.loads((out / "summary.json").read_text())
    assert summary["http_equals_batch"] is True
    assert (summary["train_steps"], summary["train_images"], summary["test_images"]) == (2, 4, 2)
    assert len(summary["ap_50"]) == 8
    for name in ("map_50", "train_wall_s", "batch_images_per_s", "http_p50_ms", "total_wall_s"):
        assert isinstance(summary[name], float), name
    assert set(summary["versions"]) >= {"python", "torch", "torchvision", "ray"}
    for name in ("model.safetensors", "report/index.html", "run/metrics.jsonl", "scores/parts"):
        assert (out / name).exists(), name
    again = subprocess.run(command, capture_output=True, text=True, input="")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout.splitlines()[-1])["map_50"] == summary["map_50"]


def test_a_file_in_the_way_is_refused_in_one_sentence(tmp_path) -> None:
    (tmp_path / "out").write_text("a file")
    done = subprocess.run(
        [APPLIANCE, "demo", "--out", tmp_path / "out"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: The output is not a folder")
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_no_demos_is_never_touched(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = subprocess.run([APPLIANCE, "demo", "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert "The output folder is in use" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_broken_own_data_is_refused_with_the_file_named_and_the_last_demo_kept(
    tiny_scenes_dir, tmp_path
) -> None:
    import shutil

    shutil.copytree(tiny_scenes_dir / "train", tmp_path / "data")
    (tmp_path / "data" / "JPEGImages" / "train_0002.jpg").write_bytes(b"broken")
    earlier = tmp_path / "out"
    earlier.mkdir()
    for name in (".appliance-demo", "summary.json"):
        (earlier / name).write_text("of the last demo")
    done = subprocess.run(
        [APPLIANCE, "demo", "--data", tmp_path / "data", "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "train_0002.jpg" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert (earlier / "summary.json").read_text() == "of the last demo"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
