"""Runs as MLflow sees them, in a store of files; and what is said where there is no MLflow."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace

import pytest
from factories import plan_for

from appliance.errors import ConfigError, NonFiniteLossError, ServiceError, TrainingStopped
from appliance.training.mlflow_tracking import tracked

NEEDS_MLFLOW = "needs the extra mlflow"
HAS_MLFLOW = importlib.util.find_spec("mlflow") is not None


def test_without_an_address_nothing_happens(tiny_scenes, tmp_path) -> None:
    with tracked(None, plan_for(tiny_scenes), str(tmp_path)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_that_mlflow_is_missing_is_one_sentence(tiny_scenes, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    sentence = r"MLflow is not installed.*pip install mlflow-skinny"
    with (
        pytest.raises(ConfigError, match=sentence),
        tracked("file:/nowhere", plan_for(tiny_scenes), str(tmp_path)),
    ):
        raise AssertionError("training began")  # pragma: no cover


@pytest.mark.skipif(not HAS_MLFLOW, reason=NEEDS_MLFLOW)
def test_settings_figures_and_the_end_of_a_run_can_be_read_back(tiny_scenes, tmp_path) -> None:
    import mlflow

    def write_steps(run_dir, steps) -> None:
        run_dir.mkdir(exist_ok=True)
        with (run_dir / "metrics.jsonl").open("a") as file:
            for step in steps:
                line = {"step": step, "steps": 4, "loss": 1 / step, "validation": {"step": 1}}
                file.write(json.dumps(line) + "\n")

    plan = plan_for(tiny_scenes, steps=4)
    uri, run_dir = (tmp_path / "store").as_uri(), tmp_path / "first"
    write_steps(run_dir, [1, 2])
    with pytest.raises(TrainingStopped), tracked(uri, plan, str(run_dir)):
        raise TrainingStopped("Stopped", step=2)
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("appliance")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("KILLED", "first")
    assert run.data.params["backbone"] == "mobilenet_v3_small"
    assert run.data.params["steps"] == "4"
    with tracked(uri, plan, str(run_dir)):  # goes on
        write_steps(run_dir, [3, 4])
        (run_dir / "validation.jsonl").write_text(
            '{"step": 4, "map_50": 0.5, "map_50/a,b": 0.25}\n'
        )
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    steps = {m.step for m in client.get_metric_history(run.info.run_id, "train/loss")}
    assert steps == {1, 2, 3, 4}
    assert run.data.metrics == {
        "train/loss": 0.25,
        "validation/map_50": 0.5,
        "validation/map_50.a_b": 0.25,
    }
    other = tmp_path / "second"
    with pytest.raises(NonFiniteLossError), tracked(uri, replace(plan, init="none"), str(other)):
        raise NonFiniteLossError("The loss is not finite")
    statuses = {
        found.info.run_name: found.info.status
        for found in client.search_runs([experiment.experiment_id])
    }
    assert statuses == {"first": "FINISHED", "second": "FAILED"}


@pytest.mark.skipif(not HAS_MLFLOW, reason=NEEDS_MLFLOW)
def test_an_mlflow_that_cannot_be_used_is_told_before_training(tiny_scenes, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    uri = (tmp_path / "file" / "store").as_uri()
    with (
        pytest.raises(ServiceError, match=r"MLflow cannot be used: .*store"),
        tracked(uri, plan_for(tiny_scenes), str(tmp_path)),
    ):
        raise AssertionError("training began")
