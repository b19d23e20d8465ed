"""Validation during training: the figures of `appliance evaluate`, and what is seen of them afterwards."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import TINY, plan_for
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.detector import FasterRCNN
from appliance.errors import DatasetError, LabelError
from appliance.labels import LabelMap
from appliance.model import model_file
from appliance.model.spec import ModelSpec
from appliance.training.engine import StepReport
from appliance.training.monitor import (
    RunRecorder,
    TrainingProgress,
    read_metrics,
    read_validations,
)
from appliance.training.run import train_share
from appliance.training.validation import Validator


def report(step: int, **changes) -> StepReport:
    values = {
        "step": step,
        "steps": 4,
        "loss": 1.5,
        "losses": {"loss_objectness": 1.5},
        "learning_rate": 0.1,
        "gradient_norm": 2.0,
        "step_s": 0.5,
        "data_wait_s": 0.1,
        "images": 2,
        "objects": 3,
        "objects_dropped": 0,
    }
    return StepReport(**{**values, **changes})


@pytest.fixture(scope="module")
def learnt(tiny_scenes):
    """A tiny network that has seen a picture often enough to find something on it."""
    plan = plan_for(tiny_scenes, steps=25, batch_size=1, flip=0, scale_jitter=0, colour_jitter=0)
    plan = replace(plan, spec=replace(plan.spec, backbone="resnet18", score_threshold=0.01))
    return train_share(plan, tiny_scenes.images[:1], device="cpu"), plan.spec


def test_the_figures_are_those_of_an_evaluation_of_the_saved_model(
    learnt, tiny_scenes, tmp_path
) -> None:
    network, spec = learnt
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random_state = torch.get_rng_state()
    validator = Validator(tiny_scenes.images[:2], spec, device="cpu")
    assert validator.comparisons() == []
    figures = validator(network, 60)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    path = str(tmp_path / "m.safetensors")
    model_file.save(path, network, spec)
    pair = ObjectDetectionDataset("pair", tiny_scenes.images[:2], tiny_scenes.label_map)
    expected = FasterRCNN.load(path, device="cpu").evaluate_in_detail(pair)
    assert figures["map_50"] == pytest.approx(expected.map_50)
    assert figures["map_50"] > 0.05
    assert figures["coco_ap"] == pytest.approx(expected.coco.ap)
    per_label = {name: value for name, value in expected.ap_50.items() if value is not None}
    assert {name: value for name, value in figures.items() if "/" in name} == {
        f"map_50/{label}": pytest.approx(value) for label, value in per_label.items()
    }


def test_what_cannot_be_measured_is_refused_before_training(tiny_scenes) -> None:
    spec = ModelSpec.of(LabelMap(("water",)), **TINY)
    with pytest.raises(LabelError, match=r"label that the model does not know: .*train_000"):
        Validator(tiny_scenes.images, spec)
    first = tiny_scenes.images[0]
    uncounted = replace(first, difficult=np.ones(len(first), bool))
    spec = ModelSpec.of(tiny_scenes.label_map, **TINY)
    with pytest.raises(DatasetError, match="1 pictures without an object that counts"):
        Validator([uncounted], spec)


def test_validations_and_their_pictures_can_be_read_back_from_tensorboard(
    learnt, tiny_scenes, tmp_path
) -> None:
    network, spec = learnt
    validator = Validator(tiny_scenes.images[:3], spec, device="cpu")
    figures = validator(network, 2)
    recorder = RunRecorder(tmp_path)
    for step in (1, 2):
        recorder.on_step(report(step))
    recorder.on_validation(2, figures, validator.comparisons(limit=2))
    recorder.on_step(report(3))
    recorder.close()
    events = EventAccumulator(str(tmp_path / "train"), size_guidance={"images": 0}).Reload()
    scalars = events.Tags()["scalars"]
    assert {f"validation/{name}" for name in figures} <= set(scalars)
    for name in ("loss", "loss_objectness", "learning_rate", "gradient_norm", "images_per_s"):
        assert [event.step for event in events.Scalars(f"train/{name}")] == [1, 2, 3]
    assert events.Scalars("train/images_per_s")[0].value == pytest.approx(4.0)
    (mean,) = events.Scalars("validation/map_50")
    assert (mean.step, mean.value) == (2, pytest.approx(figures["map_50"], abs=1e-6))
    pictures = events.Tags()["images"]
    assert len(pictures) == 2
    (shown,) = events.Images(pictures[0])
    assert shown.step == 2
    assert (shown.width, shown.height) == (2 * 160, 120)  # truth beside detections
    (line,) = read_validations(tmp_path)
    assert line == {"step": 2, **{name: round(value, 6) for name, value in figures.items()}}
    assert [entry.get("validation", {}).get("step") for entry in read_metrics(tmp_path)] == [
        *(None, None),
        2,
    ]


def test_a_run_that_goes_on_forgets_what_came_after_its_checkpoint(tmp_path) -> None:
    recorder = RunRecorder(tmp_path)
    for step in (1, 2, 3, 4):
        recorder.on_step(report(step))
        recorder.on_validation(step, {"map_50": step / 10})
    recorder.close()
    with (tmp_path / "validation.jsonl").open("a") as file:
        file.write('{"step": 5, "map')  # a line that was being written when the process died
    resumed = RunRecorder(tmp_path, first_step=2)
    resumed.on_validation(3, {"map_50": 0.9})
    resumed.close()
    assert [(line["step"], line["map_50"]) for line in read_validations(tmp_path)] == [
        *((1, 0.1), (2, 0.2)),
        (3, 0.9),
    ]
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_a_step_that_was_left_out_leaves_no_figures_and_is_counted(tmp_path, caplog) -> None:
    recorder = RunRecorder(tmp_path)
    bad = report(1, loss=float("nan"), losses={"a": float("nan")}, skipped=True, skipped_batches=1)
    with caplog.at_level("INFO", "appliance"), TrainingProgress(2) as progress:
        progress.update(recorder.on_step(bad))
        recorder.on_validation(1, {"map_50": 0.25})
        progress.update(recorder.on_step(report(2, skipped_batches=1)))
    recorder.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text)["skipped_batches"] == 1
    assert "NaN" not in text
    (message,) = (record.getMessage() for record in caplog.records)
    assert "mAP@0.5 0.250 after step 1" in message
    assert "1 left out for a loss that was not finite" in message
