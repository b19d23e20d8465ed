"""The command that trains: what it shows before, what a dry run says, what comes of validation."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
import yaml
from factories import TINY, plan_for
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from appliance.model import model_file
from appliance.training.monitor import read_metrics, read_validations
from appliance.training.plan import TrainingPlan


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
    run_appliance, tiny_scenes_dir, tiny_yaml, tmp_path, capsys
) -> None:
    model, run_dir = tmp_path / "m.safetensors", tmp_path / "runs" / "first"
    arguments = [
        *("train", tiny_scenes_dir / "train", "--config", tiny_yaml, "--steps", 6, "--out", model),
        *("--validation", tiny_scenes_dir / "test", "--validate-every", 2, "--run-dir", run_dir),
        *("--set", "score_threshold=0.01", "--keep-checkpoints", 1, "--schedule", "one_cycle"),
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
