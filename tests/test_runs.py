"""The list of runs: how each one stands, whatever became of the process that drove it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from factories import plan_for

from appliance import storage
from appliance.errors import NonFiniteLossError, StorageError, TrainingStopped
from appliance.model.model_file import version_of
from appliance.training.run import train_here
from appliance.training.runs import has_written, list_runs, recorded, summarise


def write_run(folder, *, steps=4, done=2, validations=(), metric="map_50") -> str:
    """A folder as a run leaves it, with figures one can check by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"steps": steps, "validation_metric": metric}
    (folder / "plan.json").write_text(json.dumps({"config": config}))
    lines = [json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in range(1, done + 1)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    found = [json.dumps(line) + "\n" for line in validations]
    (folder / "validation.jsonl").write_text("".join(found))
    return str(folder)


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (None, "finished", None),
        (KeyboardInterrupt(), "stopped", None),
        (SystemExit(143), "stopped", None),
        (TrainingStopped("Stopped", step=2), "stopped", None),
        (NonFiniteLossError("The loss is not finite", where="a.jpg"), "failed", "finite: a.jpg"),
        (ValueError("odd"), "failed", "ValueError('odd')"),
    ],
)
def test_the_end_of_a_run_is_kept(tmp_path, error, status, sentence) -> None:
    run_dir = write_run(tmp_path / "run")

    def drive() -> None:
        with recorded(run_dir, "model.safetensors"):
            running = summarise(run_dir)
            assert (running.status, running.error) == ("running", None)
            if error is not None:
                raise error

    if error is None:
        drive()
    else:
        with pytest.raises(type(error)):
            drive()
    run = summarise(run_dir)
    assert (run.status, run.step, run.steps, run.loss) == (status, 2, 4, 0.5)
    assert str(run.model).endswith("/model.safetensors")
    assert run.error is None if sentence is None else sentence in str(run.error)


def test_a_run_whose_process_was_killed_counts_as_stopped(tmp_path) -> None:
    run_dir = write_run(tmp_path / "run")
    program = (
        "import sys\nfrom appliance.training.runs import recorded\n"
        "with recorded(sys.argv[1], 'm'):\n    print('on', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, run_dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"on\n"
        assert summarise(run_dir).status == "running"
        process.kill()
    run = summarise(run_dir)
    assert run.status == "stopped"
    begun = run.started_at
    # Somebody else's process that got its number is not it.
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record |= {"pid": 1, "process_start": record["process_start"] + 1}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    assert summarise(run_dir).status == "stopped"
    # Of a process on another machine nobody here can tell.
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"host": "elsewhere"}))
    assert summarise(run_dir).status == "running"
    with recorded(run_dir, "m"):
        pass
    assert (summarise(run_dir).status, summarise(run_dir).started_at) == ("finished", begun)


def test_the_best_validation_is_that_of_the_metric_that_counts(tmp_path) -> None:
    validations = [
        {"step": 1, "map_50": 0.2, "coco_ap": 0.1},
        {"step": 2, "map_50": 0.9, "coco_ap": 0.3},
        {"step": 3, "map_50": 0.8, "coco_ap": 0.4},
    ]
    for metric, expected in (("map_50", (0.9, 2)), ("coco_ap", (0.4, 3))):
        run = summarise(write_run(tmp_path, done=4, validations=validations, metric=metric))
        assert (run.metric, run.best, run.best_step) == (metric, *expected)


