"""The command line as users type it: real processes' worth of work, real files, one sentence a mistake."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from factories import plan_for
from survival import running, wait_until

from appliance.model import model_file
from appliance.model.faster_rcnn import build_network
from appliance.training.run_folder import RunFolder
from appliance.training.runs import summarise

APPLIANCE = str(Path(sys.executable).with_name("appliance"))


def test_help_lists_every_command() -> None:
    shown = subprocess.run([APPLIANCE, "--help"], capture_output=True, text=True, check=True)
    for command in ("demo", "train", "evaluate", "score", "serve", "data"):
        assert f"  {command} " in shown.stdout


def test_sample_check_and_stats(run_appliance, tmp_path, capsys) -> None:
    assert run_appliance("data", "sample", tmp_path / "d", "--train", 2, "--test", 1) == 0
    assert len(list((tmp_path / "d" / "train" / "JPEGImages").iterdir())) == 2
    assert run_appliance("data", "stats", tmp_path / "d" / "train") == 0
    assert "Total classes: 8, total images: 2" in capsys.readouterr().out
    assert run_appliance("data", "check", tmp_path / "d") == 0
    (tmp_path / "d" / "train" / "Annotations" / "train_0000.xml").unlink()
    assert run_appliance("data", "check", tmp_path / "d") == 1
    assert "train_0000" in capsys.readouterr().out


def test_evaluate_prints_figures_and_writes_a_report(
    run_appliance, tiny_scenes, tiny_scenes_dir, tmp_path, capsys
) -> None:
    spec = plan_for(tiny_scenes, steps=1).spec.with_settings(proposals_post_nms=30)
    model_file.save(str(tmp_path / "m.safetensors"), build_network(spec), spec)
    arguments = ("evaluate", tmp_path / "m.safetensors", tiny_scenes_dir / "test")
    assert run_appliance(*arguments, "-o", tmp_path / "report", "--json") == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    written = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert printed == written
    assert 0 <= written["PASCAL/Precision/mAP@0.5IOU"] == written["map_50"] <= 1
    assert (tmp_path / "report" / "index.html").exists()
    assert run_appliance(*arguments) == 0
    assert "mAP@0.5" in capsys.readouterr().out


@pytest.mark.usefixtures("ray_cluster")
def test_train_and_score_on_ray(
    run_appliance, monkeypatch, tiny_scenes_dir, tiny_model_path, tmp_path, capsys
) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(tiny_scenes_dir / "test" / "JPEGImages", pictures)
    (pictures / "broken.jpg").write_bytes(b"no picture")
    model = tmp_path / "m.safetensors"
    settings = tmp_path / "train.yaml"
    settings.write_text("mosaic: 1.0\nsteps: 7\n")  # flags win
    monkeypatch.chdir(tiny_scenes_dir)  # relative paths mean the user's folder, not a worker's
    assert (
        run_appliance(
            *("train", "train", "--out", model, "--run-dir", tmp_path / "run"),
            *("--init", os.path.relpath(tiny_model_path), "--steps", 2, "--json"),
            *("--config", settings),
        )
        == 0
    )
    trained = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (trained["steps"], trained["images"], trained["model"]) == (2, 6, str(model))
    assert model_file.load(str(model)).info.training["mosaic"] == 1.0
    score = ("score", model, pictures, tmp_path / "scores", "--quiet")
    assert run_appliance(*score, "--json") == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["images"], summary["rows"]) == (3, 3)
    assert summary["errors_by_kind"] == {"unreadable": 1}
    assert run_appliance(*score) == 0  # the same again: nothing is left to do
    assert run_appliance(*score, "--min-score", "0.9") == 1
    assert "error: The output exists already" in capsys.readouterr().err
    assert run_appliance(*score, "--overwrite") == 0
    assert "errors: unreadable" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "nowhere", "--no-check"], "error: No such dataset folder"),
        (["train", "nowhere"], "error: No such dataset folder"),
        (["train", "nowhere", "--resume"], "error: --resume needs the folder of the run"),
        (["data", "stats", "nowhere"], "error: No such dataset folder"),
        (["train", "nowhere", "--config", "missing.yaml"], "error: Cannot read the file"),
        (["evaluate", "nowhere.safetensors", "x"], "error: Cannot read the file"),
        (["score", "nowhere.safetensors", "nowhere", "out"], "error: "),
        (["serve", "nowhere.safetensors"], "error: Cannot read the file: nowhere.safetensors"),
        (["demo", "--data", "nowhere", "--out", "OUT"], "error: "),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_1(
    run_appliance, tmp_path, monkeypatch, capsys, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [str(tmp_path / "out") if text == "OUT" else text for text in arguments]
    assert run_appliance(*given) == 1
    stderr = capsys.readouterr().err
    assert stderr.splitlines()[-1].startswith(sentence)
    assert "Traceback" not in stderr


def test_a_mistake_is_one_sentence_from_the_shell_too(tmp_path) -> None:
    command = [APPLIANCE, "score", "nowhere.safetensors", "nowhere", "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize(
    "command",
    [("train",), ("train", "--no-check"), ("data", "augment", "-o", "sheet.png")],
    ids=["train", "train unchecked", "augment"],
)
def test_of_divided_data_one_part_is_named(
    run_appliance, tiny_scenes_dir, monkeypatch, tmp_path, capsys, command
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_appliance(*command, tiny_scenes_dir) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == (
        f"error: The data is divided into parts: {tiny_scenes_dir} (got train, test, expected one of "
        f"them). Give {tiny_scenes_dir}#train."
    )
    assert run_appliance(*command, "--help") == 0
    shown = capsys.readouterr().out
    assert "DATA#train for one part of divided data" in " ".join(shown.split())


def test_a_model_file_that_is_none_is_refused(run_appliance, tmp_path, capsys) -> None:
    (tmp_path / "model.bin").write_bytes(b"not a model")
    assert run_appliance("serve", tmp_path / "model.bin") == 1
    assert "Not a model file" in capsys.readouterr().err


def test_a_class_training_never_saw_is_named(
    run_appliance, tiny_model_path, tiny_scenes_dir, capsys
) -> None:
    assert run_appliance("evaluate", tiny_model_path, tiny_scenes_dir / "test") == 1
    message = capsys.readouterr().err
    assert "expected one of circle, square" in message
    assert "test_000" in message


def test_ctrl_c_and_a_closed_pipe_end_quietly(tmp_path) -> None:
    code = (
        "from appliance.cli import main\ndef command(): raise {error}\nmain.run_command(command)\n"
    )
    for error, exit_code in (("KeyboardInterrupt", 130), ("BrokenPipeError", 141)):
        done = subprocess.run(
            [sys.executable, "-c", code.format(error=error)], capture_output=True, text=True
        )
        assert done.returncode == exit_code
        assert done.stderr == ("stopped\n" if exit_code == 130 else "")
        assert "Traceback" not in done.stderr


def test_jobs_are_the_commands_of_the_same_name() -> None:
    for name in ("train", "evaluate", "batch_score"):
        shown = subprocess.run(
            [sys.executable, "-m", f"jobs.{name}", "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert ": appliance " in shown.stdout


@pytest.mark.parametrize(
    ("stops", "exit_code"),
    [
        pytest.param([signal.SIGINT], 130, id="ctrl-c"),
        # Twice, as from who is impatient.
        pytest.param([signal.SIGTERM] * 2, 143, id="sigterm", marks=pytest.mark.slow),
        # Without an end: also while it ends, and while it clears away.
        pytest.param(None, 130, id="ctrl-c again and again"),
    ],
)
def test_a_training_that_is_stopped_leaves_nothing_running(
    stops, exit_code, tiny_scenes_dir, tiny_model_path, tmp_path
) -> None:
    with training_in_a_terminal(tiny_scenes_dir, tiny_model_path, tmp_path) as process:
        metrics = tmp_path / "run" / "metrics.jsonl"
        wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, process)
        children = process.children(recursive=True)
        folders = session_folders(children)
        assert len(folders) == 1
        for stop in stops or ():
            os.killpg(process.pid, stop)
        while stops is None and process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            psutil.wait_procs([process], timeout=0.02)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == exit_code
    *_, sentence, last_line = stderr.splitlines()
    assert last_line == "stopped"
    assert "Traceback" not in stderr
    assert "SIGTERM" not in stderr
    if stops is None:
        assert "Training was stopped after" not in stderr  # nobody has waited for that
    else:
        (step,) = RunFolder(tmp_path / "run").checkpoints().steps()
        assert sentence.startswith(f"Training was stopped after step {step} of 100000: ")
        assert sentence.endswith(f"--run-dir {tmp_path / 'run'} --resume.")
    assert summarise(str(tmp_path / "run")).status == "stopped"
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert not Path(folders.pop()).exists()
    assert list((tmp_path / "temporary").iterdir()) == []


@contextlib.contextmanager
def training_in_a_terminal(tiny_scenes_dir, tiny_model_path, tmp_path) -> Iterator[psutil.Popen]:
    """A training that would never end, with a process group of its own, which a terminal sends Ctrl-C."""
    (tmp_path / "temporary").mkdir()
    command = [
        *(APPLIANCE, "train", tiny_scenes_dir / "train", "--init", tiny_model_path),
        *("--steps", "100000", "--checkpoint-every", "100000", "--no-check"),
        *("--run-dir", tmp_path / "run", "--out", tmp_path / "m.safetensors"),
    ]
    environment = {"TMPDIR": str(tmp_path / "temporary")}
    with running(command, start_new_session=True, **environment) as process:
        yield process


def session_folders(processes) -> set[str]:
    """Where Ray keeps what it writes, by the words that its processes were started with."""
    words = [word for process in processes for word in process.cmdline()]
    return {match[0] for word in words if (match := re.search(r"/tmp/ray-\w+", word))}


def test_what_needs_no_cluster_is_refused_before_one_starts(
    run_appliance, tiny_scenes_dir, tiny_model_path, tmp_path, capsys
) -> None:
    shutil.copytree(tiny_scenes_dir / "train", tmp_path / "cut")
    picture = tmp_path / "cut" / "JPEGImages" / "train_0002.jpg"
    picture.write_bytes(picture.read_bytes()[:2000])
    assert run_appliance("train", tmp_path / "cut", "--run-dir", tmp_path / "run") == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: The data cannot be used: ")
    assert "train_0002" in message
    train = ("train", tiny_scenes_dir / "train", "--run-dir", tmp_path / "run")
    assert run_appliance(*train, "--batch-size", 3, "--workers", 2) == 1
    assert "cannot be split evenly over the workers" in capsys.readouterr().err
    assert run_appliance(*train, "--resume") == 1
    assert "There is no training run to go on with" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert run_appliance("serve", tiny_model_path, "--port", port) == 1
    assert f"Cannot listen there: 127.0.0.1:{port}" in capsys.readouterr().err
