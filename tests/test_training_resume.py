"""A run that goes on at any step is the same run, bit for bit, whatever it does; and older files go on too."""

from __future__ import annotations

import json
import random
from dataclasses import asdict

import pytest
import safetensors.torch
import torch
from factories import assert_equal_weights, plan_for
from safetensors import safe_open
from torch import nn
from training_cases import run, spoil, told

from appliance.errors import ModelFileError
from appliance.labels import LabelMap
from appliance.model.spec import ModelSpec
from appliance.training import checkpoint as checkpoints
from appliance.training.checkpoint import RunRecord
from appliance.training.config import TrainingConfig
from appliance.training.plan import TrainingPlan

STEPS = 5
RUNS = {
    "plain": {"optimizer": "adamw"},
    "averaged, in parts, in buckets": {
        "optimizer": "adamw",
        "ema_decay": 0.7,
        "batch_size": 4,
        "accumulation_steps": 2,
        "bucket_by_size": True,
        "scale_jitter": 0.3,
    },
    "one cycle, validated": {
        "optimizer": "sgd",
        "schedule": "one_cycle",
        "warmup_fraction": 0.4,
        "ema_decay": 0.5,
        "validate_every_steps": 2,
        "patience": 4,
    },
    "scaled and constant": {
        "optimizer": "sgd",
        "schedule": "constant",
        "learning_rate_scaling": "sqrt",
        "learning_rate_batch": 1,
        "batch_size": 3,
        "accumulation_steps": 3,
        "clip_gradient_norm": 0.5,
        "mosaic": 0.5,
    },
    "stages, with fixed statistics": {
        "learning_rate_stages": ((2, 1e-3), (4, 1e-4)),
        "train_batch_norm": False,
        "frozen_stages": 1,
        "bucket_by_size": True,
        "crop": 0.5,
    },
}


@pytest.mark.parametrize("kind", RUNS)
def test_it_is_the_same_run_wherever_it_was_interrupted(tiny_scenes, tmp_path, kind: str) -> None:
    plan = plan_for(tiny_scenes, steps=STEPS, checkpoint_every_steps=1, **RUNS[kind])
    options = {"validate": told({2: 0.1, 4: 0.3, 5: 0.2})} if "validated" in kind else {}
    states = []
    whole, outcome = run(plan, tiny_scenes.images, on_checkpoint=states.append, **options)
    assert [state.step for state in states] == [1, 2, 3, 4, 5]
    path = str(tmp_path / "checkpoint.safetensors")
    step = random.Random(kind).randrange(1, STEPS)
    checkpoints.save(path, states[step - 1])
    ends = []
    resumed, again = run(
        plan,
        tiny_scenes.images,
        checkpoint=checkpoints.load(path),
        on_checkpoint=ends.append,
        **options,
    )
    assert again == outcome
    assert_equal_weights(whole, resumed)
    for name in ("network_state", "optimizer_state", "average_state"):
        expected = getattr(states[-1], name)
        found = getattr(ends[-1], name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(value, found[key]) for key, value in expected.items()), step
    assert ends[-1].record == states[-1].record


def test_what_was_left_out_is_still_known_after_a_resume(tiny_scenes, tmp_path) -> None:
    plan = plan_for(tiny_scenes, steps=3, skip_bad_batches=2, checkpoint_every_steps=1)
    states = []
    network = spoil(plan.build_network(), [1])
    run(plan, tiny_scenes.images, network, on_checkpoint=states.append)
    path = str(tmp_path / "checkpoint.safetensors")
    checkpoints.save(path, states[1])
    loaded = checkpoints.load(path)
    assert loaded.record == RunRecord(skipped_batches=1)
    assert loaded.config == plan.config
    resumed, _ = run(plan, tiny_scenes.images, checkpoint=loaded)
    assert_equal_weights(resumed, network)


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_file_of_the_first_format_goes_on(tiny_scenes, tmp_path, ema_decay) -> None:
    """It has no format number, no record and none of the settings that came later."""
    plan = plan_for(tiny_scenes, steps=3, checkpoint_every_steps=1, ema_decay=ema_decay)
    states = []
    whole, _ = run(plan, tiny_scenes.images, on_checkpoint=states.append)
    new, old = tmp_path / "new.safetensors", tmp_path / "old.safetensors"
    checkpoints.save(str(new), states[0])
    with safe_open(new, "pt") as file:
        document = json.loads(file.metadata()[checkpoints.METADATA_KEY])
        names = [name for name in file.keys() if not name.startswith("average.")]  # noqa: SIM118
        tensors = {name: file.get_tensor(name) for name in names}
    assert document["format"] == 2
    first_settings = FIRST_SETTINGS.split()
    first = {
        "step": document["step"],
        "spec": document["spec"],
        "config": {name: document["config"][name] for name in first_settings},
    }
    safetensors.torch.save_file(tensors, old, {checkpoints.METADATA_KEY: json.dumps(first)})
    loaded = checkpoints.load(str(old))
    assert (loaded.step, loaded.record, loaded.average_state) == (1, RunRecord(), {})
    resumed, _ = run(plan, tiny_scenes.images, checkpoint=loaded)
    same = [
        torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True)
    ]
    # The average begins anew where it was not kept; what learns does not depend on it.
    assert all(same) == (ema_decay is None)


FIRST_SETTINGS = (
    "steps batch_size learning_rate learning_rate_stages warmup_fraction optimizer momentum"
    " weight_decay clip_gradient_norm regions_per_image train_batch_norm frozen_stages flip"
    " flip_vertical scale_jitter crop crop_smallest rotate_degrees min_visible colour_jitter"
    " hue_jitter blur mosaic seed precision checkpoint_every_steps cache_mb"
)


def test_a_file_of_a_newer_format_and_one_that_is_none_are_refused(tmp_path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    for document, told_ in (
        (
            {"format": 3},
            r"newer version .*checkpoint.safetensors .got format 3, expected at most 2",
        ),
        ({"format": 2, "step": 1}, "Not a training checkpoint"),
        ({"format": "two"}, "Not a training checkpoint"),
        ([], "Not a training checkpoint"),
    ):
        metadata = {checkpoints.METADATA_KEY: json.dumps(document)}
        safetensors.torch.save_file({"network.a": torch.zeros(1)}, path, metadata)
        with pytest.raises(ModelFileError, match=told_):
            checkpoints.load(str(path))


def test_the_scaler_goes_on_where_it_was(tmp_path) -> None:
    layer = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(layer.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**9, growth_interval=7)
    loss = scaler.scale(layer(torch.ones(1, 1)).sum() * torch.inf)
    loss.backward()
    scaler.step(optimizer)
    scaler.update()
    saved = checkpoints.capture(
        3,
        layer,
        optimizer,
        ModelSpec.of(LabelMap(("a", "b"))),
        TrainingConfig(),
        average=None,
        scaler=scaler,
        record=RunRecord(4, 0.5, 1, 2),
    )
    path = str(tmp_path / "checkpoint.safetensors")
    checkpoints.save(path, saved)
    loaded = checkpoints.load(path)
    fresh = torch.amp.GradScaler("cpu")
    checkpoints.restore(loaded, layer, optimizer, fresh)
    assert fresh.state_dict() == scaler.state_dict()
    assert fresh.get_scale() == 2.0**8  # halved by the gradient that overflowed
    assert asdict(loaded.record) == asdict(saved.record)
    assert loaded.record.best_metric == 0.5


def test_the_plan_with_all_settings_survives_json(tiny_scenes) -> None:
    for wishes in RUNS.values():
        plan = plan_for(tiny_scenes, steps=STEPS, **wishes)
        assert TrainingPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