def test_runs_are_found_below_a_folder_and_damaged_files_spoil_nothing(
    tmp_path, run_appliance, capsys
) -> None:
    with recorded(write_run(tmp_path / "b" / "second"), "m.safetensors"):
        pass
    write_run(tmp_path / "done", done=4, validations=[{"step": 4, "map_50": 0.5}])
    broken = write_run(tmp_path / "broken")
    for name in ("run.json", "plan.json"):
        (tmp_path / "broken" / name).write_text('{"half')
    (tmp_path / "broken" / "run.json").write_text('{"status": "of another version"}')
    (tmp_path / "none").mkdir()
    found = {run.run_dir: run for run in list_runs(tmp_path)}
    assert sorted(found) == sorted([str(tmp_path / "b" / "second"), str(tmp_path / "done"), broken])
    assert found[str(tmp_path / "done")].status == "finished"
    assert (found[broken].status, found[broken].steps, found[broken].step) == ("stopped", None, 2)

    assert run_appliance("runs", tmp_path, "--json") == 0
    listed = json.loads(capsys.readouterr().out)["runs"]
    assert {run["run_dir"]: run["best"] for run in listed} == {
        run_dir: run.best for run_dir, run in found.items()
    }
    assert run_appliance("runs", tmp_path / "done") == 0
    shown = "".join(capsys.readouterr().out.split())
    assert "4/4" in shown
    assert run_appliance("runs", tmp_path / "none") == 0
    assert "No runs in" in capsys.readouterr().out
    with pytest.raises(NonFiniteLossError), recorded(broken, "m"):
        raise NonFiniteLossError("The loss is not finite")
    assert run_appliance("runs", broken) == 0
    assert "failed: The loss is not finite" in " ".join(capsys.readouterr().out.split())
    assert run_appliance("runs", tmp_path / "nowhere") == 1
    assert "error: No such folder" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [200, 80, 60])
def test_the_name_of_a_run_is_never_cut(
    tmp_path, run_appliance, monkeypatch, capsys, columns
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(columns))
    names = [f"runs/train-20260101-120000-{letter * 6}" for letter in "ab"] + [f"runs/{'c' * 70}"]
    for name in names[:2]:
        with recorded(write_run(tmp_path / name), "m.safetensors"):
            pass
    assert run_appliance("runs") == 0
    shown = capsys.readouterr().out
    assert all(f" {name} " in shown for name in names[:2])
    assert ("model" in shown.splitlines()[1]) == (columns == 200)
    assert ("Left out for want of room: model" in shown) == (columns < 200)
    # Of one that is longer than the screen no letter is lost, and the status stays beside it.
    write_run(tmp_path / names[2])
    assert run_appliance("runs") == 0
    shown = capsys.readouterr().out
    cells = [line.split("│")[1:3] for line in shown.splitlines() if line.startswith("│")]
    assert names[2] in "".join(first.strip() for first, _ in cells)
    assert sum("stopped" in second or "finished" in second for _, second in cells) == 3


def test_a_run_knows_the_model_file_it_has_written(tmp_path) -> None:
    run_dir, model = write_run(tmp_path / "run"), tmp_path / "m.safetensors"
    assert not has_written(run_dir, str(model))
    model.write_bytes(b"the first")
    with recorded(run_dir, str(model)) as written:
        assert not has_written(run_dir, str(model))
        written(version_of(str(model)))
    assert has_written(run_dir, str(model))
    with recorded(run_dir, str(model)):
        pass  # it goes on, and does not come as far as writing
    assert has_written(run_dir, str(model))
    model.write_bytes(b"somebody else's")
    assert not has_written(run_dir, str(model))
    assert not has_written(run_dir, str(tmp_path / "another"))


def test_a_real_run_in_this_process_is_listed(tiny_scenes, tmp_path) -> None:
    plan = plan_for(tiny_scenes, steps=2)
    train_here(
        plan,
        tiny_scenes.images,
        tmp_path / "run",
        validation=tiny_scenes.images[:2],
        device="cpu",
        progress=False,
    )
    (run,) = list_runs(tmp_path)
    assert (run.status, run.step, run.steps, run.best_step) == ("finished", 2, 2, 2)
    assert run.best is not None


def test_a_folder_that_cannot_be_written_is_told_before_training(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError), recorded(str(tmp_path / "file"), "m"):
        raise AssertionError("training began")  # pragma: no cover


def test_runs_in_an_object_store_are_listed(s3_uri, tmp_path) -> None:
    run_dir = storage.join(s3_uri, "first")
    write_run(tmp_path, validations=[{"step": 2, "map_50": 0.25}])
    with recorded(run_dir, "s3://models/m.safetensors"):
        for path in sorted(tmp_path.iterdir()):
            storage.write_bytes(storage.join(run_dir, path.name), path.read_bytes())
    storage.write_bytes(storage.join(s3_uri, "not-a-plan.json"), b"{}")
    (run,) = list_runs(f"{s3_uri}?region=eu-west-1")
    assert run.run_dir == f"{run_dir}?region=eu-west-1"
    assert (run.status, run.step, run.best) == ("finished", 2, 0.25)
    assert run.model == "s3://models/m.safetensors"
