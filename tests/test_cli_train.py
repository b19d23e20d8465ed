"""The command that trains: what it shows before, what a dry run says, what comes of validation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from factories import TINY, plan_for
from registry_cases import registered
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from appliance import storage
from appliance.errors import StorageError
from appliance.model import model_file
from appliance.on_ray.training import Workers, check_run
from appliance.on_ray.workers import refuse_without_gpus, room_for
from appliance.registry.references import Reference
from appliance.training.disk_space import disk_need
from appliance.training.monitor import read_metrics, read_validations
from appliance.training.plan import TrainingPlan
from appliance.training.run import train_here
from appliance.training.runs import recorded


@pytest.fixture
def tiny_yaml(tmp_path) -> Path:
    """Settings of a tiny network, in the form of a settings file."""
    path = tmp_path / "tiny.yaml"
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in TINY.items()}
    path.write_text(yaml.safe_dump({**plain, "precision": "float32"}))
    return path


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_dry_run_shows_plan_time_and_memory_and_writes_nothing(
    run_appliance, tiny_scenes_dir, tiny_yaml, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    before = files_below(tmp_path), files_below(tiny_scenes_dir)
    arguments = [
        *("train", tiny_scenes_dir / "train", "--config", tiny_yaml, "--dry-run"),
        *("--validation", tiny_scenes_dir / "test", "--workers", "2", "--steps", 400),
    ]
    assert run_appliance(*arguments, "--json") == 0
    out, err = capsys.readouterr()
    found = json.loads(out.splitlines()[-1])
    plan = TrainingPlan.from_json(found["plan"])
    assert (plan.steps, plan.config.batch_size, plan.config.validate_every_steps) == (400, 2, 40)
    assert plan.spec.backbone == "mobilenet_v3_small"
    assert found["steps"] == 10
    assert found["training_s"] == pytest.approx(400 * found["step_s"])
    assert found["images_per_s"] == pytest.approx(2 / found["step_s"])
    assert found["validation_s"] > 0
    assert 0 <= found["data_wait_share"] < 1
    resident_bytes = psutil.Process().memory_info().rss
    assert 0.3 * resident_bytes < found["peak_bytes"] < 3 * resident_bytes
    for text in ("input size, pixels", "k-means proposes", "every 40 steps", "Settings: steps 400"):
        assert text in " ".join(err.split())
    assert run_appliance(*arguments, "--quiet") == 0
    out, err = capsys.readouterr()
    assert "peak memory of the process, one worker" in out
    assert "Nothing was trained or written." in out
    assert "k-means" not in err
    assert (files_below(tmp_path), files_below(tiny_scenes_dir)) == before


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--batch-size", 2, "--workers", 3), "cannot be split evenly over the workers"),
        (
            ("--batch-size", 4, "--workers", 2, "--accumulation-steps", 3),
            "fewer pictures than parts",
        ),
    ],
)
def test_a_dry_run_refuses_what_the_run_itself_would(
    run_appliance, tiny_scenes_dir, tiny_yaml, capsys, flags, sentence
) -> None:
    arguments = ("train", tiny_scenes_dir / "train", "--config", tiny_yaml, "--no-check")
    assert run_appliance(*arguments, "--dry-run", *flags) == 1
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_a_run_that_goes_on_divides_its_batch_as_before_whatever_memory_is_free_today(
    run_appliance, tiny_scenes_dir, tiny_yaml, tiny_scenes, tmp_path, capsys
) -> None:
    before = plan_for(tiny_scenes, steps=2, batch_size=2, accumulation_steps=2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text(json.dumps(before.to_json()))
    arguments = [
        *("train", tiny_scenes_dir / "train", "--config", tiny_yaml, "--steps", 2, "--dry-run"),
        *("--resume", "--json", "--quiet", "--no-check", "--run-dir"),
    ]
    parts = []
    for run_dir in (tmp_path / "run", tmp_path / "none"):
        assert run_appliance(*arguments, run_dir) == 0
        plan = TrainingPlan.from_json(json.loads(capsys.readouterr().out.splitlines()[-1])["plan"])
        parts.append(plan.config.accumulation_steps)
    assert parts == [2, 1]


@pytest.mark.usefixtures("ray_cluster")
def test_training_with_validation_keeps_the_best_and_is_seen(
    run_appliance, tiny_scenes_dir, tiny_yaml, tiny_model_path, tmp_path, capsys
) -> None:
    model, run_dir = tmp_path / "m.safetensors", tmp_path / "runs" / "first"
    models = registered(tmp_path / "models", tiny_model_path)
    arguments = [
        *("train", tiny_scenes_dir / "train", "--config", tiny_yaml, "--steps", 6, "--out", model),
        *("--validation", tiny_scenes_dir / "test", "--validate-every", 2, "--run-dir", run_dir),
        *("--set", "score_threshold=0.01", "--keep-checkpoints", 1, "--schedule", "one_cycle"),
        *("--init", "shapes@production", "--register", "scenes", "--registry", models.root_uri),
        *("--promote", "production", "--test", tiny_scenes_dir / "test"),
    ]
    assert run_appliance(*arguments, "--json") == 0
    trained = json.loads(capsys.readouterr().out.splitlines()[-1])
    validations = read_validations(run_dir)
    assert [line["step"] for line in validations] == [2, 4, 6]
    best = max(validations, key=lambda line: line["map_50"])
    assert trained["best_metric"] == pytest.approx(best["map_50"], abs=1e-6)
    assert (trained["step"], trained["stopped_early"]) == (6, False)
    loaded = model_file.load(str(model))
    assert loaded.spec.score_threshold == 0.01
    plan = TrainingPlan.from_json(trained["plan"])
    assert plan == TrainingPlan.from_json(json.loads((run_dir / "plan.json").read_text()))
    assert loaded.info.training == json.loads(json.dumps(plan.config.to_json()))
    assert loaded.info.training["schedule"] == "one_cycle"
    assert trained["registered"] == "scenes:1"
    assert (trained["promotion"]["promoted"], trained["promotion"]["before"]) == (True, None)
    assert models.entry("scenes").aliases == {"production": 1}
    version = models.entry("scenes").version(Reference("scenes"))
    assert version.metrics["map_50"] == pytest.approx(best["map_50"], abs=1e-6)
    assert (version.parent, version.sha256) == ("shapes:1", loaded.sha256)
    assert len(read_metrics(run_dir)) == 6
    tags = EventAccumulator(str(run_dir / "train"), size_guidance={"images": 0}).Reload().Tags()
    assert {"train/loss", "train/images_per_s", "validation/map_50"} <= set(tags["scalars"])
    assert len(tags["images"]) == 2  # every test scene is among the worst four

    assert run_appliance("runs", tmp_path / "runs", "--json") == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["status"], run["step"], run["steps"], run["model"]) == (
        "finished",
        6,
        6,
        str(model),
    )
    assert run["best"] == pytest.approx(trained["best_metric"], abs=1e-6)

    assert run_appliance(*arguments) == 1
    assert "holds a training run already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--workers", "2:1"), "The number of workers is out of range"),
        (("--workers", "many"), "Not a number of workers"),
        (("--steps", "3", "--epochs", "2"), "epochs"),
        (("--set", "stepps=3"), "Did you mean 'steps'"),
        (("--precision", "int4"), "precision"),
        (("--init", "imagnet"), "Did you mean imagenet."),
        (("--init", "shapes:7", "--registry", "nowhere"), "There is no model of that name"),
        (("--register", "My Model"), "That is no name for a model (got 'My Model'"),
    ],
)
def test_wrong_flags_are_one_sentence_before_the_data_is_read(
    run_appliance, capsys, flags, sentence
) -> None:
    assert run_appliance("train", "nowhere", *flags) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ")
    assert sentence in message


def test_validation_data_with_other_labels_is_refused(
    run_appliance, tiny_scenes_dir, tmp_path, capsys
) -> None:
    (tmp_path / "one.csv").write_text("image,label,xmin,ymin,xmax,ymax\nx.png,zebra,1,1,9,9\n")
    (tmp_path / "x.png").write_bytes(
        (tiny_scenes_dir / "test" / "JPEGImages" / "test_0000.jpg").read_bytes()
    )
    arguments = ("train", tiny_scenes_dir / "train", "--validation", tmp_path / "one.csv")
    assert run_appliance(*arguments, "--no-check") == 1
    assert "zebra" in capsys.readouterr().err


def test_what_lies_at_out_is_never_lost_without_a_word(
    run_appliance, tiny_model_path, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model.safetensors"  # the default
    begun = "error: No such dataset folder"  # so far it comes where nothing is in the way

    def told(*arguments: object) -> str:
        assert run_appliance("train", "nowhere", *arguments) == 1
        return capsys.readouterr().err.splitlines()[-1]

    assert told().startswith(begun)
    shutil.copy(tiny_model_path, model)
    assert told() == (
        "error: There is a model file already: model.safetensors. Name another one with --out, or replace "
        "it by --overwrite."
    )
    assert told("--overwrite").startswith(begun)
    assert told("--out", "another.safetensors").startswith(begun)
    (tmp_path / "notes.txt").write_text("what nobody else knows")
    for flags in ((), ("--overwrite",)):
        message = told("--out", "notes.txt", *flags)
        assert message.startswith("error: There is a file already, and it is no model file")
    assert (tmp_path / "notes.txt").read_text() == "what nobody else knows"
    (tmp_path / "empty").touch()  # as mktemp makes it
    assert told("--out", "empty").startswith(begun)
    (tmp_path / "models").mkdir()
    for folder in ("models", "new/"):
        message = told("--out", folder)
        assert f"Cannot write the model file there: {folder} (got a folder" in message
        assert "For instance --out " in message

    # A run that goes on may replace what it has written itself, and nothing else.
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "plan.json").touch()
    with recorded(run_dir, str(model)) as written:
        written(model_file.version_of(str(model)))
    assert told("--run-dir", run_dir, "--resume").startswith(begun)
    assert "holds a training run already" in told("--run-dir", run_dir)
    model_file.save(str(model), *network_and_spec_of(tiny_model_path), name="another")
    assert "There is a model file already" in told("--run-dir", run_dir, "--resume")


def network_and_spec_of(path: Path) -> tuple:
    loaded = model_file.load(str(path))
    return loaded.network, loaded.spec


def test_what_lies_at_out_in_a_store_is_not_lost_either(
    run_appliance, tiny_model_path, s3_uri, capsys
) -> None:
    model = storage.join(s3_uri, "m.safetensors")
    assert run_appliance("train", "nowhere", "--out", model) == 1
    assert "No such dataset folder" in capsys.readouterr().err
    storage.write_bytes(model, tiny_model_path.read_bytes())
    assert run_appliance("train", "nowhere", "--out", model) == 1
    assert "There is a model file already" in capsys.readouterr().err


def test_a_run_that_goes_on_with_another_network_is_refused_before_a_cluster_starts(
    run_appliance, tiny_scenes_dir, tiny_yaml, tiny_scenes, tmp_path, capsys
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "plan.json").write_text(json.dumps(plan_for(tiny_scenes, steps=2).to_json()))
    arguments = [
        *("train", tiny_scenes_dir / "train", "--config", tiny_yaml, "--shorter-side", 128),
        *("--resume", "--run-dir", run_dir, "--out", tmp_path / "m", "--quiet", "--no-check"),
    ]
    assert run_appliance(*arguments) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert "shorter_side_px 128, expected " in message
    assert "Repeat the flags with which the run was begun" in message
    assert [path.name for path in run_dir.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    "command", [("train", "nowhere", "--workers", "2"), ("tune", "nowhere", "--range", "flip=0,1")]
)
def test_gpus_that_this_machine_lacks_are_not_waited_for(command, tmp_path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [Path(sys.executable).with_name("appliance"), *command, "--gpu"],
        env={**environment, "CUDA_VISIBLE_DEVICES": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    workers = 2 if "--workers" in command else 1
    assert done.stderr == (
        f"error: This machine has no GPU that PyTorch can use (got 0 GPUs, expected {workers}, one for each "
        "worker). Leave --gpu out, or name a cluster that has GPUs by --address.\n"
    )


def test_a_cluster_that_is_joined_may_still_get_gpus(caplog) -> None:
    workers = Workers(2, use_gpu=True)
    refuse_without_gpus(workers, "127.0.0.1:6379")
    refuse_without_gpus(Workers(2), None)
    assert not room_for(workers, 4, [{"CPU": 8}, {"CPU": 8, "GPU": 1}])
    assert "room for 1 of 2 workers with 4 CPUs and a GPU each" in caplog.text
    assert room_for(workers, 4, [{"CPU": 8, "GPU": 1}, {"CPU": 4, "GPU": 4}])
    assert room_for(Workers(3), 4, [{"CPU": 8}, {"CPU": 7, "GPU": 1}])


def test_a_disk_without_room_for_the_run_is_noticed_before_it(tiny_scenes, tmp_path) -> None:
    plan = plan_for(tiny_scenes, steps=2, checkpoint_every_steps=1, ema_decay=0.9)
    need = disk_need(plan)
    assert (need.kept, need.written) == (2, 2)
    train_here(plan, tiny_scenes.images, tmp_path / "run", device="cpu", progress=False)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        assert need.checkpoint_bytes <= path.stat().st_size < 1.2 * need.checkpoint_bytes
    check_run(plan, tmp_path / "run", Workers(), resume=True, model_uri=str(tmp_path / "m"))

    # No disk is large enough for these.
    endless = plan_for(tiny_scenes, steps=10**12, checkpoint_every_steps=1, keep_checkpoints=10**11)
    for model in (None, str(tmp_path / "m")):
        with pytest.raises(StorageError, match="too little room for the run.*MiB free") as caught:
            check_run(endless, tmp_path / "new" / "run", Workers(), resume=False, model_uri=model)
        assert "100000000001 checkpoints of " in str(caught.value)
        assert ("and a model file of " in str(caught.value)) == (model is not None)
    with pytest.raises(StorageError, match="too little room for the model file: /proc/m"):
        check_run(plan, tmp_path / "new", Workers(), resume=False, model_uri="/proc/m")
    check_run(plan, tmp_path / "new", Workers(), resume=False, model_uri="s3://models/m")
    assert not (tmp_path / "new").exists()
